// Staged units as operands of tensor cores, widened in registers. A unit's tokens are cut into M-tiles of 16;
// lane (r, q) = (lane / 4, lane % 4) has tokens r and r + 8 of each as rows of K, and of V the channels that
// follow from r for the tokens of rows 2q, 2q + 1, 2q + 8 and 2q + 9.
//
//   dtype   M-tiles   row r of M-tile m                     row r + 8
//   f16        1      token r                               token r + 8
//   int8       2      tile r / 4, token 4 (r % 4) + 2m      the next token
//   int4       4      tile r / 2, token 4 (r % 2) + m       half a tile further
//
// Channel order is free in a dot product: k-step s takes 16s + q, + 4, + 8, + 12 from lane q, for K as for
// queries. Of V, lane r has channels j and j + head_dim / 2 for head_dim / 16 neighbouring j from r *
// head_dim / 16 on. Codes are centred, scales and minima are left to the caller: they belong to tokens, hence
// to scores.
#pragma once

#include "engine/kernels/cuda/decode_units.cuh"

namespace kvcrush::cuda {

template <KvDtype kDtype>
inline constexpr int kMTiles = unit_tiles(kDtype);

// What a lane's rows of M-tile m are, within their tile of the unit.
template <KvDtype kDtype>
__device__ __forceinline__ int tile_of_row(int r) {
  return kDtype == KvDtype::kInt4 ? r / 2 : kDtype == KvDtype::kInt8 ? r / 4 : 0;
}
template <KvDtype kDtype>
__device__ __forceinline__ int token_of_row(int r, int m, bool upper, int width) {
  if constexpr (kDtype == KvDtype::kInt4) return r % 2 * 4 + m + (upper ? width / 2 : 0);
  if constexpr (kDtype == KvDtype::kInt8) return r % 4 * 4 + 2 * m + (upper ? 1 : 0);
  return r + (upper ? 8 : 0);
}

// Whether a lane's rows are tokens at all: a tile of half the width has half the words.
template <KvDtype kDtype>
__device__ __forceinline__ bool has_rows(int r, int width) {
  constexpr int kLaneRows = 8 / unit_tiles(kDtype);  // words of a tile
  return width == cpu::kTileTokens || r % kLaneRows < kLaneRows / 2;
}

// Codes at one place of two rows a and b, as the float16 pair (a, b). The bits of a code alone are a tiny
// float16: a subnormal, exact, for which a tensor core takes no longer. What it is short of goes into scales.
//
// int4: byte i's low nibbles at [i][0], 2^-24 of the code each, high ones at [i][1], 2^-20.
struct NibblePairs {
  unsigned at[4][2];
};
__device__ __forceinline__ NibblePairs unpack_nibbles(unsigned a, unsigned b) {
  NibblePairs out;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const unsigned both = __byte_perm(a, b, i < 2 ? 0x5410 : 0x7632) >> (i % 2 * 8);
    out.at[i][0] = both & 0x000f000fU;
    out.at[i][1] = both & 0x00f000f0U;
  }
  return out;
}
// int8: 2^-24 of the code.
struct BytePairs {
  unsigned at[4];
};
__device__ __forceinline__ BytePairs unpack_bytes(unsigned a, unsigned b) {
  const unsigned low = __byte_perm(a, b, 0x5410);
  const unsigned high = __byte_perm(a, b, 0x7632);
  return {{low & 0x00ff00ffU, low >> 8 & 0x00ff00ffU, high & 0x00ff00ffU, high >> 8 & 0x00ff00ffU}};
}
// Of rows r (upper false) and r + 8 of K's M-tiles, and of V's, which are channels j and j + head_dim / 2.
template <KvDtype kDtype>
__device__ __forceinline__ constexpr float code_unit(bool upper) {
  return kDtype == KvDtype::kInt4 && upper ? 1.0F / (1 << 20) : 1.0F / (1 << 24);
}

__device__ __forceinline__ unsigned word_at(const std::byte* address) {
  return *reinterpret_cast<const unsigned*>(address);
}
template <int kWords>
__device__ __forceinline__ void load_words(const std::byte* from, unsigned* to) {
  if constexpr (kWords % 4 == 0) {
    for (int i = 0; i < kWords; i += 4) {
      const uint4 four = *reinterpret_cast<const uint4*>(from + i * 4);
      to[i] = four.x, to[i + 1] = four.y, to[i + 2] = four.z, to[i + 3] = four.w;
    }
  } else if constexpr (kWords % 2 == 0) {
    for (int i = 0; i < kWords; i += 2) {
      const uint2 two = *reinterpret_cast<const uint2*>(from + i * 4);
      to[i] = two.x, to[i + 1] = two.y;
    }
  } else {
    for (int i = 0; i < kWords; ++i) to[i] = word_at(from + i * 4);
  }
}

// Calls use(m, a) with the rows of K of every M-tile m for k-step s. row_bytes: of a channel in this lane's
// tile.
template <int kHeadDim, KvDtype kDtype, class Use>
__device__ __forceinline__ void with_keys(const std::byte* unit, int s, int row_bytes, int lane,
                                          const Use& use) {
  const int r = lane / 4;
  const int q = lane % 4;
  if constexpr (kDtype == KvDtype::kF16) {
    const int row = lane % 8;  // of matrix lane / 8: lower, upper tokens, then both of channels 8 further
    const int d = lane / 16 * 8 + row / 2 + row % 2 * 4;
    unsigned a[4];
    load_matrices_transposed(a, unit + staged_key_byte(d, lane / 8 % 2) + 16 * s * 32);
    use(0, a);
    return;
  } else {
    const std::byte* keys = unit + tile_of_row<kDtype>(r) * staged_tile_bytes(kDtype, kHeadDim) +
                            r % (8 / unit_tiles(kDtype)) * 4 + (16 * s + q) * row_bytes;
    unsigned w[4];
    for (int i = 0; i < 4; ++i) w[i] = word_at(keys + 4 * i * row_bytes);
    if constexpr (kDtype == KvDtype::kInt4) {
      const NibblePairs low = unpack_nibbles(w[0], w[1]);
      const NibblePairs high = unpack_nibbles(w[2], w[3]);
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        const unsigned a[4] = {low.at[m][0], low.at[m][1], high.at[m][0], high.at[m][1]};
        use(m, a);
      }
    } else {
      const BytePairs low = unpack_bytes(w[0], w[1]);
      const BytePairs high = unpack_bytes(w[2], w[3]);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const unsigned a[4] = {low.at[2 * m], low.at[2 * m + 1], high.at[2 * m], high.at[2 * m + 1]};
        use(m, a);
      }
    }
  }
}

// Calls use(j, a) for each j with V^T of M-tile m: rows are channels j and j + head_dim / 2. tokens: of rows
// 2q, 2q + 1, 2q + 8, 2q + 9, in tile `tile` of the unit.
template <int kHeadDim, KvDtype kDtype, class Use>
__device__ __forceinline__ void with_values(const std::byte* unit, int tile, const int (&tokens)[4], int lane,
                                            const Use& use) {
  constexpr int kChannels = kHeadDim / 16;
  const int r = lane / 4;
  if constexpr (kDtype == KvDtype::kF16) {
    constexpr int kWords = kHeadDim == 128 ? 4 : 2;  // of one load
    // Tokens are 2q, 2q + 1, 2q + 8 and 2q + 9: their rows are shuffled alike.
    const int byte = r * kChannels * 2;
    const std::byte* row = unit + staged_value_byte<kHeadDim>(tokens[0], 0, byte / 16) + byte % 16;
#pragma unroll
    for (int first = 0; first < kChannels; first += 2 * kWords) {
      unsigned w[4][2][kWords];
#pragma unroll
      for (int t = 0; t < 4; ++t) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          load_words<kWords>(
              row + (t % 2 + t / 2 * 8) * kHeadDim + half * kHeadDim * cpu::kTileTokens + first * 2,
              w[t][half]);
        }
      }
#pragma unroll
      for (int j = 0; j < 2 * kWords; ++j) {
        const unsigned selector = j % 2 == 0 ? 0x5410 : 0x7632;
        const auto pair = [&](int t, int half) {
          return __byte_perm(w[t][half][j / 2], w[t + 1][half][j / 2], selector);
        };
        const unsigned a[4] = {pair(0, 0), pair(0, 1), pair(2, 0), pair(2, 1)};
        use(first + j, a);
      }
    }
  } else if constexpr (kDtype == KvDtype::kInt4) {
    constexpr int kWords = kChannels / 4;
    const std::byte* values = unit + tile * staged_tile_bytes(kDtype, kHeadDim) +
                              PackedTiles<kHeadDim, kDtype>::kCodeBytes + r * kChannels;
    unsigned w[4][kWords];
#pragma unroll
    for (int t = 0; t < 4; ++t) load_words<kWords>(values + tokens[t] * kHeadDim / 2, w[t]);
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const NibblePairs first = unpack_nibbles(w[0][i], w[1][i]);
      const NibblePairs second = unpack_nibbles(w[2][i], w[3][i]);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const unsigned a[4] = {first.at[j][0], first.at[j][1], second.at[j][0], second.at[j][1]};
        use(4 * i + j, a);
      }
    }
  } else {
    constexpr int kWords = kChannels / 4;
    const std::byte* values = unit + tile * staged_tile_bytes(kDtype, kHeadDim) +
                              PackedTiles<kHeadDim, kDtype>::kCodeBytes + r * kChannels;
    unsigned w[4][2][kWords];
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      load_words<kWords>(values + tokens[t] * kHeadDim, w[t][0]);
      load_words<kWords>(values + tokens[t] * kHeadDim + kHeadDim / 2, w[t][1]);
    }
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      BytePairs pairs[2][2];  // [tokens' pair][half of the channels]
      for (int half = 0; half < 2; ++half) {
        pairs[0][half] = unpack_bytes(w[0][half][i], w[1][half][i]);
        pairs[1][half] = unpack_bytes(w[2][half][i], w[3][half][i]);
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const unsigned a[4] = {pairs[0][0].at[j], pairs[0][1].at[j], pairs[1][0].at[j], pairs[1][1].at[j]};
        use(4 * i + j, a);
      }
    }
  }
}

}  // namespace kvcrush::cuda
