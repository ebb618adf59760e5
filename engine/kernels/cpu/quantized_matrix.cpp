#include "engine/kernels/cpu/quantized_matrix.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "engine/core/status.h"
#include "engine/kernels/cpu/half.h"
#include "engine/kernels/cpu/quant_fit.h"
#include "engine/kernels/parallel.h"

namespace kvcrush::cpu {

namespace {

std::int64_t ceil_panels(std::int64_t rows) {
  return (rows + kQuantPanel - 1) / kQuantPanel;
}

// Zeros: rows of a tile that no one has filled are computed with, too, and thrown away.
void reserve(AlignedBytes& bytes, std::int64_t size) {
  if (static_cast<std::int64_t>(bytes.size()) < size) bytes.assign(static_cast<std::size_t>(size), 0);
}

// Output feature `o` of one group into its place among the panel's 16.
void place_int8(std::span<const float, kQuantGroup> weights, int o, std::uint8_t* codes,
                std::uint8_t* sides) {
  const Int8Group fit = fit_int8(weights);
  const std::uint16_t scale = f32_to_f16(fit.scale * kScaledCode);
  std::memcpy(sides + 2 * o, &scale, 2);
  for (int g = 0; g < kQuantGroup / 4; ++g) std::memcpy(codes + 64 * g + 4 * o, fit.codes.data() + 4 * g, 4);
}

void place_int4(const CodeGroup& group, int o, std::uint8_t* codes, std::uint8_t* sides) {
  const AffineGroup fit = fit_affine(group);
  const std::uint16_t scale = f32_to_f16(fit.scale * kScaledCode);
  std::memcpy(sides + 2 * o, &scale, 2);
  std::memcpy(sides + QuantPanels::kMultipliers + 2 * o, fit.multipliers.data(), 2);
  std::memcpy(sides + QuantPanels::kOffsets + 2 * o, fit.offsets.data(), 2);
  for (int g = 0; g < kQuantGroup / 8; ++g) {
    const std::int8_t* eight = group[g / 4].codes.data() + g % 4 * 8;
    for (int j = 0; j < 4; ++j) {
      codes[64 * g + 4 * o + j] =
          static_cast<std::uint8_t>((eight[j] + kCodeZero) | (eight[j + 4] + kCodeZero) << 4);
    }
  }
}

std::int64_t num_groups_of(std::int64_t in_features) {
  return (in_features + kQuantGroup - 1) / kQuantGroup;
}

}  // namespace

std::int64_t QuantizedMatrix::Part::num_panels() const {
  return ceil_panels(num_rows);
}

QuantizedMatrix::QuantizedMatrix(std::int64_t in_features, std::shared_ptr<std::pmr::memory_resource> memory)
    : in_features_(in_features), memory_(std::move(memory)) {
  KVCRUSH_CHECK(in_features > 0 && in_features % kQuantHalf == 0);
}

void QuantizedMatrix::add_part(std::int64_t num_rows, bool is_int4, const PlaceRow& place) {
  KVCRUSH_CHECK(num_rows > 0 && out_features_ % kQuantPanel == 0);
  Part& part = parts_.emplace_back();
  part.first_row = out_features_;
  part.num_rows = num_rows;
  part.panels.num_groups = static_cast<std::int32_t>(num_groups_of(in_features_));
  part.panels.is_int4 = is_int4;
  const std::int64_t num_panels = ceil_panels(num_rows);
  const std::int64_t panel_code_bytes = part.panels.num_groups * part.panels.code_bytes();
  const std::int64_t panel_side_bytes = part.panels.num_groups * part.panels.side_bytes();
  const auto allocate = [&](std::int64_t size_bytes) {
    return static_cast<std::uint8_t*>(
        memory_->allocate(static_cast<std::size_t>(size_bytes), kCacheLineBytes));
  };
  std::uint8_t* const codes = allocate(num_panels * panel_code_bytes);
  std::uint8_t* const sides = allocate(num_panels * panel_side_bytes);
  part.panels.codes = codes;
  part.panels.sides = sides;
  out_features_ += num_rows;

  parallel_for(num_panels, [&](std::int64_t p, int) {
    std::uint8_t* panel_codes = codes + p * panel_code_bytes;
    std::uint8_t* panel_sides = sides + p * panel_side_bytes;
    const std::int64_t rows = std::min<std::int64_t>(kQuantPanel, num_rows - p * kQuantPanel);
    if (rows < kQuantPanel) {
      std::memset(panel_codes, 0, static_cast<std::size_t>(panel_code_bytes));
      std::memset(panel_sides, 0, static_cast<std::size_t>(panel_side_bytes));
    }
    for (int o = 0; o < rows; ++o) place(p * kQuantPanel + o, o, panel_codes, panel_sides);
  });
}

void QuantizedMatrix::add_int4(std::int64_t num_rows, const ReadCodes& read) {
  const QuantPanels kind{.is_int4 = true};
  add_part(num_rows, true, [&](std::int64_t row, int o, std::uint8_t* codes, std::uint8_t* sides) {
    const std::int64_t num_groups = num_groups_of(in_features_);
    // A half that is not there stays zeros.
    thread_local std::vector<CodeGroup> groups;
    groups.assign(static_cast<std::size_t>(num_groups), CodeGroup{});
    read(row, std::span(groups.front().data(), static_cast<std::size_t>(in_features_ / kQuantHalf)));
    for (std::int64_t g = 0; g < num_groups; ++g) {
      place_int4(groups[static_cast<std::size_t>(g)], o, codes + g * kind.code_bytes(),
                 sides + g * kind.side_bytes());
    }
  });
}

void QuantizedMatrix::add_int8(std::int64_t num_rows, const ReadFloats& read) {
  const QuantPanels kind{};
  add_part(num_rows, false, [&](std::int64_t row, int o, std::uint8_t* codes, std::uint8_t* sides) {
    const std::int64_t num_groups = num_groups_of(in_features_);
    thread_local std::vector<float> values;
    values.assign(static_cast<std::size_t>(num_groups * kQuantGroup), 0.0f);
    read(row, std::span(values).first(static_cast<std::size_t>(in_features_)));
    for (std::int64_t g = 0; g < num_groups; ++g) {
      const std::span<const float> group =
          std::span(values).subspan(static_cast<std::size_t>(g * kQuantGroup));
      place_int8(group.first<kQuantGroup>(), o, codes + g * kind.code_bytes(), sides + g * kind.side_bytes());
    }
  });
}

float QuantizedMatrix::read_group(std::int64_t row, std::int64_t group, std::int8_t* out) const {
  auto part = parts_.begin();
  while (row >= part->first_row + part->num_rows) ++part;
  const QuantPanels& w = part->panels;
  const std::int64_t at = (row - part->first_row) / kQuantPanel * w.num_groups + group;
  const auto o = static_cast<int>((row - part->first_row) % kQuantPanel);
  const std::uint8_t* codes = w.codes + at * w.code_bytes();
  const std::uint8_t* sides = w.sides + at * w.side_bytes();
  for (int i = 0; i < kQuantGroup; ++i) {
    if (!w.is_int4) {
      out[i] = static_cast<std::int8_t>(codes[i / 4 * 64 + 4 * o + i % 4]);
      continue;
    }
    const std::uint8_t pair = codes[i / 8 * 64 + 4 * o + i % 4];
    const std::uint8_t* side = sides + 2 * o + i / kQuantHalf;
    const int code = (i % 8 < 4 ? pair & 15 : pair >> 4) - kCodeZero;
    out[i] = static_cast<std::int8_t>(static_cast<std::int8_t>(side[QuantPanels::kMultipliers]) * code +
                                      static_cast<std::int8_t>(side[QuantPanels::kOffsets]));
  }
  std::uint16_t scale = 0;
  std::memcpy(&scale, sides + 2 * o, 2);
  return f16_to_f32(scale) / kScaledCode;
}

void QuantizedMatrix::read_row(std::int64_t row, float* out) const {
  std::array<std::int8_t, kQuantGroup> codes;
  for (std::int64_t i = 0; i < in_features_; i += kQuantGroup) {
    const float scale = read_group(row, i / kQuantGroup, codes.data());
    const std::int64_t count = std::min<std::int64_t>(kQuantGroup, in_features_ - i);
    for (std::int64_t j = 0; j < count; ++j)
      out[i + j] = scale * static_cast<float>(codes[static_cast<std::size_t>(j)]);
  }
}

QuantRows QuantWorkspace::quantize(const float* x, std::int64_t ldx, int m, std::int64_t in_features) {
  const std::int64_t num_groups = num_groups_of(in_features);
  const std::int64_t tiles = ceil_panels(m);
  const std::int64_t group_rows = tiles * num_groups * kQuantPanel;
  reserve(codes_, group_rows * kQuantGroup);
  reserve(scales_, group_rows * 4);
  reserve(sums_, group_rows * static_cast<std::int64_t>(sizeof(CodeSums)));
  const QuantRows rows{.codes = reinterpret_cast<std::int8_t*>(codes_.data()),
                       .scales = reinterpret_cast<float*>(scales_.data()),
                       .sums = reinterpret_cast<CodeSums*>(sums_.data()),
                       .num_groups = static_cast<std::int32_t>(num_groups),
                       .in_features = static_cast<std::int32_t>(in_features)};
  parallel_for(tiles, [&](std::int64_t tile, int) {
    const int last = std::min(m, static_cast<int>(tile + 1) * kQuantPanel);
    for (int r = static_cast<int>(tile) * kQuantPanel; r < last; ++r)
      cpu_kernels().quantize_row(x + r * ldx, r, rows);
  });
  return rows;
}

std::uint8_t* QuantWorkspace::thread_scratch(std::int64_t num_groups) {
  reserve(scratch_, quant_scratch_bytes(num_groups) * num_kernel_threads());
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
  std::uint8_t* const scratch = workspace.thread_scratch(rows.num_groups);
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
                           scratch + thread * quant_scratch_bytes(rows.num_groups), y + part->first_row, ldy,
                           accumulate);
    }
  });
}

}  // namespace kvcrush::cpu
