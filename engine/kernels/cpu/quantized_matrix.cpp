#include "engine/kernels/cpu/quantized_matrix.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <new>

#include "engine/core/status.h"
#include "engine/kernels/cpu/half.h"
#include "engine/kernels/parallel.h"

namespace kvcrush::cpu {

namespace {

constexpr std::size_t kLine = 64;

std::int64_t ceil_panels(std::int64_t rows) {
  return (rows + kQuantPanel - 1) / kQuantPanel;
}

// Grows without keeping the content. Zeros: rows of a tile that no one fills are computed with, and thrown
// away; what lay there before may be numbers that are slow to compute with.
void reserve(AlignedBytes& bytes, std::int64_t size) {
  if (bytes.size() >= static_cast<std::size_t>(size)) return;
  bytes = AlignedBytes(static_cast<std::size_t>(size));
  std::memset(bytes.data(), 0, bytes.size());
}

// Element i of a block as a code: 0..15 of a nibble, or the int8.
std::uint8_t code_of(QuantSource source, const std::uint8_t* block, int i) {
  if (source == QuantSource::kQ8_0) return block[2 + i];
  const std::uint8_t pair = block[(source == QuantSource::kQ4_0 ? 2 : 4) + i % 16];
  return i < 16 ? pair & 15 : pair >> 4;
}

// Output feature `o` of one block into its place among the panel's 16.
void place_codes(QuantSource source, const std::uint8_t* block, int o, std::uint8_t* codes) {
  if (source == QuantSource::kQ8_0) {
    for (int g = 0; g < 8; ++g) std::memcpy(codes + 64 * g + 4 * o, block + 2 + 4 * g, 4);
    return;
  }
  for (int g = 0; g < 4; ++g) {
    for (int j = 0; j < 4; ++j) {
      codes[64 * g + 4 * o + j] = static_cast<std::uint8_t>(code_of(source, block, 8 * g + j) |
                                                            code_of(source, block, 8 * g + 4 + j) << 4);
    }
  }
}

}  // namespace

AlignedBytes::AlignedBytes(std::size_t size) : size_((size + kLine - 1) / kLine * kLine) {
  if (size_ == 0) return;
  data_.reset(static_cast<std::uint8_t*>(std::aligned_alloc(kLine, size_)));
  if (data_ == nullptr) throw std::bad_alloc();
}
void AlignedBytes::Free::operator()(std::uint8_t* p) const {
  std::free(p);
}

std::int64_t QuantizedMatrix::Part::num_panels() const {
  return ceil_panels(num_rows);
}

QuantizedMatrix::QuantizedMatrix(std::int64_t in_features, std::shared_ptr<std::pmr::memory_resource> memory)
    : in_features_(in_features), memory_(std::move(memory)) {
  KVCRUSH_CHECK(in_features > 0 && in_features % kQuantBlock == 0);
}

void QuantizedMatrix::add(QuantSource source, std::int64_t num_rows,
                          const std::function<const std::byte*(std::int64_t)>& row) {
  KVCRUSH_CHECK(num_rows > 0 && out_features_ % kQuantPanel == 0);
  Part& part = parts_.emplace_back();
  part.first_row = out_features_;
  part.num_rows = num_rows;
  part.panels.num_blocks = static_cast<std::int32_t>(in_features_ / kQuantBlock);
  part.panels.is_int4 = source != QuantSource::kQ8_0;
  part.panels.has_minima = source == QuantSource::kQ4_1;
  part.panels.zero_point = source == QuantSource::kQ4_0 ? 8 : 0;
  const std::int64_t num_blocks = part.panels.num_blocks;
  const std::int64_t num_panels = ceil_panels(num_rows);
  const std::int64_t code_bytes = part.panels.code_bytes();
  const std::int64_t scales_per_block = part.panels.scales_per_block();
  const auto allocate = [&](std::int64_t size_bytes) {
    return memory_->allocate(static_cast<std::size_t>(size_bytes), kLine);
  };
  auto* const codes = static_cast<std::uint8_t*>(allocate(num_panels * num_blocks * code_bytes));
  auto* const scales = static_cast<std::uint16_t*>(allocate(num_panels * num_blocks * scales_per_block * 2));
  part.panels.codes = codes;
  part.panels.scales = scales;
  out_features_ += num_rows;

  parallel_for(num_panels, [&](std::int64_t p, int) {
    std::uint8_t* panel_codes = codes + p * num_blocks * code_bytes;
    std::uint16_t* panel_scales = scales + p * num_blocks * scales_per_block;
    const std::int64_t rows = std::min<std::int64_t>(kQuantPanel, num_rows - p * kQuantPanel);
    if (rows < kQuantPanel) {
      std::memset(panel_codes, 0, static_cast<std::size_t>(num_blocks * code_bytes));
      std::memset(panel_scales, 0, static_cast<std::size_t>(num_blocks * scales_per_block) * 2);
    }
    for (int o = 0; o < rows; ++o) {
      const auto* block = reinterpret_cast<const std::uint8_t*>(row(p * kQuantPanel + o));
      for (std::int64_t b = 0; b < num_blocks; ++b, block += quant_source_bytes(source)) {
        place_codes(source, block, o, panel_codes + b * code_bytes);
        std::uint16_t* at = panel_scales + b * scales_per_block + o;
        std::memcpy(at, block, 2);
        if (source == QuantSource::kQ4_1) std::memcpy(at + kQuantPanel, block + 2, 2);
      }
    }
  });
}

void QuantizedMatrix::read_row(std::int64_t row, float* out) const {
  auto part = parts_.begin();
  while (row >= part->first_row + part->num_rows) ++part;
  const QuantPanels& w = part->panels;
  const std::int64_t panel = (row - part->first_row) / kQuantPanel;
  const auto o = static_cast<int>((row - part->first_row) % kQuantPanel);
  for (int b = 0; b < w.num_blocks; ++b, out += kQuantBlock) {
    const std::int64_t block = panel * w.num_blocks + b;
    const std::uint8_t* codes = w.codes + block * w.code_bytes();
    const std::uint16_t* scales = w.scales + block * w.scales_per_block() + o;
    const float d = f16_to_f32(scales[0]);
    const float m = w.has_minima ? f16_to_f32(scales[kQuantPanel]) : 0.0f;
    for (int i = 0; i < kQuantBlock; ++i) {
      const std::uint8_t byte =
          w.is_int4 ? codes[i / 8 * 64 + 4 * o + i % 4] : codes[i / 4 * 64 + 4 * o + i % 4];
      const int q =
          !w.is_int4 ? static_cast<std::int8_t>(byte) : (i % 8 < 4 ? byte & 15 : byte >> 4) - w.zero_point;
      out[i] = w.has_minima ? d * static_cast<float>(q) + m : d * static_cast<float>(q);
    }
  }
}

QuantRows QuantWorkspace::quantize(const float* x, std::int64_t ldx, int m, std::int64_t in_features) {
  const std::int64_t num_blocks = in_features / kQuantBlock;
  const std::int64_t tiles = ceil_panels(m);
  const std::int64_t block_rows = tiles * num_blocks * kQuantPanel;
  reserve(codes_, block_rows * kQuantBlock);
  reserve(scales_, block_rows * 4);
  reserve(sums_, block_rows * 4);
  reserve(code_sums_, block_rows * 4);
  const QuantRows rows{.codes = reinterpret_cast<std::int8_t*>(codes_.data()),
                       .scales = reinterpret_cast<float*>(scales_.data()),
                       .sums = reinterpret_cast<float*>(sums_.data()),
                       .code_sums = reinterpret_cast<std::int32_t*>(code_sums_.data()),
                       .num_blocks = static_cast<std::int32_t>(num_blocks)};
  parallel_for(tiles, [&](std::int64_t tile, int) {
    const int last = std::min(m, static_cast<int>(tile + 1) * kQuantPanel);
    for (int r = static_cast<int>(tile) * kQuantPanel; r < last; ++r)
      cpu_kernels().quantize_row(x + r * ldx, r, rows);
  });
  return rows;
}

std::uint8_t* QuantWorkspace::thread_scratch(std::int64_t num_blocks) {
  reserve(scratch_, quant_scratch_bytes(num_blocks) * num_kernel_threads());
  return scratch_.data();
}

namespace {

// Panels of a unit of work. With few rows time goes into reading weights: long stretches, so that little of
// what a thread asks for ahead is another thread's.
std::int64_t unit_panels(const QuantizedMatrix& w, int m) {
  constexpr int kFewRows = 16;
  constexpr std::int64_t kUnitsPerThread = 2;
  if (m > kFewRows) return kPanelsInHand;
  const std::int64_t units = kUnitsPerThread * num_kernel_threads();
  return std::max(kPanelsInHand, (ceil_panels(w.out_features()) + units - 1) / units);
}

}  // namespace

void quant_gemm(const float* x, std::int64_t ldx, int m, const QuantizedMatrix& w, QuantWorkspace& workspace,
                float* y, std::int64_t ldy, bool accumulate) {
  const KernelTable& kernels = cpu_kernels();
  const QuantRows rows = workspace.quantize(x, ldx, m, w.in_features());
  std::uint8_t* const scratch = workspace.thread_scratch(rows.num_blocks);
  const std::int64_t panels_per_unit = unit_panels(w, m);
  const auto units_of = [&](const QuantizedMatrix::Part& part) {
    return (part.num_panels() + panels_per_unit - 1) / panels_per_unit;
  };
  std::int64_t num_units = 0;
  for (const QuantizedMatrix::Part& part : w.parts()) num_units += units_of(part);
  // One parallel region for all parts: a small one would leave a thread idle at its end.
  parallel_for(num_units, [&](std::int64_t unit, int thread) {
    auto part = w.parts().begin();
    for (; unit >= units_of(*part); ++part) unit -= units_of(*part);
    const std::int64_t first = unit * panels_per_unit;
    const std::int64_t last = std::min(first + panels_per_unit, part->num_panels());
    for (std::int64_t p = first; p < last; p += kPanelsInHand) {
      kernels.quant_panels(part->panels, p, std::min(p + kPanelsInHand, last), rows, m, part->num_rows,
                           scratch + thread * quant_scratch_bytes(rows.num_blocks), y + part->first_row, ldy,
                           accumulate);
    }
  });
}

}  // namespace kvcrush::cpu
