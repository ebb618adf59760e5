// Where the K and V of a token lie. A pool block is a number of bytes, cut evenly over the KV heads; how many
// tokens fit follows from the dtype. In one head's part of a block of T tokens (a tile is 16 of them):
//
//   float dtypes   K [T / 16][head_dim][16]   V [T][head_dim]
//   int8, int4     K codes, tile by tile [head_dim][tile tokens]   V codes [T][head_dim]
//                  then float16 [T] each: K scales, K minima, V scales, V minima; x = minimum + scale * code
//
// K is transposed inside a tile: the dot products of one query run along the tokens. Scales belong to tokens,
// not to blocks, so a token moves without being quantised again; what makes one scale for a whole head good
// enough is the rotation that K, V and queries went through (docs/adr/0004-token-scales.md). int4 packs token
// i and i + half a tile (K), channel i and i + head_dim / 2 (V) into one byte, the former in the low nibble.
//
// Functions here are static: files of several instruction sets include them, and the linker must not merge
// those.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/core/kv_dtype.h"

#ifdef __CUDACC__  // GPU kernels read the same blocks
#define KVCRUSH_LAYOUT static __host__ __device__ __forceinline__
#else
#define KVCRUSH_LAYOUT static inline __attribute__((always_inline, unused))
#endif

namespace kvcrush::cpu {

inline constexpr int kTileTokens = 16;
inline constexpr int kMaxHeadDim = 256;

// One pool. Block b starts at base + b * block_bytes; head h of it head_bytes() * h further.
struct KvPool {
  std::byte* base = nullptr;
  std::int64_t block_bytes = 0;
  std::int32_t num_kv_heads = 0;
  std::int32_t head_dim = 0;  // multiple of 16, at most kMaxHeadDim
};

// How one sequence's tokens are stored: the first ones `packed` (int8 or int4), the newest in `tail`.
struct KvFormat {
  KvDtype tail = KvDtype::kF32;
  KvDtype packed = KvDtype::kF32;  // a float dtype: nothing is ever packed
  std::int32_t tail_tokens_per_block = 0;
  std::int32_t packed_tokens_per_block = 0;  // 0: nothing is ever packed
};

// What a layer with a sliding window needs beside its blocks. Slots are in the order of positions. The slots
// that were there when the layer was last pruned have positions of their own; those after them are the
// newest tokens in a row.
struct SlidingWindow {
  std::int32_t tokens = 0;         // a query sees so many of the newest, its own included; 0: all
  std::int32_t dropped_tiles = 0;  // before the first slot: work is cut at multiples counted from there
  std::int32_t num_evicted = 0;    // tokens that went before: the position of slot i is num_evicted + i
  std::int32_t num_placed = 0;     // slots that have positions of their own, the first ones
  const std::int32_t* positions = nullptr;  // [num_kv_heads, num_placed], rows positions_stride apart
  std::int32_t positions_stride = 0;
};

// One layer of one sequence: ceil(num_packed / packed_tokens_per_block) packed blocks, then tail blocks.
struct CachedLayer {
  const std::int32_t* blocks = nullptr;
  std::int32_t num_packed = 0;
  std::int32_t num_cached = 0;  // packed ones included
  KvFormat format;
  SlidingWindow window = {};
};

KVCRUSH_LAYOUT constexpr int code_bits(KvDtype dtype) {
  return dtype == KvDtype::kInt4 ? 4 : 8;
}
KVCRUSH_LAYOUT constexpr std::int64_t element_bytes(KvDtype dtype) {
  return dtype == KvDtype::kF32 ? 4 : 2;
}
// Bytes of one head's K and V of one token, scales included.
KVCRUSH_LAYOUT constexpr std::int64_t token_head_bytes(KvDtype dtype, int head_dim) {
  if (!is_quantised(dtype)) return 2 * head_dim * element_bytes(dtype);
  return 2 * head_dim * code_bits(dtype) / 8 + 4 * 2;
}
// Every block holds this many float32 tokens, hence twice as many 16-bit ones.
KVCRUSH_LAYOUT constexpr std::int64_t block_head_bytes(int head_dim) {
  return kTileTokens * token_head_bytes(KvDtype::kF32, head_dim);
}
KVCRUSH_LAYOUT constexpr int tokens_per_block(KvDtype dtype, int head_dim) {
  const auto tokens = static_cast<int>(block_head_bytes(head_dim) / token_head_bytes(dtype, head_dim));
  return tokens / (kTileTokens / 2) * (kTileTokens / 2);
}

KVCRUSH_LAYOUT int ceil_div(int a, int b) {
  return (a + b - 1) / b;
}
KVCRUSH_LAYOUT int num_packed_blocks(const CachedLayer& layer) {
  return layer.num_packed == 0 ? 0 : ceil_div(layer.num_packed, layer.format.packed_tokens_per_block);
}

// Up to kTileTokens neighbouring slots of one block.
struct KvTile {
  std::int32_t block = 0;  // pool block
  KvDtype dtype = KvDtype::kF32;
  std::int32_t tokens_per_block = 0;
  std::int32_t offset = 0;      // of its first slot in the block; a multiple of kTileTokens
  std::int32_t first_slot = 0;  // in the sequence
  std::int32_t count = 0;       // slots; the last ones may not be filled yet
};

// Tiles that cover the first `num_slots` slots.
KVCRUSH_LAYOUT int num_tiles(const CachedLayer& layer, int num_slots) {
  const int packed = num_slots < layer.num_packed ? num_slots : layer.num_packed;
  int tiles = 0;
  if (packed > 0) {
    const int per_block = layer.format.packed_tokens_per_block;
    tiles = packed / per_block * ceil_div(per_block, kTileTokens) + ceil_div(packed % per_block, kTileTokens);
  }
  return tiles + ceil_div(num_slots - packed, kTileTokens);
}

KVCRUSH_LAYOUT KvTile tile_at(const CachedLayer& layer, int tile) {
  const KvFormat& format = layer.format;
  const int packed_tiles = num_tiles(layer, layer.num_packed);
  if (tile < packed_tiles) {
    const int per_block = ceil_div(format.packed_tokens_per_block, kTileTokens);
    const int index = tile / per_block;
    const int offset = tile % per_block * kTileTokens;
    const int first = index * format.packed_tokens_per_block + offset;
    const int left_in_block = format.packed_tokens_per_block - offset;
    const int left = layer.num_packed - first < left_in_block ? layer.num_packed - first : left_in_block;
    return {layer.blocks[index],
            format.packed,
            format.packed_tokens_per_block,
            offset,
            first,
            left < kTileTokens ? left : kTileTokens};
  }
  const int slot = (tile - packed_tiles) * kTileTokens;
  const int index = num_packed_blocks(layer) + slot / format.tail_tokens_per_block;
  return {layer.blocks[index],          format.tail,
          format.tail_tokens_per_block, slot % format.tail_tokens_per_block,
          layer.num_packed + slot,      kTileTokens};
}

// The tile that `slot` is in; slot - first_slot is its place there.
KVCRUSH_LAYOUT KvTile tile_of_slot(const CachedLayer& layer, int slot) {
  if (slot < layer.num_packed) {
    const int per_block = layer.format.packed_tokens_per_block;
    return tile_at(layer,
                   slot / per_block * ceil_div(per_block, kTileTokens) + slot % per_block / kTileTokens);
  }
  return tile_at(layer, num_tiles(layer, layer.num_packed) + (slot - layer.num_packed) / kTileTokens);
}

// The first slot that a query sees, whose token is in slot `slot` or would be.
KVCRUSH_LAYOUT int first_in_window(const CachedLayer& layer, int kv_head, int slot) {
  const SlidingWindow& window = layer.window;
  if (window.tokens == 0) return 0;
  const int first = slot - window.tokens + 1;
  if (first >= window.num_placed || window.num_placed == 0) return first > 0 ? first : 0;
  const std::int32_t* positions =
      window.positions + static_cast<std::int64_t>(kv_head) * window.positions_stride;
  int low = 0;
  int high = window.num_placed;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (positions[middle] < window.num_evicted + first) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

KVCRUSH_LAYOUT int position_of(const SlidingWindow& window, int kv_head, int slot) {
  return slot < window.num_placed
             ? window.positions[static_cast<std::int64_t>(kv_head) * window.positions_stride + slot]
             : window.num_evicted + slot;
}

KVCRUSH_LAYOUT std::byte* head_base(const KvPool& pool, std::int32_t block, int kv_head) {
  return pool.base + block * pool.block_bytes + kv_head * (pool.block_bytes / pool.num_kv_heads);
}

// Addresses inside one head's part of a block.
struct QuantisedHead {
  std::byte* keys;
  std::byte* values;
  std::uint16_t* key_scales;  // each [tokens_per_block] float16
  std::uint16_t* key_minima;
  std::uint16_t* value_scales;
  std::uint16_t* value_minima;
};
KVCRUSH_LAYOUT QuantisedHead quantised_head(std::byte* head, KvDtype dtype, int tokens_per_block,
                                            int head_dim) {
  const std::int64_t code_bytes =
      static_cast<std::int64_t>(tokens_per_block) * head_dim * code_bits(dtype) / 8;
  auto* scales = reinterpret_cast<std::uint16_t*>(head + 2 * code_bytes);
  return {head,
          head + code_bytes,
          scales,
          scales + tokens_per_block,
          scales + 2 * static_cast<std::ptrdiff_t>(tokens_per_block),
          scales + 3 * static_cast<std::ptrdiff_t>(tokens_per_block)};
}
// Slots of the tile's columns in a block: the last tile of a block may be half as wide.
KVCRUSH_LAYOUT int tile_width(int tokens_per_block, int offset) {
  return tokens_per_block - offset < kTileTokens ? tokens_per_block - offset : kTileTokens;
}

}  // namespace kvcrush::cpu
