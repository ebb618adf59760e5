// What attention takes of a GPU: rows, threads and shared memory of a block. For host and device.
#pragma once

#include "engine/kernels/cpu/kv_layout.h"

namespace kvcrush::cuda {

using cpu::kTileTokens;

inline constexpr int kRowsPerWarp = 16;  // (query, query head) pairs of one KV head

KVCRUSH_LAYOUT constexpr int attention_warps(
    int head_dim) {  // of a block: as many tiles are in shared memory, twice
  return head_dim <= 128 ? 4 : 2;
}
KVCRUSH_LAYOUT constexpr int attention_rows(int head_dim) {  // of a block of prefill
  return kRowsPerWarp * attention_warps(head_dim);
}
KVCRUSH_LAYOUT constexpr int attention_threads(int head_dim) {
  return attention_warps(head_dim) * 32;
}

// A tile as float16 in shared memory: K [head_dim][16 tokens], V [16 tokens][head_dim], rows padded.
inline constexpr int kKeyStride = kTileTokens + 8;
KVCRUSH_LAYOUT constexpr int value_stride(int head_dim) {
  return head_dim + 8;
}
KVCRUSH_LAYOUT constexpr int tile_halves(int head_dim) {
  return head_dim * kKeyStride + kTileTokens * value_stride(head_dim);
}
// The same tile in the dtype that it is stored in, with scales; multiple of 16. Float16 needs none.
KVCRUSH_LAYOUT constexpr int raw_tile_bytes(KvDtype dtype, int head_dim) {
  return dtype == KvDtype::kF16 ? 0 : static_cast<int>(kTileTokens * cpu::token_head_bytes(dtype, head_dim));
}

inline constexpr int kStages = 2;

// How tiles that are not float16 go through shared memory.
struct RawStaging {
  int bytes = 0;   // of the largest tile of the batch; 0: every sequence is float16 alone
  int stages = 1;  // 2: the next tiles are on their way while these are worked on
};
KVCRUSH_LAYOUT constexpr RawStaging raw_staging(KvDtype widest, int head_dim) {
  return {raw_tile_bytes(widest, head_dim),
          widest == KvDtype::kInt8 || widest == KvDtype::kInt4 ? kStages : 1};
}

// Shared memory of a block: queries, then either two stages of float16 tiles, or one and raw tiles. The merge
// at the end of decode reuses it.
KVCRUSH_LAYOUT constexpr int attention_shared_bytes(int head_dim, bool decode, RawStaging raw) {
  const int warps = attention_warps(head_dim);
  const int queries = 2 * kRowsPerWarp * (decode ? 1 : warps) * value_stride(head_dim);
  const int tiles = 2 * warps * tile_halves(head_dim);
  const int second = raw.stages * raw.bytes * warps > tiles ? raw.stages * raw.bytes * warps : tiles;
  const int merge = 4 * kRowsPerWarp * (2 * warps + head_dim);
  return queries + tiles + second > merge ? queries + tiles + second : merge;
}

// Decode over float16, int8 and int4 (decode.cu). A warp takes units of neighbouring tiles in turn,
// kDecodeStages of them in shared memory at a time, as they are stored.
inline constexpr int kDecodeStages = 2;

KVCRUSH_LAYOUT constexpr bool has_fast_decode(KvDtype widest, int head_dim, int num_rows) {
  const bool narrow = widest == KvDtype::kF16 || widest == KvDtype::kInt8 || widest == KvDtype::kInt4;
  return narrow && (head_dim == 64 || head_dim == 128 || (head_dim == 256 && num_rows <= kRowsPerWarp / 2));
}
// Tiles of a unit: as many as make lanes load whole words of a token's codes.
KVCRUSH_LAYOUT constexpr int unit_tiles(KvDtype dtype) {
  return dtype == KvDtype::kInt4 ? 4 : dtype == KvDtype::kInt8 ? 2 : 1;
}
// Of one tile in shared memory; what the codes' tiles have beyond their size keeps a unit's tiles in
// different banks.
KVCRUSH_LAYOUT constexpr int staged_tile_bytes(KvDtype dtype, int head_dim) {
  if (dtype == KvDtype::kF16) return 2 * kTileTokens * head_dim * 2;
  return 2 * kTileTokens * head_dim * cpu::code_bits(dtype) / 8 + 4 * 2 * kTileTokens +
         128 / unit_tiles(dtype);
}
KVCRUSH_LAYOUT constexpr int decode_stage_bytes(int head_dim) {
  int most = 0;
  for (const KvDtype dtype : {KvDtype::kF16, KvDtype::kInt8, KvDtype::kInt4}) {
    const int bytes = unit_tiles(dtype) * staged_tile_bytes(dtype, head_dim);
    most = bytes > most ? bytes : most;
  }
  return most;
}
KVCRUSH_LAYOUT constexpr int decode_shared_bytes(int head_dim) {
  return attention_warps(head_dim) * kDecodeStages * decode_stage_bytes(head_dim);
}
// Blocks that a multiprocessor with an H100's 227 KiB holds at a time; its registers hold no more either.
KVCRUSH_LAYOUT constexpr int decode_blocks_per_processor(int head_dim) {
  const int fit = (227 << 10) / (decode_shared_bytes(head_dim) + (6 << 10));
  return fit < 3 ? fit : 3;
}
KVCRUSH_LAYOUT int num_units(const cpu::CachedLayer& cache) {
  const int packed = cache.num_packed == 0 ? 0 : cpu::num_tiles(cache, cache.num_packed);
  return cpu::ceil_div(packed, unit_tiles(cache.format.packed)) +
         cpu::ceil_div(cache.num_cached - cache.num_packed, kTileTokens);
}

}  // namespace kvcrush::cuda
