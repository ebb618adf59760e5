// Weights of a model file as the groups of quant_format.h, 64 under one scale.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "engine/kernels/cpu/quant_format.h"

namespace kvcrush::cpu {

// 32 weights in 4 bits: d * code + m.
struct CodeBlock {
  float d = 0.0f;
  float m = 0.0f;
  std::array<std::int8_t, kQuantHalf> codes = {};  // [-8, 7]
};
using CodeGroup = std::array<CodeBlock, 2>;

// scale * (multipliers[h] * code + offsets[h]), where the integer fits into an int8 for every code of half h.
// NaN scales: a weight is not finite.
struct AffineGroup {
  float scale = 0.0f;
  std::array<std::int8_t, 2> multipliers = {};
  std::array<std::int8_t, 2> offsets = {};
};

// The least squared error over a few scales: those under which the block of larger steps keeps its own, each
// then moved to its optimum.
AffineGroup fit_affine(const CodeGroup& group);

// The nearest int8 to each weight under the smallest scale that they fit.
struct Int8Group {
  float scale = 0.0f;
  std::array<std::int8_t, kQuantGroup> codes = {};
};
Int8Group fit_int8(std::span<const float, kQuantGroup> weights);

}  // namespace kvcrush::cpu
