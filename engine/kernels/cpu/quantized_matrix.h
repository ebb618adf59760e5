// Projections whose weights stay in 4 or 8 bits (quant_format.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <memory_resource>
#include <span>
#include <vector>

#include "engine/kernels/cpu/aligned.h"
#include "engine/kernels/cpu/cpu_kernels.h"
#include "engine/kernels/cpu/quant_fit.h"

namespace kvcrush::cpu {

// w [out_features, in_features], packed as quant_format.h says. Parts of different kinds may be stacked.
class QuantizedMatrix {
 public:
  QuantizedMatrix() = default;
  // in_features: a multiple of kQuantHalf. Everything lies in `memory`, which may serve many matrices and
  // gets nothing back from them.
  QuantizedMatrix(std::int64_t in_features, std::shared_ptr<std::pmr::memory_resource> memory);

  // More output features, in 4 bits (read: [in_features / kQuantHalf] blocks of a row) or in 8 (read:
  // [in_features] values, which are rounded). Readers are called from several threads. Every part but the
  // last has a multiple of kQuantPanel rows.
  using ReadCodes = std::function<void(std::int64_t row, std::span<CodeBlock> blocks)>;
  using ReadFloats = std::function<void(std::int64_t row, std::span<float> values)>;
  void add_int4(std::int64_t num_rows, const ReadCodes& read);
  void add_int8(std::int64_t num_rows, const ReadFloats& read);

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
  // Makes room for a part and fills it: place(row, o, codes, sides), o: the row's place in its panel.
  using PlaceRow = std::function<void(std::int64_t row, int o, std::uint8_t* codes, std::uint8_t* sides)>;
  void add_part(std::int64_t num_rows, bool is_int4, const PlaceRow& place);

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
