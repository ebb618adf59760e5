// Decode attention over float16, int8 and int4, codes read in place. Each warp has units of its own, three
// stages deep in shared memory; a block's warps merge at the end, and of several blocks of one sequence the
// last to come merges all.
#include "engine/kernels/cuda/decode.h"

#include "engine/core/status.h"
#include "engine/kernels/cuda/decode_merge.cuh"
#include "engine/kernels/cuda/launch.h"

namespace kvcrush::cuda {

namespace {

constexpr float kLog2E = 1.44269504F;

template <int kHeadDim, int kColumns>
__device__ __forceinline__ void attend_staged(const UnitWalk<kHeadDim>& walk,
                                              const AttentionSequence& sequence,
                                              const SeenSlots<kColumns>& seen,
                                              const DecodeQueries<kHeadDim, kColumns>& queries, int unit,
                                              const std::byte* staged, int lane,
                                              DecodeState<kHeadDim, kColumns>& state) {
  const auto packed = [&]<KvDtype kDtype>() {
    const auto place = [&](int row) {
      return PackedTiles<kHeadDim, kDtype>::place(walk.cache,
                                                  unit * unit_tiles(kDtype) + tile_of_row<kDtype>(row));
    };
    attend_unit<kHeadDim, kColumns, kDtype>(sequence, seen, queries, staged, place(lane / 4),
                                            place(lane % 4 * 2), lane, state);
  };
  if (unit >= walk.packed_units) {
    const TilePlace at =
        FloatTiles<kHeadDim>::place(walk.cache, walk.packed_blocks, unit - walk.packed_units);
    attend_unit<kHeadDim, kColumns, KvDtype::kF16>(sequence, seen, queries, staged, at, at, lane, state);
  } else if (walk.int4()) {
    packed.template operator()<KvDtype::kInt4>();
  } else {
    packed.template operator()<KvDtype::kInt8>();
  }
}

// Grid: splits, KV heads, row tiles.
template <class Activation, int kHeadDim, int kColumns>
__global__ void __launch_bounds__(attention_threads(kHeadDim), kHeadDim == 128 && kColumns == 1 ? 3 : 1)
    decode_kernel(AttentionParams<Activation> p) {
  constexpr int kWarps = attention_warps(kHeadDim);
  wait_for_earlier_kernels();
  const AttentionSequence sequence = p.sequences[p.row_tiles[blockIdx.z].sequence];
  const Share share{sequence,
                    static_cast<int>(blockIdx.y),
                    0,
                    sequence.num_queries * p.group,
                    sequence.cache.num_cached - sequence.num_queries,
                    0,
                    0};
  const int warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  const UnitWalk<kHeadDim> walk(sequence.cache);
  const auto splits = static_cast<int>(gridDim.x);
  // Units that the oldest query's window is past, and so all others', are left out.
  const int skipped = sequence.cache.window.tokens == 0
                          ? 0
                          : walk.unit_of(cpu::first_seen_slot(sequence, share.kv_head, share.first_slot));
  const int per_split = (walk.num_units - skipped + splits - 1) / splits;
  const int first = skipped + static_cast<int>(blockIdx.x) * per_split;
  const int last = first + per_split < walk.num_units ? first + per_split : walk.num_units;

  std::byte* head_bytes = cpu::head_base(p.pool, 0, share.kv_head);
  std::byte* stages = dynamic_shared() + warp * kDecodeStages * decode_stage_bytes(kHeadDim);
  int block = first + warp < last ? walk.read_block(first + warp, lane) : 0;
  // The pool block of the unit that is started next is read one unit ahead.
  const auto start = [&](int unit, int stage) {
    const int own = block;
    block = unit + kWarps < last ? walk.read_block(unit + kWarps, lane) : 0;
    if (unit < last)
      walk.start(head_bytes, p.pool.block_bytes, unit, own, lane,
                 stages + stage * decode_stage_bytes(kHeadDim));
    commit_copies();
  };
  for (int stage = 0; stage + 1 < kDecodeStages; ++stage) start(first + warp + stage * kWarps, stage);
  __shared__ DecodeQueries<kHeadDim, kColumns> queries;
  __shared__ SeenSlots<kColumns> seen;
  seen.fill(share, p.group);
  load_decode_rows<kHeadDim, kColumns>(p, share, p.scale * kLog2E, warp, lane, queries);
  __syncthreads();
  DecodeState<kHeadDim, kColumns> state;
  start_decode<kHeadDim, kColumns>(share, p.group, lane, queries, state);
  bool codes = walk.packed_units > 0;
  int stage = 0;
  for (int unit = first + warp; unit < last; unit += kWarps) {
    const int ahead = stage == 0 ? kDecodeStages - 1 : stage - 1;
    start(unit + (kDecodeStages - 1) * kWarps, ahead);
    wait_for_copies<kDecodeStages - 1>();
    __syncwarp();
    if (codes && unit >= walk.packed_units) {
      walk.int4() ? leave_codes<KvDtype::kInt4>(state) : leave_codes<KvDtype::kInt8>(state);
      codes = false;
    }
    attend_staged<kHeadDim, kColumns>(walk, sequence, seen, queries, unit,
                                      stages + stage * decode_stage_bytes(kHeadDim), lane, state);
    __syncwarp();  // the stage is free
    stage = stage + 1 == kDecodeStages ? 0 : stage + 1;
  }
  if (codes) walk.int4() ? leave_codes<KvDtype::kInt4>(state) : leave_codes<KvDtype::kInt8>(state);
  wait_for_copies<0>();
  finish(state);
  __syncthreads();
  auto& merge = *reinterpret_cast<BlockMerge<kHeadDim, kColumns>*>(dynamic_shared());
  static_assert(sizeof(merge) <= decode_shared_bytes(kHeadDim));
  merge.fill(state, warp, lane);

  const std::int64_t head = static_cast<std::int64_t>(blockIdx.z) * gridDim.y + blockIdx.y;
  float* partials = p.partials + head * kRowsPerWarp * splits * partial_stride(kHeadDim);
  write_block<Activation, kHeadDim, kColumns>(p, share, merge, partials, warp, lane);
  if (splits == 1 || !is_last_split(p.counters + head)) return;
  merge_splits<Activation, kHeadDim>(p, share, partials, warp, lane);
  if (threadIdx.x == 0) p.counters[head] = 0;
}

template <class Activation, int kHeadDim, int kColumns>
void run(const AttentionCall& call, Stream stream) {
  const AttentionParams<Activation> p{.sequences = call.sequences,
                                      .row_tiles = call.decode,
                                      .pool = call.pool,
                                      .q = static_cast<const Activation*>(call.q),
                                      .q_stride = call.q_stride,
                                      .num_heads = call.num_heads,
                                      .group = call.num_heads / call.pool.num_kv_heads,
                                      .scale = call.scale,
                                      .raw = {},
                                      .turn_back = call.turn_back,
                                      .out = static_cast<Activation*>(call.out),
                                      .row_stats = call.row_stats,
                                      .partials = call.partials,
                                      .counters = call.counters};
  launch_early<decode_kernel<Activation, kHeadDim, kColumns>>(
      LaunchShape{dim3{static_cast<unsigned>(call.num_splits), static_cast<unsigned>(call.pool.num_kv_heads),
                       static_cast<unsigned>(call.num_decode)},
                  dim3{attention_threads(kHeadDim)}, static_cast<std::size_t>(decode_shared_bytes(kHeadDim))},
      stream, p);
}

template <class Activation>
void run_for_head(const AttentionCall& call, Stream stream) {
  const bool few = call.decode_rows <= 8;
  switch (call.pool.head_dim) {
    case 64:
      return few ? run<Activation, 64, 1>(call, stream) : run<Activation, 64, 2>(call, stream);
    case 128:
      return few ? run<Activation, 128, 1>(call, stream) : run<Activation, 128, 2>(call, stream);
    case 256:
      return run<Activation, 256, 1>(call, stream);
    default:
      KVCRUSH_CHECK(false);
  }
}

}  // namespace

void decode_attention(const AttentionCall& call, Stream stream) {
  with_type(call.activations, [&](auto type) { run_for_head<decltype(type)>(call, stream); });
}

}  // namespace kvcrush::cuda
