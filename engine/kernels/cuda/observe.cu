#include "engine/kernels/cuda/observe.h"

#include <type_traits>

#include "engine/core/status.h"
#include "engine/kernels/cuda/launch.h"
#include "engine/kernels/cuda/observe.cuh"

namespace kvcrush::cuda {

namespace {

constexpr float kLog2E = 1.44269504F;
constexpr int kRecordThreads = 128;

template <class Activation>
__global__ void __launch_bounds__(kRecordThreads) record_kernel(RecordCall call) {
  const QueryCopy copy = call.copies[blockIdx.x];
  if (copy.source_row < 0) return;
  const auto thread = static_cast<int>(threadIdx.x);
  const int width = call.num_heads * call.head_dim;
  const std::int64_t row = static_cast<std::int64_t>(call.layer) * copy.ring_rows + copy.ring_row;
  const Activation* source = static_cast<const Activation*>(call.qkv) + copy.source_row * call.qkv_stride;
  F16* target = static_cast<F16*>(copy.queries) + row * width;
  for (int i = thread * kPiece; i < width; i += kRecordThreads * kPiece) {
    float x[kPiece];
    load_floats(source + i, x);
    store_floats(x, target + i);
  }
  const int num_stats = 2 * call.num_heads;
  const float* stats = call.row_stats + static_cast<std::int64_t>(copy.source_row) * num_stats;
  for (int i = thread; i < num_stats; i += kRecordThreads) copy.row_stats[row * num_stats + i] = stats[i];
}

// Probability sums: a warp has 16 slots' keys in registers, and the block's queries pass by, 16 of one head
// at a time. Scores are K q^T, so that queries lie along the lanes of a quad: sums go around it in order.
constexpr int kChunk = 16;  // queries
constexpr int sum_warps(int head_dim) {
  return head_dim <= 128 ? 8 : 4;
}
constexpr int sum_threads(int head_dim) {
  return sum_warps(head_dim) * kWarpLanes;
}
// Blocks that registers leave room for on one multiprocessor.
[[maybe_unused]] constexpr int sum_blocks(int head_dim) {
  return head_dim <= 128 ? 2 : 3;
}

struct QueryStats {
  float max_log2;
  float inverse;
};
// Two stages of queries lie where keys were before they went to registers.
constexpr int query_bytes(int head_dim) {
  return 2 * 2 * kChunk * value_stride(head_dim);
}
constexpr int sum_shared_bytes(int head_dim) {
  return 2 * sum_warps(head_dim) * head_dim * kKeyStride;
}
template <int kHeadDim>
using KeyFragments = unsigned[kHeadDim / 16][4];

// The part of a block: one KV head's neighbouring tiles, one a warp.
template <int kHeadDim>
struct SumShare {
  const ProbabilityJob& job;
  int warp;
  int lane;
  int first_head;   // query head
  int first_query;  // the first one that sees a slot of the tile; may be before 0
  int first_chunk;  // the first one that sees any of the block's slots
  int num_chunks;   // until the last one
  KvTile tile;
  int num_valid;  // slots of it; 0: no tile for this warp

  __device__ F16* queries(int stage) const {
    return reinterpret_cast<F16*>(dynamic_shared()) + stage * kChunk * value_stride(kHeadDim);
  }
  __device__ QueryStats* stats(int stage) const {
    return reinterpret_cast<QueryStats*>(dynamic_shared() + query_bytes(kHeadDim)) + stage * kChunk;
  }
};

// Starts the copies of one chunk of one head's queries; those past the last one are zeros of no weight.
template <class Query, int kHeadDim>
__device__ void start_queries(const ProbabilityCall& call, const SumShare<kHeadDim>& share, int head,
                              int chunk, int stage) {
  constexpr int kPieces = kHeadDim / kPiece;
  const ProbabilityJob& job = share.job;
  const auto thread = static_cast<int>(threadIdx.x);
  const auto row_of = [&](int query) -> std::int64_t {
    return query >= job.num_queries ? -1 : (job.rows == nullptr ? query : job.rows[query]);
  };
  for (int i = thread; i < kChunk * kPieces; i += sum_threads(kHeadDim)) {
    const std::int64_t row = row_of(chunk * kChunk + i / kPieces);
    const Query* source = static_cast<const Query*>(job.queries) + (row < 0 ? 0 : row) * call.query_stride +
                          head * kHeadDim + i % kPieces * kPiece;
    F16* target = share.queries(stage) + i / kPieces * value_stride(kHeadDim) + i % kPieces * kPiece;
    if constexpr (std::is_same_v<Query, F16>) {
      copy_async_16(target, source, row >= 0);
    } else {
      float x[kPiece] = {};
      if (row >= 0) load_floats(source, x);
      store_floats(x, target);
    }
  }
  commit_copies();
  if (thread >= kChunk) return;
  const std::int64_t row = row_of(chunk * kChunk + thread);
  QueryStats stats{0, 0};
  if (row >= 0) {
    const float* recorded = job.row_stats + 2 * (row * call.num_heads + head);
    stats = {recorded[0] * kLog2E, recorded[1]};
  }
  share.stats(stage)[thread] = stats;
}

// Keys of the warp's tile as A fragments: rows are slots.
template <int kHeadDim>
__device__ void load_key_fragments(const ProbabilityCall& call, const SumShare<kHeadDim>& share, int kv_head,
                                   KeyFragments<kHeadDim>& fragments) {
  F16* keys = reinterpret_cast<F16*>(dynamic_shared()) + share.warp * kHeadDim * kKeyStride;
  if (share.num_valid > 0 && share.first_chunk < share.num_chunks)
    load_keys<kHeadDim>(share.tile, cpu::head_base(call.pool, share.tile.block, kv_head), share.lane, keys);
  commit_copies();
  wait_for_copies<0>();
  __syncwarp();
  const int lane = share.lane;
  const F16* row = keys + (lane / 16 * 8 + lane % 8) * kKeyStride + lane / 8 % 2 * 8;
#pragma unroll
  for (int d = 0; d < kHeadDim; d += 16) load_matrices_transposed(fragments[d / 16], row + d * kKeyStride);
}

// sums[r] of slots lane / 4 + 8 r += what 16 queries gave them, in order; all lanes of a quad hold the same.
// seeing[r]: see num_seeing().
template <int kHeadDim>
__device__ void add_chunk(const SumShare<kHeadDim>& share, int chunk, int stage, float scale_log2,
                          const KeyFragments<kHeadDim>& keys, const int (&seeing)[2], float (&sums)[2]) {
  const int lane = share.lane;
  const F16* row =
      share.queries(stage) + (lane / 16 * 8 + lane % 8) * value_stride(kHeadDim) + lane / 8 % 2 * 8;
  float scores[2][4] = {};  // of queries 0..7 and 8..15
#pragma unroll
  for (int d = 0; d < kHeadDim; d += 16) {
    unsigned queries[4];
    load_matrices(queries, row + d);
    mma_f16(scores[0], keys[d / 16], queries[0], queries[1]);
    mma_f16(scores[1], keys[d / 16], queries[2], queries[3]);
  }
  const int first_query = chunk * kChunk - share.first_query - lane / 4;  // counted from the first seeing one
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int query = n * 8 + lane % 4 * 2 + j;
      const QueryStats stats = share.stats(stage)[query];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float& score = scores[n][2 * r + j];
        const bool sees =
            static_cast<unsigned>(first_query + query - 8 * r) < static_cast<unsigned>(seeing[r]);
        score = sees ? exp2_fast(score * scale_log2 - stats.max_log2) * stats.inverse : 0.0F;
      }
    }
#pragma unroll
    for (int owner = 0; owner < 4; ++owner) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float sum = sums[r] + scores[n][2 * r] + scores[n][2 * r + 1];
        sums[r] = __shfl_sync(kAllLanes, sum, owner, 4);
      }
    }
  }
}

template <class Query, int kHeadDim>
__device__ void sum_tiles(const ProbabilityCall& call, const SumShare<kHeadDim>& share, int kv_head,
                          const KeyFragments<kHeadDim>& keys) {
  const int group = call.num_heads / call.pool.num_kv_heads;
  const ProbabilityJob& job = share.job;
  const int lane = share.lane;
  // Lanes 0 and 1 of a quad read and write its two slots.
  const int own = lane / 4 + lane % 4 * 8;
  const bool owns = lane % 4 < 2 && own < share.num_valid;
  const int slot = share.tile.first_slot + lane / 4;
  const int seeing[2] = {num_seeing(job.cache, kv_head, slot), num_seeing(job.cache, kv_head, slot + 8)};
  int stage = 0;
  if (share.first_chunk < share.num_chunks)
    start_queries<Query>(call, share, share.first_head, share.first_chunk, stage);
  for (int g = 0; g < group; ++g) {
    float* target = job.sums + (share.first_head + g) * job.sums_stride + share.tile.first_slot + own;
    const float before = owns && share.tile.first_slot + own < job.num_summed ? *target : 0.0F;
    float sums[2];
    for (int r = 0; r < 2; ++r) sums[r] = __shfl_sync(kAllLanes, before, r, 4);
    for (int chunk = share.first_chunk; chunk < share.num_chunks; ++chunk) {
      wait_for_copies<0>();
      __syncthreads();  // and the other stage is free
      if (chunk + 1 < share.num_chunks) {
        start_queries<Query>(call, share, share.first_head + g, chunk + 1, stage ^ 1);
      } else if (g + 1 < group) {
        start_queries<Query>(call, share, share.first_head + g + 1, share.first_chunk, stage ^ 1);
      }
      if (share.num_valid > 0 && share.first_query < (chunk + 1) * kChunk)
        add_chunk<kHeadDim>(share, chunk, stage, call.scale * kLog2E, keys, seeing, sums);
      stage ^= 1;
    }
    if (owns) *target = lane % 4 == 0 ? sums[0] : sums[1];
  }
}

// Chunks of queries until the last one that sees any slot of the tiles until `tile`.
__device__ __forceinline__ int num_seeing_chunks(const ProbabilityJob& job, int kv_head, int tile) {
  int num_queries = job.num_queries;
  if (job.cache.window.tokens > 0) {
    const KvTile last = cpu::tile_at(job.cache, tile);
    const int slot = last.first_slot + valid_slots(job.cache, last) - 1;
    const int seeing = num_seeing(job.cache, kv_head, slot);
    const int end = slot + seeing - (job.cache.num_cached + job.num_after - job.num_queries);
    if (seeing != kEveryQuery && end < num_queries) num_queries = end > 0 ? end : 0;
  }
  return cpu::ceil_div(num_queries, kChunk);
}

// Grid: groups of tiles, KV heads, jobs.
template <class Query, int kHeadDim>
__global__ void __launch_bounds__(sum_threads(kHeadDim), sum_blocks(kHeadDim))
    probability_kernel(ProbabilityCall call) {
  constexpr int kWarps = sum_warps(kHeadDim);
  const ProbabilityJob& job = call.jobs[blockIdx.z];
  const auto kv_head = static_cast<int>(blockIdx.y);
  const int warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  const int tiles = cpu::num_tiles(job.cache, job.cache.num_cached);
  const int first_slot = job.cache.num_cached + job.num_after - job.num_queries;  // of the queries
  for (int first = static_cast<int>(blockIdx.x) * kWarps; first < tiles;
       first += static_cast<int>(gridDim.x) * kWarps) {
    const bool has_tile = first + warp < tiles;
    const KvTile tile = cpu::tile_at(job.cache, has_tile ? first + warp : first);
    const int blind = cpu::tile_at(job.cache, first).first_slot - first_slot;  // queries
    const int last = first + kWarps < tiles ? first + kWarps - 1 : tiles - 1;
    const SumShare<kHeadDim> share{job,
                                   warp,
                                   static_cast<int>(threadIdx.x) % kWarpLanes,
                                   kv_head * (call.num_heads / call.pool.num_kv_heads),
                                   tile.first_slot - first_slot,
                                   blind > 0 ? blind / kChunk : 0,
                                   num_seeing_chunks(job, kv_head, last),
                                   tile,
                                   has_tile ? valid_slots(job.cache, tile) : 0};
    KeyFragments<kHeadDim> keys;
    load_key_fragments<kHeadDim>(call, share, kv_head, keys);
    __syncthreads();  // all keys are in registers
    sum_tiles<Query, kHeadDim>(call, share, kv_head, keys);
    __syncthreads();  // the queries are done with
  }
}

template <class Query, int kHeadDim>
void run_sums(const ProbabilityCall& call, Stream stream) {
  static_assert(query_bytes(kHeadDim) + 2 * kChunk * static_cast<int>(sizeof(QueryStats)) <=
                sum_shared_bytes(kHeadDim));
  launch<probability_kernel<Query, kHeadDim>>(
      LaunchShape{grid_of(call.max_cached, sum_warps(kHeadDim), call.pool, call.num_jobs),
                  dim3{sum_threads(kHeadDim)}, sum_shared_bytes(kHeadDim)},
      stream, call);
}

}  // namespace

void record_queries(const RecordCall& call, Stream stream) {
  if (call.num_copies == 0) return;
  with_type(call.activations, [&](auto activation) {
    launch<record_kernel<decltype(activation)>>(
        LaunchShape{dim3{static_cast<unsigned>(call.num_copies)}, dim3{kRecordThreads}}, stream, call);
  });
}

void probability_sums(const ProbabilityCall& call, Stream stream) {
  if (call.num_jobs == 0) return;
  with_type(call.queries, [&](auto query) {
    using Query = decltype(query);
    switch (call.pool.head_dim) {
      case 64:
        return run_sums<Query, 64>(call, stream);
      case 96:
        return run_sums<Query, 96>(call, stream);
      case 128:
        return run_sums<Query, 128>(call, stream);
      case 256:
        return run_sums<Query, 256>(call, stream);
      default:
        KVCRUSH_CHECK(false);
    }
  });
}

}  // namespace kvcrush::cuda
