// Projections whose weights stay in the few bits that the model file has them in (quant_format.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <memory_resource>
#include <vector>

#include "engine/kernels/cpu/aligned.h"
#include "engine/kernels/cpu/cpu_kernels.h"

namespace kvcrush::cpu {

// The 32-element blocks of GGUF that can stay as they are (engine/loader/dequantize.cpp has their layouts).
enum class QuantSource { kQ8_0, kQ4_0, kQ4_1 };
inline constexpr int quant_source_bytes(QuantSource source) {
  return source == QuantSource::kQ8_0 ? 34 : source == QuantSource::kQ4_0 ? 18 : 20;
}

// w [out_features, in_features], packed as quant_format.h says. Parts of different kinds may be stacked.
class QuantizedMatrix {
 public:
  QuantizedMatrix() = default;
  // in_features: a multiple of kQuantHalf. Everything lies in `memory`, which may serve many matrices and
  // gets nothing back from them.
  QuantizedMatrix(std::int64_t in_features, std::shared_ptr<std::pmr::memory_resource> memory);

  // row(i): the blocks of row i < num_rows, called from several threads. Every part but the last has a
  // multiple of kQuantPanel rows.
  void add(QuantSource source, std::int64_t num_rows,
           const std::function<const std::byte*(std::int64_t)>& row);

  // Row `row` in float32, [in_features]: what its groups stand for.
  void read_row(std::int64_t row, float* out) const;
  // The integers of one group of a row, [kQuantGroup]; returns their scale.
  float read_group(std::int64_t row, std::int64_t group, std::int8_t* out) const;

  bool empty() const { return parts_.empty(); }
  std::int64_t out_features() const { return out_features_; }
  std::int64_t in_features() const { return in_features_; }

  struct Part {
    QuantPanels panels;
    std::int64_t first_row = 0;
    std::int64_t num_rows = 0;
    std::int64_t num_panels() const;
  };
  const std::vector<Part>& parts() const { return parts_; }

 private:
  std::int64_t out_features_ = 0;
  std::int64_t in_features_ = 0;
  std::vector<Part> parts_;
  std::shared_ptr<std::pmr::memory_resource> memory_;
};

// What projections reuse from call to call: activations in int8, and a little scratch per thread.
class QuantWorkspace {
 public:
  // x [m, in_features], rows ldx floats apart, in int8.
  QuantRows quantize(const float* x, std::int64_t ldx, int m, std::int64_t in_features);
  std::uint8_t* thread_scratch(std::int64_t num_groups);  // [threads][quant_scratch_bytes(num_groups)]

 private:
  AlignedBytes codes_, scales_, sums_, scratch_;
};

// y [m, out] = x [m, in] w^T, or y += ... when `accumulate`. Rows are ld floats apart.
void quant_gemm(const float* x, std::int64_t ldx, int m, const QuantizedMatrix& w, QuantWorkspace& workspace,
                float* y, std::int64_t ldy, bool accumulate);

}  // namespace kvcrush::cpu
