// How quantised weights and the activations they meet lie in memory (docs/adr/0013-int8-arithmetic.md).
//
// A projection w [out_features, in_features] is cut into panels of 16 output features and blocks of 32 input
// features, the blocks of the GGUF types. A block holds integers q and, per output feature, a float16 scale d
// and perhaps a minimum m: w = d (q - zero_point) + m. Activations are quantised on the way in, 32 at a time,
// to int8 with a float32 scale. A block's products are summed in int32, which is exact in any order; blocks
// then add up in float32 in ascending order. So every kernel, whatever its instruction set and however many
// rows it takes at a time, gives the same bits.
//
//   int8 codes of a block  [8][16][4]: input features 4 g .. 4 g + 3 of 16 output features; signed
//   int4 codes of a block  [4][16][4]: low nibbles are input features 8 g .. 8 g + 3, high ones the next four
#pragma once

#include <cstdint>

namespace kvcrush::cpu {

inline constexpr int kQuantPanel = 16;  // output features of a panel, rows of an activation tile
inline constexpr int kQuantBlock = 32;  // input features of a block

// Consecutive panels of one kind.
struct QuantPanels {
  const std::uint8_t* codes = nullptr;    // [panels][num_blocks][code_bytes()]
  const std::uint16_t* scales = nullptr;  // [panels][num_blocks][scales_per_block()] float16: d, then m
  std::int32_t num_blocks = 0;            // along the input features
  bool is_int4 = false;
  bool has_minima = false;
  std::int8_t zero_point = 0;  // of int4 codes: 0 or 8

  int code_bytes() const { return kQuantPanel * kQuantBlock / (is_int4 ? 2 : 1); }
  int scales_per_block() const { return has_minima ? 2 * kQuantPanel : kQuantPanel; }
};

// Activations in int8: tiles of 16 rows. x = scale * code. A row with a value that is not finite has NaN
// scales.
struct QuantRows {
  std::int8_t* codes = nullptr;       // [tiles][num_blocks][16][32]
  float* scales = nullptr;            // [tiles][num_blocks][16]
  float* sums = nullptr;              // [tiles][num_blocks][16]: scale * sum of codes
  std::int32_t* code_sums = nullptr;  // [tiles][num_blocks][16]
  std::int32_t num_blocks = 0;
};

}  // namespace kvcrush::cpu
