// How quantised weights and the activations they meet lie in memory (docs/adr/0013-int8-arithmetic.md).
//
// A projection w [out_features, in_features] is cut into panels of 16 output features and groups of 64 input
// features. A weight is an int8 times its group's scale. Where the model file has 4 bits, the codes q stay:
// each half of a group, 32 inputs like the blocks of the GGUF types, has small integers a and c, and the int8
// is a (q - 8) + c. Activations are quantised on the way in, 64 at a time, to int8 with a float32 scale. A
// group's products are summed in int32, which is exact in any order; groups then add up in float32 in
// ascending order. So every kernel, whatever its instruction set and however many rows it takes at a time,
// gives the same bits.
//
//   int8 codes of a group  [16][16][4]: input features 4 g .. 4 g + 3 of 16 output features; signed
//   int4 codes of a group  [8][16][4]: low nibbles are input features 8 g .. 8 g + 3, high ones the next four
#pragma once

#include <cstdint>

namespace kvcrush::cpu {

inline constexpr int kQuantPanel = 16;  // output features of a panel, rows of an activation tile
inline constexpr int kQuantGroup = 64;  // input features that share a scale
inline constexpr int kQuantHalf = kQuantGroup / 2;
inline constexpr int kCodeZero = 8;  // the 4-bit code that stands for 0
inline constexpr float kScaledCode =
    128.0f;  // stored scales are those of this int8: float16 is exact enough there

// Consecutive panels of one kind.
struct QuantPanels {
  const std::uint8_t* codes = nullptr;  // [panels][num_groups][code_bytes()]
  const std::uint8_t* sides = nullptr;  // [panels][num_groups][side_bytes()]: float16 scales [16]; of 4-bit
                                        // codes then int8 multipliers a [16][2] and offsets c [16][2]
  std::int32_t num_groups = 0;          // along the input features
  bool is_int4 = false;

  int code_bytes() const { return kQuantPanel * kQuantGroup / (is_int4 ? 2 : 1); }
  int side_bytes() const { return is_int4 ? kMultipliers + 4 * kQuantPanel : kMultipliers; }
  static constexpr int kMultipliers = 2 * kQuantPanel;             // where they start
  static constexpr int kOffsets = kMultipliers + 2 * kQuantPanel;  // where they start
};

// Sums of a group's activation codes, as dot products want them.
struct CodeSums {
  std::int32_t halves;     // of either half, as two int16
  std::int32_t start4[2];  // where the sum of a half starts, so that 4-bit codes count from kCodeZero
  std::int32_t start8;     // where the sum of a group starts, so that int8 codes plus 128 count from 128
};

// Activations in int8: tiles of 16 rows. x = scale * kScaledCode * code. A row with a value that is not
// finite has NaN scales. Where in_features ends inside a group, the codes after it are zeros.
struct QuantRows {
  std::int8_t* codes = nullptr;  // [tiles][num_groups][16][64]
  float* scales = nullptr;       // [tiles][num_groups][16]
  CodeSums* sums = nullptr;      // [tiles][num_groups][16]
  std::int32_t num_groups = 0;
  std::int32_t in_features = 0;  // a multiple of kQuantHalf
};

}  // namespace kvcrush::cpu
