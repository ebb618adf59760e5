// Blocks of a model file as the groups of quant_format.h: one scale for two blocks of 32 weights.
#pragma once

#include <array>
#include <cstdint>

#include "engine/kernels/cpu/quant_format.h"

namespace kvcrush::cpu {

// 32 weights as a model file has them: d * code + m.
struct CodeBlock {
  float d = 0.0f;
  float m = 0.0f;
  std::array<std::int8_t, kQuantHalf> codes = {};  // of 4-bit weights less kCodeZero
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

// A group of int8 weights (m: 0) under one scale, rounded once more where the blocks' scales differ.
struct Int8Group {
  float scale = 0.0f;
  std::array<std::int8_t, kQuantGroup> codes = {};
};
Int8Group fit_int8(const CodeGroup& group);

}  // namespace kvcrush::cpu
