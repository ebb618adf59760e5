// What the blocks of the Hopper prefill kernel work on, and what they keep where in shared memory.
//
// Tokens go by columns: first the packed ones without gaps, whatever the width of their tiles, then from the
// next multiple of 16 on the float16 tail. Columns between the two hold nothing.
#pragma once

#include "engine/kernels/cuda/attention_plan.h"
#include "engine/kernels/cuda/prefill_sm90.cuh"

namespace kvcrush::cuda {

// How the kernel is built: kTokens of a stage, kConsumers warpgroups of 64 rows each, one more that loads.
template <int kHeadDim_, bool kQuantised_, int kTokens_ = 128, int kConsumers_ = 2, bool kTakeTurns_ = true,
          Swizzle kKeySwizzle_ = Swizzle::k32>
struct PrefillShape {
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr bool kQuantised = kQuantised_;  // packed sequences are among the batch
  static constexpr int kTokens = kTokens_;
  static constexpr int kConsumers = kConsumers_;
  static constexpr bool kTakeTurns = kTakeTurns_;  // warpgroups multiply in turn, softmax meanwhile
  using Keys = KeyLayout<kHeadDim, kTokens, kKeySwizzle_>;
  using Values = ValueLayout<kHeadDim>;
  static constexpr int kTiles = kTokens / 16;
  static constexpr int kRows = kConsumers * kGroupRows;
  static constexpr int kThreads = (kConsumers + 1) * kWarpgroup;
  // Registers of a thread, all threads' no more than the 65536 of a multiprocessor.
  static constexpr int kLoaderRegisters = kConsumers == 3 || !kQuantised ? 56 : 72;
  static constexpr int kConsumerRegisters = kConsumers == 3 ? 152 : kQuantised ? 216 : 224;
  static constexpr int kStages = 2;
  static constexpr int kStageBytes = kTokens * kHeadDim * 2;  // of K or V
  static constexpr int kRawBytes = kHeadDim * 8 + 32;         // codes, scales and minima of 8 tokens' K or V
  static constexpr int kQueriesAt = 0;
  static constexpr int kStagesAt = kConsumers * QueryLayout<kHeadDim>::kBytes;
  static constexpr int kRawAt = kStagesAt + 2 * kStages * kStageBytes;
  static constexpr int kBarriersAt = kRawAt + (kQuantised ? 2 * 2 * kTiles * kRawBytes : 0);
  static constexpr int kAlignment = 1024;  // of swizzled atoms
  static constexpr int kSharedBytes = kBarriersAt + 4 * kStages * 8 + kAlignment;
};

enum class KvPart : int { kKeys = 0, kValues = 1 };

template <class Shape>
struct PrefillShared {
  std::byte* base;
  unsigned address;  // the same

  __device__ __forceinline__ static PrefillShared of_block() {
    std::byte* start = dynamic_shared();
    const unsigned skip = (0U - shared_address(start)) % Shape::kAlignment;
    return {start + skip, shared_address(start) + skip};
  }
  __device__ __forceinline__ static int queries_at(int consumer) {
    return consumer * QueryLayout<Shape::kHeadDim>::kBytes;
  }
  __device__ __forceinline__ static int stage_at(KvPart stream, unsigned slot) {
    return Shape::kStagesAt + (static_cast<int>(stream) * Shape::kStages + slot) * Shape::kStageBytes;
  }
  __device__ __forceinline__ std::byte* raw(KvPart stream, int octet) const {
    return base + Shape::kRawAt + (static_cast<int>(stream) * 2 * Shape::kTiles + octet) * Shape::kRawBytes;
  }
  __device__ __forceinline__ unsigned full(KvPart stream, unsigned slot) const {
    return address + Shape::kBarriersAt + 8 * (static_cast<int>(stream) * Shape::kStages + slot);
  }
  __device__ __forceinline__ unsigned empty(KvPart stream, unsigned slot) const {
    return full(stream, slot) + 8 * 2 * Shape::kStages;
  }
  __device__ __forceinline__ void init_barriers() const {
    for (int slot = 0; slot < Shape::kStages; ++slot) {
      for (const KvPart stream : {KvPart::kKeys, KvPart::kValues}) {
        barrier_init(full(stream, slot), 2);  // a stream's warps
        barrier_init(empty(stream, slot), Shape::kConsumers * kWarpgroup / kWarpLanes);
      }
    }
  }
};

struct PrefillWork {
  const cpu::AttentionSequence* sequences;
  const RowTile* row_tiles;
  int num_items;  // row tiles times KV heads
  cpu::KvPool pool;
  int group;  // query heads of a KV head
  // This block's item in a round. Early items are long: odd rounds run backwards, so that blocks end
  // together.
  __device__ __forceinline__ int item(int round) const {
    const auto blocks = static_cast<int>(gridDim.x);
    const auto block = static_cast<int>(blockIdx.x);
    return round * blocks + (round % 2 == 0 ? block : blocks - 1 - block);
  }
};

// One row tile of one KV head.
struct PrefillItem {
  int kv_head;
  int first_token;  // of the batch
  int num_rows;
  int num_packed;
  int tail_column;   // the tail's first
  int first_column;  // of the first query
  int num_columns;   // up to the last query's
  __device__ __forceinline__ PrefillItem(const PrefillWork& work, const RowTile& tile, int index,
                                         int max_rows) {
    const cpu::AttentionSequence& sequence = work.sequences[tile.sequence];
    kv_head = index % work.pool.num_kv_heads;
    first_token = sequence.query_start + tile.first_query;
    const int left = sequence.num_queries - tile.first_query;
    const int queries = left < max_rows / work.group ? left : max_rows / work.group;
    num_rows = queries * work.group;
    num_packed = sequence.cache.num_packed;
    tail_column = (num_packed + kTileTokens - 1) / kTileTokens * kTileTokens;
    first_column =
        sequence.cache.num_cached - sequence.num_queries + tile.first_query + tail_column - num_packed;
    num_columns = first_column + queries;
  }
};

}  // namespace kvcrush::cuda
