// A block's share of a batch's attention, and the tiles of the cache on their way to it.
#pragma once

#include "engine/kernels/cuda/attention.cuh"

namespace kvcrush::cuda {

// A block's share of the work, the same for all its threads.
struct Share {
  const AttentionSequence& sequence;
  int kv_head;
  int first_query;
  int num_rows;    // of the block: queries times group
  int first_slot;  // of its first query
  int first_tile;
  int last_tile;
};

// Tiles whose slots the query in `slot` is past.
__device__ __forceinline__ int tiles_before(const AttentionSequence& sequence, int kv_head, int slot) {
  if (sequence.cache.window.tokens == 0) return 0;
  const int first_seen = cpu::first_seen_slot(sequence, kv_head, slot);
  return first_seen == 0 ? 0 : cpu::num_tiles(sequence.cache, first_seen + 1) - 1;
}

template <class Activation, int kHeadDim, bool kDecode>
__device__ __forceinline__ Share share_of(const AttentionParams<Activation>& p) {
  const RowTile rows = p.row_tiles[blockIdx.z];
  const AttentionSequence& sequence = p.sequences[rows.sequence];
  const int most_queries = kRowsPerWarp * (kDecode ? 1 : attention_warps(kHeadDim)) / p.group;
  const int left = sequence.num_queries - rows.first_query;
  const int queries = left < most_queries ? left : most_queries;
  const int first_slot = sequence.cache.num_cached - sequence.num_queries + rows.first_query;
  const auto kv_head = static_cast<int>(blockIdx.y);
  const int tiles = cpu::num_tiles(sequence.cache, first_slot + queries);
  // Of the oldest query's window; the others' begin no earlier.
  const int skipped = tiles_before(sequence, kv_head, first_slot);
  const auto splits = static_cast<int>(gridDim.x);
  const int tiles_per_split = (tiles - skipped + splits - 1) / splits;
  const int first_tile = skipped + static_cast<int>(blockIdx.x) * tiles_per_split;
  const int last_tile = first_tile + tiles_per_split < tiles ? first_tile + tiles_per_split : tiles;
  return {sequence, kv_head, rows.first_query, queries * p.group, first_slot, first_tile, last_tile};
}

// Row of out and row_stats.
template <class Activation>
__device__ __forceinline__ std::int64_t output_row(const AttentionParams<Activation>& p, const Share& share,
                                                   int row) {
  const std::int64_t token = share.sequence.query_start + share.first_query + row / p.group;
  return token * p.num_heads + share.kv_head * p.group + row % p.group;
}

// A block's tiles in shared memory. A sequence of float16 alone is copied there directly, two stages deep;
// others have one stage of float16 tiles, widened from raw ones.
template <int kHeadDim, bool kDecode>
class TileStages {
 public:
  static constexpr int kSlots =
      attention_warps(kHeadDim);  // tiles of a stage: one a warp, or all of every warp

  __device__ TileStages(const Share& share, const KvPool& pool, const RawStaging& raw, F16* tiles)
      : share_(share),
        pool_(pool),
        raw_(raw),
        tiles_(tiles),
        direct_(share.sequence.cache.format.packed == KvDtype::kF16 &&
                share.sequence.cache.format.tail == KvDtype::kF16) {}

  // This thread's tiles of the stage that begins at `index`: one of its warp's, or all.
  template <class Function>
  __device__ __forceinline__ void for_tiles(int index, const Function& function) const {
    if constexpr (kDecode) {
      function(index, warp());
    } else {
      for (int slot = 0; slot < kSlots && index + slot < share_.last_tile; ++slot)
        function(index + slot, slot);
    }
  }
  __device__ void prefetch(int index, int stage) const {
    if (index < share_.last_tile && (direct_ || raw_.stages == kStages)) start(index, stage);
    commit_copies();
  }
  // The tiles are there, as float16, for all who use them.
  __device__ void arrive(int index, int stage) const {
    if (!direct_ && raw_.stages != kStages) {
      start(index, stage);
      commit_copies();
      wait_for_copies<0>();
    } else {
      wait_for_copies<1>();
    }
    meet();
    if (direct_) return;
    for_tiles(index, [&](int i, int slot) {
      const KvTile tile = cpu::tile_at(share_.sequence.cache, i);
      if (tile.dtype != KvDtype::kF16) {
        widen_tile<kHeadDim>(crew(), tile, num_valid(tile), buffer(stage, slot));
      } else {  // the window of a quantised sequence
        start_tile<kHeadDim>(crew(), tile, head(tile), num_valid(tile), buffer(stage, slot));
      }
    });
    commit_copies();
    wait_for_copies<0>();
    meet();
  }
  __device__ __forceinline__ void meet() const {
    if constexpr (kDecode) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  }
  __device__ __forceinline__ TileBuffer buffer(int stage, int slot) const {
    F16* keys = tiles_ + ((direct_ ? stage * kSlots : 0) + slot) * tile_halves(kHeadDim);
    auto* raw = reinterpret_cast<std::byte*>(tiles_ + kSlots * tile_halves(kHeadDim));
    return {keys, keys + kHeadDim * kKeyStride,
            raw + ((raw_.stages == kStages ? stage * kSlots : 0) + slot) * raw_.bytes};
  }
  __device__ __forceinline__ int num_valid(const KvTile& tile) const {
    const int left = share_.sequence.cache.num_cached - tile.first_slot;
    return left < tile.count ? left : tile.count;
  }

 private:
  __device__ __forceinline__ static int warp() { return static_cast<int>(threadIdx.x) / kWarpLanes; }
  __device__ __forceinline__ static Crew crew() {
    const auto thread = static_cast<int>(threadIdx.x);
    return kDecode ? Crew{thread % kWarpLanes, kWarpLanes} : Crew{thread, attention_threads(kHeadDim)};
  }
  __device__ __forceinline__ std::byte* head(const KvTile& tile) const {
    return cpu::head_base(pool_, tile.block, share_.kv_head);
  }
  __device__ __forceinline__ void start(int index, int stage) const {
    for_tiles(index, [&](int i, int slot) {
      const KvTile tile = cpu::tile_at(share_.sequence.cache, i);
      if (direct_ || tile.dtype != KvDtype::kF16)
        start_tile<kHeadDim>(crew(), tile, head(tile), num_valid(tile), buffer(stage, slot));
    });
  }

  const Share& share_;
  const KvPool& pool_;
  RawStaging raw_;
  F16* tiles_;
  bool direct_;
};

}  // namespace kvcrush::cuda
