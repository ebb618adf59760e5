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

}  // namespace kvcrush::cuda
