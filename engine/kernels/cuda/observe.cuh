// Cached keys and values of any dtype, read where they lie: as float16 tiles for tensor cores, or as float32
// registers for norms.
#pragma once

#include "engine/kernels/cuda/elementwise.cuh"
#include "engine/kernels/cuda/kv_tile.cuh"

namespace kvcrush::cuda {

__device__ __forceinline__ int valid_slots(const cpu::CachedLayer& cache, const KvTile& tile) {
  const int left = cache.num_cached - tile.first_slot;
  return left < tile.count ? left : tile.count;
}

// How many queries see `slot`, those of the slots from it on: what first_in_window() says of each of them,
// without a search. Queries after the cached tokens count as the next one's.
inline constexpr int kEveryQuery = 0x7fffffff;
__device__ __forceinline__ int num_seeing(const cpu::CachedLayer& cache, int kv_head, int slot) {
  const cpu::SlidingWindow& window = cache.window;
  if (window.tokens == 0) return kEveryQuery;
  const int gap = window.num_evicted + slot - cpu::position_of(window, kv_head, slot);
  const int seeing = window.tokens > gap ? window.tokens - gap : 0;
  return slot + seeing > cache.num_cached ? kEveryQuery : seeing;
}

// Groups of tiles, KV heads, jobs. Blocks go on in strides of the grid, so that it need not hold all tiles.
inline dim3 grid_of(int num_cached, int tiles_per_block, const KvPool& pool, int num_jobs) {
  const int tiles = num_cached / 14 + 2;  // packed blocks of 56 tokens have four
  return {static_cast<unsigned>(cpu::ceil_div(tiles, tiles_per_block)),
          static_cast<unsigned>(pool.num_kv_heads), static_cast<unsigned>(num_jobs)};
}

// Of one token's K or V without scales.
__device__ __forceinline__ int row_bytes(KvDtype dtype, int head_dim) {
  return head_dim *
         (is_quantised(dtype) ? cpu::code_bits(dtype) : 8 * static_cast<int>(cpu::element_bytes(dtype))) / 8;
}
// Where a tile's K or V begins: codes, or elements of a float dtype.
__device__ __forceinline__ const std::byte* key_rows(const KvTile& tile, const std::byte* head,
                                                     int head_dim) {
  return head + tile.offset * row_bytes(tile.dtype, head_dim);
}
__device__ __forceinline__ const std::byte* value_rows(const KvTile& tile, const std::byte* head,
                                                       int head_dim) {
  return head + (tile.tokens_per_block + tile.offset) * row_bytes(tile.dtype, head_dim);
}
// Float16 scales of a tile's first token: minima are tokens_per_block further.
__device__ __forceinline__ const F16* key_scale_row(const KvTile& tile, const std::byte* head, int head_dim) {
  const int code_bytes = tile.tokens_per_block * row_bytes(tile.dtype, head_dim);
  return reinterpret_cast<const F16*>(head + 2 * code_bytes) + tile.offset;
}
__device__ __forceinline__ const F16* value_scale_row(const KvTile& tile, const std::byte* head,
                                                      int head_dim) {
  return key_scale_row(tile, head, head_dim) + 2 * tile.tokens_per_block;
}

// A tile's keys as [kHeadDim][kKeyStride] float16 in shared memory, by one warp; what attention computes
// scores from. Copies may still be in flight.
template <int kHeadDim>
__device__ void load_float_keys(const KvTile& tile, const std::byte* rows, int lane, F16* keys) {
  for (int i = lane; i < kHeadDim * 2; i += kWarpLanes) {
    F16* target = keys + i / 2 * kKeyStride + i % 2 * kPiece;
    if (tile.dtype == KvDtype::kF16) {
      copy_async_16(target, rows + 16 * i, true);
      continue;
    }
    float x[kPiece];
    if (tile.dtype == KvDtype::kF32) {
      load_floats(reinterpret_cast<const float*>(rows) + i * kPiece, x);
    } else {
      load_floats(reinterpret_cast<const BF16*>(rows) + i * kPiece, x);
    }
    store_floats(x, target);
  }
}
template <int kHeadDim, int kBits>
__device__ void load_quantised_keys(const KvTile& tile, const std::byte* rows, const F16* scales, int lane,
                                    F16* keys) {
  const int width = cpu::tile_width(tile.tokens_per_block, tile.offset);
  const int words_per_row = width * kBits / 32;
  const auto* words = reinterpret_cast<const unsigned*>(rows);
  const auto pairs_at = [&](int token) { return *reinterpret_cast<const uint2*>(scales + token); };
  for (int i = lane; i < kHeadDim * words_per_row; i += kWarpLanes) {
    const int token = i % words_per_row * 4;
    F16* row = keys + i / words_per_row * kKeyStride;
    const unsigned word = words[i];
    widen_word<kBits, false>(word, pairs_at(token), pairs_at(tile.tokens_per_block + token), row + token);
    if (kBits == 4) {
      const int high = width / 2 + token;
      widen_word<kBits, true>(word, pairs_at(high), pairs_at(tile.tokens_per_block + high), row + high);
    }
  }
}
template <int kHeadDim>
__device__ void load_keys(const KvTile& tile, const std::byte* head, int lane, F16* keys) {
  const std::byte* rows = key_rows(tile, head, kHeadDim);
  if (!is_quantised(tile.dtype)) return load_float_keys<kHeadDim>(tile, rows, lane, keys);
  const F16* scales = key_scale_row(tile, head, kHeadDim);
  tile.dtype == KvDtype::kInt4 ? load_quantised_keys<kHeadDim, 4>(tile, rows, scales, lane, keys)
                               : load_quantised_keys<kHeadDim, 8>(tile, rows, scales, lane, keys);
}

// Eight codes, a byte each, of 8 bytes of codes (one nibble of each), as floats.
template <int kBits>
__device__ __forceinline__ void widen_codes(uint2 bytes, int shift, float (&codes)[kPiece]) {
  constexpr unsigned kMask = (1U << kBits) - 1;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    codes[i] = static_cast<float>(bytes.x >> (8 * i + shift) & kMask);
    codes[i + 4] = static_cast<float>(bytes.y >> (8 * i + shift) & kMask);
  }
}

// Calls use(d, x) for the channels of a tile's keys that are this lane's: lane / 2 and every 16th from there,
// of tokens lane % 2 * 8 and the next seven.
template <class Element, class Use>
__device__ __forceinline__ void for_float_keys(const std::byte* rows, int head_dim, int lane,
                                               const Use& use) {
#pragma unroll 4
  for (int d = lane / 2; d < head_dim; d += kWarpLanes / 2) {
    float x[kPiece];
    load_floats(reinterpret_cast<const Element*>(rows) + d * kTileTokens + lane % 2 * kPiece, x);
    use(d, x);
  }
}
template <int kBits, class Use>
__device__ __forceinline__ void for_quantised_keys(const KvTile& tile, const std::byte* rows,
                                                   const F16* scales, int head_dim, int lane,
                                                   const Use& use) {
  const int width = cpu::tile_width(tile.tokens_per_block, tile.offset);
  const int token = lane % 2 * kPiece;
  if (token >= width) return;
  float scale[kPiece];
  float minimum[kPiece];
  load_floats(scales + token, scale);
  load_floats(scales + tile.tokens_per_block + token, minimum);
#pragma unroll 4
  for (int d = lane / 2; d < head_dim; d += kWarpLanes / 2) {
    uint2 bytes;
    int shift = 0;
    if (kBits == 8) {
      bytes = *reinterpret_cast<const uint2*>(rows + d * width + token);
    } else if (width == kTileTokens) {
      bytes = *reinterpret_cast<const uint2*>(rows + d * kPiece);
      shift = lane % 2 * 4;
    } else {
      bytes.x = *reinterpret_cast<const unsigned*>(rows + d * (kPiece / 2));
      bytes.y = bytes.x >> 4;
    }
    float x[kPiece];
    widen_codes<kBits>(bytes, shift, x);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) x[i] = fmaf(x[i], scale[i], minimum[i]);
    use(d, x);
  }
}
template <class Use>
__device__ __forceinline__ void for_keys(const KvTile& tile, const std::byte* head, int head_dim, int lane,
                                         const Use& use) {
  const std::byte* rows = key_rows(tile, head, head_dim);
  switch (tile.dtype) {
    case KvDtype::kF32:
      return for_float_keys<float>(rows, head_dim, lane, use);
    case KvDtype::kF16:
      return for_float_keys<F16>(rows, head_dim, lane, use);
    case KvDtype::kBF16:
      return for_float_keys<BF16>(rows, head_dim, lane, use);
    case KvDtype::kInt8:
      return for_quantised_keys<8>(tile, rows, key_scale_row(tile, head, head_dim), head_dim, lane, use);
    case KvDtype::kInt4:
      return for_quantised_keys<4>(tile, rows, key_scale_row(tile, head, head_dim), head_dim, lane, use);
  }
}

// This lane's part of the squares of one token's values, every kLanesPerValue-th piece from `index` on.
inline constexpr int kLanesPerValue = 8;
template <class Element>
__device__ __forceinline__ float float_squares(const std::byte* row, int head_dim, int index) {
  float squares = 0;
  for (int d = index * kPiece; d < head_dim; d += kLanesPerValue * kPiece) {
    float x[kPiece];
    load_floats(reinterpret_cast<const Element*>(row) + d, x);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) squares = fmaf(x[i], x[i], squares);
  }
  return squares;
}
template <int kBits>
__device__ __forceinline__ float code_squares(const std::byte* row, float scale, float minimum, int head_dim,
                                              int index) {
  float squares = 0;
  for (int word = index; word < head_dim * kBits / 64; word += kLanesPerValue) {
    const uint2 bytes = reinterpret_cast<const uint2*>(row)[word];
    for (int shift = 0; shift < 8; shift += kBits) {
      float x[kPiece];
      widen_codes<kBits>(bytes, shift, x);
#pragma unroll
      for (int i = 0; i < kPiece; ++i) {
        const float value = fmaf(x[i], scale, minimum);
        squares = fmaf(value, value, squares);
      }
    }
  }
  return squares;
}
__device__ __forceinline__ float value_squares(const KvTile& tile, const std::byte* head, int token,
                                               int head_dim, int index) {
  const std::byte* row = value_rows(tile, head, head_dim) + token * row_bytes(tile.dtype, head_dim);
  if (tile.dtype == KvDtype::kF32) return float_squares<float>(row, head_dim, index);
  if (tile.dtype == KvDtype::kF16) return float_squares<F16>(row, head_dim, index);
  if (tile.dtype == KvDtype::kBF16) return float_squares<BF16>(row, head_dim, index);
  const F16* scales = value_scale_row(tile, head, head_dim) + token;
  const float scale = to_float(scales[0]);
  const float minimum = to_float(scales[tile.tokens_per_block]);
  return tile.dtype == KvDtype::kInt4 ? code_squares<4>(row, scale, minimum, head_dim, index)
                                      : code_squares<8>(row, scale, minimum, head_dim, index);
}

}  // namespace kvcrush::cuda
