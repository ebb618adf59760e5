// Tiles of the paged cache in shared memory, as float16, whatever they are stored in: K [head_dim][16
// tokens], V [16 tokens][head_dim], rows padded so that ldmatrix meets no bank twice. Float16 tiles are
// copied asynchronously to where they are read; others to a raw buffer first, from which they are widened.
#pragma once

#include "engine/kernels/cuda/attention_shape.h"
#include "engine/kernels/cuda/device.cuh"

namespace kvcrush::cuda {

using cpu::KvPool;
using cpu::KvTile;

struct TileBuffer {
  F16* keys;
  F16* values;
  std::byte* raw;
};

// Threads that load a tile together: `count` of them, this one being `index`.
struct Crew {
  int index;
  int count;
};

// Runs copy(piece, i) for the 16-byte pieces of `bytes`, this thread's share of them.
template <class Copy>
__device__ __forceinline__ void for_pieces(const Crew& crew, int bytes, const Copy& copy) {
  for (int i = crew.index; i < bytes / 16; i += crew.count) copy(i);
}

__device__ __forceinline__ void copy_plain(const Crew& crew, std::byte* target, const void* source,
                                           int bytes) {
  const auto* from = static_cast<const std::byte*>(source);
  for_pieces(crew, bytes, [&](int i) { copy_async_16(target + 16 * i, from + 16 * i, true); });
}

// Starts the copies of one tile; the caller commits them. V rows from num_valid on become zeros: attention
// gives them no weight, but no weight times NaN is NaN.
template <int kHeadDim>
__device__ void start_tile(const Crew& crew, const KvTile& tile, std::byte* head, int num_valid,
                           const TileBuffer& to) {
  if (tile.dtype == KvDtype::kF16) {
    const auto* keys = reinterpret_cast<const F16*>(head) + tile.offset * kHeadDim;
    for_pieces(crew, kHeadDim * kTileTokens * 2,
               [&](int i) { copy_async_16(to.keys + i / 2 * kKeyStride + i % 2 * 8, keys + i * 8, true); });
    const auto* values =
        reinterpret_cast<const F16*>(head) + (tile.tokens_per_block + tile.offset) * kHeadDim;
    constexpr int kPiecesPerRow = kHeadDim / 8;
    for_pieces(crew, kHeadDim * kTileTokens * 2, [&](int i) {
      const int token = i / kPiecesPerRow;
      copy_async_16(to.values + token * value_stride(kHeadDim) + i % kPiecesPerRow * 8, values + i * 8,
                    token < num_valid);
    });
    return;
  }
  const int width = cpu::tile_width(tile.tokens_per_block, tile.offset);
  if (!is_quantised(tile.dtype)) {
    const auto size = static_cast<int>(cpu::element_bytes(tile.dtype));
    const std::byte* keys = head + tile.offset * kHeadDim * size;
    const int bytes = kTileTokens * kHeadDim * size;
    copy_plain(crew, to.raw, keys, bytes);
    copy_plain(crew, to.raw + bytes, keys + tile.tokens_per_block * kHeadDim * size, bytes);
    return;
  }
  const cpu::QuantisedHead q = cpu::quantised_head(head, tile.dtype, tile.tokens_per_block, kHeadDim);
  const int bytes = width * kHeadDim * cpu::code_bits(tile.dtype) / 8;
  const int skip = tile.offset * kHeadDim * cpu::code_bits(tile.dtype) / 8;
  copy_plain(crew, to.raw, q.keys + skip, bytes);
  copy_plain(crew, to.raw + bytes, q.values + skip, bytes);
  const std::uint16_t* const scales[4] = {q.key_scales, q.key_minima, q.value_scales, q.value_minima};
  for (int i = 0; i < 4; ++i)
    copy_plain(crew, to.raw + 2 * bytes + i * width * 2, scales[i] + tile.offset, width * 2);
}

// Widens what start_tile left in the raw buffer. After the copies have arrived; the caller synchronises.
template <int kHeadDim, class Element>
__device__ void widen_float_tile(const Crew& crew, int num_valid, const TileBuffer& to) {
  const auto* raw = reinterpret_cast<const Element*>(to.raw);
  constexpr int kElements = kTileTokens * kHeadDim;
  for (int i = crew.index; i < kElements; i += crew.count) {
    from_float(to_float(raw[i]), to.keys[i / kTileTokens * kKeyStride + i % kTileTokens]);
    const int token = i / kHeadDim;
    from_float(token < num_valid ? to_float(raw[kElements + i]) : 0.0F,
               to.values[token * value_stride(kHeadDim) + i % kHeadDim]);
  }
}

// Codes of bytes 2 kPair and 2 kPair + 1 of a word as two float16 numbers: 1024 + code is exact, and its bits
// are 0x6400 | code.
template <int kPair, int kBits, bool kHighNibble = false>
__device__ __forceinline__ unsigned code_pair(unsigned word) {
  unsigned bytes = __byte_perm(word, 0, kPair == 0 ? 0x4140 : 0x4342);
  if (kHighNibble) bytes >>= 4;
  if (kBits == 4) bytes &= 0x000f000fU;
  constexpr unsigned k1024 = 0x64006400U;
  return f16x2_subtract(bytes | k1024, k1024);
}

// Four codes of a word, widened: `scales` and `minima` of each pair.
template <int kBits, bool kHighNibble>
__device__ __forceinline__ void widen_word(unsigned word, uint2 scales, uint2 minima, F16* to) {
  *reinterpret_cast<uint2*>(to) =
      make_uint2(f16x2_fma(code_pair<0, kBits, kHighNibble>(word), scales.x, minima.x),
                 f16x2_fma(code_pair<1, kBits, kHighNibble>(word), scales.y, minima.y));
}

__device__ __forceinline__ unsigned twice(F16 x) {
  return x.bits | static_cast<unsigned>(x.bits) << 16;
}

template <int kHeadDim, int kBits>
__device__ void widen_quantised_tile(const Crew& crew, int width, int num_valid, const TileBuffer& to) {
  const int bytes = width * kHeadDim * kBits / 8;
  const auto* keys = reinterpret_cast<const unsigned*>(to.raw);
  const auto* values = reinterpret_cast<const unsigned*>(to.raw + bytes);
  const auto* scales =
      reinterpret_cast<const F16*>(to.raw + 2 * bytes);  // K scales, K minima, V scales, V minima
  const auto pairs_at = [&](const F16* from) { return *reinterpret_cast<const uint2*>(from); };
  const int words_per_row = width * kBits / 32;
  for (int i = crew.index; i < kHeadDim * words_per_row; i += crew.count) {
    const int token = i % words_per_row * 4;
    F16* row = to.keys + i / words_per_row * kKeyStride;
    widen_word<kBits, false>(keys[i], pairs_at(scales + token), pairs_at(scales + width + token),
                             row + token);
    if (kBits == 4) {
      const int high = width / 2 + token;
      widen_word<kBits, true>(keys[i], pairs_at(scales + high), pairs_at(scales + width + high), row + high);
    }
  }
  constexpr int kWordsPerToken = kHeadDim * kBits / 32;
  for (int i = crew.index; i < kTileTokens * kWordsPerToken; i += crew.count) {
    const int token = i / kWordsPerToken;
    const int d = i % kWordsPerToken * 4;
    F16* row = to.values + token * value_stride(kHeadDim);
    const bool valid = token < num_valid;
    const unsigned word = valid ? values[i] : 0;
    const unsigned scale = valid ? twice(scales[2 * width + token]) : 0;
    const unsigned minimum = valid ? twice(scales[3 * width + token]) : 0;
    widen_word<kBits, false>(word, make_uint2(scale, scale), make_uint2(minimum, minimum), row + d);
    if (kBits == 4)
      widen_word<kBits, true>(word, make_uint2(scale, scale), make_uint2(minimum, minimum),
                              row + kHeadDim / 2 + d);
  }
}

template <int kHeadDim>
__device__ void widen_tile(const Crew& crew, const KvTile& tile, int num_valid, const TileBuffer& to) {
  if (tile.dtype == KvDtype::kF32) {
    widen_float_tile<kHeadDim, float>(crew, num_valid, to);
  } else if (tile.dtype == KvDtype::kBF16) {
    widen_float_tile<kHeadDim, BF16>(crew, num_valid, to);
  } else if (is_quantised(tile.dtype)) {
    const int width = cpu::tile_width(tile.tokens_per_block, tile.offset);
    tile.dtype == KvDtype::kInt4 ? widen_quantised_tile<kHeadDim, 4>(crew, width, num_valid, to)
                                 : widen_quantised_tile<kHeadDim, 8>(crew, width, num_valid, to);
  }
}

}  // namespace kvcrush::cuda
