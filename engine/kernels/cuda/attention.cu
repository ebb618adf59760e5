#include "engine/kernels/cuda/attention_output.cuh"

#include "engine/core/status.h"
#include "engine/kernels/cuda/cuda_kernels.h"
#include "engine/kernels/cuda/decode.h"
#include "engine/kernels/cuda/launch.h"
#include "engine/kernels/cuda/shared_steps.cuh"
#ifdef __CUDACC__  // the simulator knows no warpgroups
#include "engine/kernels/cuda/prefill_sm90.h"
#endif

namespace kvcrush::cuda {

namespace {

constexpr float kLog2E = 1.44269504F;

template <class Activation, int kHeadDim>
__device__ void load_queries(const AttentionParams<Activation>& p, const Share& share, int num_rows,
                             F16* queries) {
  for (int i = static_cast<int>(threadIdx.x); i < num_rows * kHeadDim; i += attention_threads(kHeadDim)) {
    const int row = i / kHeadDim;
    const int d = i % kHeadDim;
    float value = 0;
    if (row < share.num_rows) {
      const std::int64_t token = share.sequence.query_start + share.first_query + row / p.group;
      value = to_float(p.q[token * p.q_stride + (share.kv_head * p.group + row % p.group) * kHeadDim + d]);
    }
    from_float(value, queries[row * value_stride(kHeadDim) + d]);
  }
}

// Grid: splits (1 for prefill), KV heads, row tiles.
template <class Activation, int kHeadDim, bool kDecode>
__global__ void __launch_bounds__(attention_threads(kHeadDim))
    attention_kernel(AttentionParams<Activation> p) {
  const Share share = share_of<Activation, kHeadDim, kDecode>(p);
  const int warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  using Stages = TileStages<kHeadDim, kDecode>;
  constexpr int kQueryRows = kRowsPerWarp * (kDecode ? 1 : Stages::kSlots);
  auto* queries = reinterpret_cast<F16*>(dynamic_shared());
  const Stages stages(share, p.pool, p.raw, queries + kQueryRows * value_stride(kHeadDim));
  load_queries<Activation, kHeadDim>(p, share, kQueryRows, queries);
  __syncthreads();

  const int first_row = kDecode ? 0 : warp * kRowsPerWarp;
  RowViews views;
  for (int r = 0; r < 2; ++r) {
    const int row = first_row + lane / 4 + 8 * r;
    views.own_slot[r] = row < share.num_rows ? share.first_slot + row / p.group : -1;
    views.first_seen[r] = cpu::first_seen_slot(share.sequence, share.kv_head, views.own_slot[r]);
  }
  RowPair<kHeadDim> state;
  state.clear();
  int stage = 0;
  const int first_tile = share.first_tile + (kDecode ? warp : 0);
  stages.prefetch(first_tile, 0);
  for (int index = first_tile; index < share.last_tile; index += Stages::kSlots) {
    stages.prefetch(index + Stages::kSlots, stage ^ 1);
    stages.arrive(index, stage);
    stages.for_tiles(index, [&](int i, int slot) {
      const KvTile tile = cpu::tile_at(share.sequence.cache, i);
      const TileBuffer here = stages.buffer(stage, slot);
      float scores[2][4];
      score_tile<kHeadDim>(queries + first_row * value_stride(kHeadDim), here.keys, lane, scores);
      softmax_tile<kHeadDim>(share.sequence, tile.first_slot, stages.num_valid(tile), views, p.scale * kLog2E,
                             lane, scores, state);
      add_values<kHeadDim>(scores, here.values, lane, state);
    });
    stages.meet();  // the buffers are free for the stage after next
    stage ^= 1;
  }
  wait_for_copies<0>();
  finish_sums(state);
  if constexpr (kDecode) {
    __syncthreads();
    merge_warps<Activation, kHeadDim>(p, share, warp, lane, state, dynamic_shared());
  } else {
    write_rows<Activation, kHeadDim>(p, share, first_row, lane, state);
  }
}

template <class Activation, int kHeadDim>
void run(const AttentionCall& call, Stream stream) {
  AttentionParams<Activation> p{.sequences = call.sequences,
                                .row_tiles = call.decode,
                                .pool = call.pool,
                                .q = static_cast<const Activation*>(call.q),
                                .q_stride = call.q_stride,
                                .num_heads = call.num_heads,
                                .group = call.num_heads / call.pool.num_kv_heads,
                                .scale = call.scale,
                                .raw = raw_staging(call.widest, kHeadDim),
                                .turn_back = false,
                                .out = static_cast<Activation*>(call.out),
                                .row_stats = call.row_stats,
                                .partials = call.num_splits > 1 ? call.partials : nullptr,
                                .counters = nullptr};
  const auto heads = static_cast<unsigned>(call.pool.num_kv_heads);
  const auto shape = [&](int splits, int tiles, bool decode) {
    return LaunchShape{dim3{static_cast<unsigned>(splits), heads, static_cast<unsigned>(tiles)},
                       dim3{attention_threads(kHeadDim)},
                       static_cast<std::size_t>(attention_shared_bytes(kHeadDim, decode, p.raw))};
  };
  if (call.num_decode > 0 && has_fast_decode(call.widest, kHeadDim, call.decode_rows)) {
    decode_attention(call, stream);
  } else if (call.num_decode > 0) {
    launch<attention_kernel<Activation, kHeadDim, true>>(shape(call.num_splits, call.num_decode, true),
                                                         stream, p);
    if (call.num_splits > 1) {
      launch<merge_splits_kernel<Activation>>(
          LaunchShape{dim3{kRowsPerWarp, heads, static_cast<unsigned>(call.num_decode)}, dim3{kHeadDim}},
          stream, p, call.num_splits, kHeadDim);
    }
  }
#ifdef __CUDACC__
  if (call.num_prefill > 0 && call.prefill_rows == kPrefillRows) return prefill_sm90(call, stream);
#endif
  if (call.num_prefill > 0) {
    KVCRUSH_CHECK(call.prefill_rows == attention_rows(kHeadDim));
    p.row_tiles = call.prefill;
    p.partials = nullptr;
    launch<attention_kernel<Activation, kHeadDim, false>>(shape(1, call.num_prefill, false), stream, p);
  }
}

template <class Activation>
void run_for_head(const AttentionCall& call, Stream stream) {
  switch (call.pool.head_dim) {
    case 64:
      return run<Activation, 64>(call, stream);
    case 96:
      return run<Activation, 96>(call, stream);
    case 128:
      return run<Activation, 128>(call, stream);
    case 256:
      return run<Activation, 256>(call, stream);
    default:
      KVCRUSH_CHECK(false);
  }
}

}  // namespace

bool has_attention_for(int head_dim) {
  return head_dim == 64 || head_dim == 96 || head_dim == 128 || head_dim == 256;
}

bool can_turn_back(int head_dim, KvDtype widest, int decode_rows, int num_prefill) {
  return num_prefill == 0 && has_fast_decode(widest, head_dim, decode_rows);
}

void set_early_launches([[maybe_unused]] bool wanted) {
#ifdef __CUDACC__
  early_launches() = wanted;
#endif
}

int prefill_rows(int head_dim, [[maybe_unused]] KvDtype widest, [[maybe_unused]] bool has_windows) {
#ifdef __CUDACC__
  if (!has_windows && prefill_sm90_serves(head_dim, widest)) return kPrefillRows;
#endif
  return attention_rows(head_dim);
}

void paged_attention(const AttentionCall& call, Stream stream) {
  KVCRUSH_CHECK(!call.turn_back ||
                can_turn_back(call.pool.head_dim, call.widest, call.decode_rows, call.num_prefill));
  with_type(call.activations, [&](auto type) { run_for_head<decltype(type)>(call, stream); });
}

}  // namespace kvcrush::cuda
