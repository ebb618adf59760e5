// Decode attention over float16, int8 and int4, codes read in place. Each warp has units of its own, three
// stages deep in shared memory; a block's warps merge at the end, and of several blocks of one sequence the
// last to come merges all.
#include "engine/kernels/cuda/decode.h"

#include "engine/core/status.h"
#include "engine/kernels/cuda/attention_output.cuh"
#include "engine/kernels/cuda/decode.cuh"
#include "engine/kernels/cuda/launch.h"

namespace kvcrush::cuda {

namespace {

constexpr float kLog2E = 1.44269504F;
constexpr float kProbabilityFactor = 128;  // 2^kProbabilityExponent
static_assert(kProbabilityExponent == 7);

template <int kHeadDim, int kColumns>
__device__ __forceinline__ void attend_staged(const UnitWalk<kHeadDim>& walk,
                                              const AttentionSequence& sequence,
                                              const DecodeQueries<kHeadDim, kColumns>& queries, int unit,
                                              const std::byte* staged, int oldest, int lane,
                                              DecodeState<kHeadDim, kColumns>& state) {
  const auto packed = [&]<KvDtype kDtype>() {
    const auto place = [&](int row) {
      return PackedTiles<kHeadDim, kDtype>::place(walk.cache,
                                                  unit * unit_tiles(kDtype) + tile_of_row<kDtype>(row));
    };
    attend_unit<kHeadDim, kColumns, kDtype>(sequence, queries, staged, place(lane / 4), place(lane % 4 * 2),
                                            oldest, lane, state);
  };
  if (unit >= walk.packed_units) {
    const TilePlace at =
        FloatTiles<kHeadDim>::place(walk.cache, walk.packed_blocks, unit - walk.packed_units);
    attend_unit<kHeadDim, kColumns, KvDtype::kF16>(sequence, queries, staged, at, at, oldest, lane, state);
  } else if (walk.int4()) {
    packed.template operator()<KvDtype::kInt4>();
  } else {
    packed.template operator()<KvDtype::kInt8>();
  }
}

// What a row's softmax came to, over a warp, a block or all splits.
__device__ __forceinline__ float weight_of(float max, float top) {
  return max == minus_infinity() ? 0.0F : exp2_fast(max - top);
}

// The states of a block's warps as one, in shared memory that no unit needs any more: for each row largest
// score, sum and outputs.
template <int kHeadDim, int kColumns>
struct BlockMerge {
  static constexpr int kWarps = attention_warps(kHeadDim);
  static constexpr int kRows = 8 * kColumns;
  float max[kWarps][kRows];
  float sum[kWarps][kRows];
  float out[kWarps][kRows][kHeadDim];

  __device__ __forceinline__ float top(int row) const {
    float top = minus_infinity();
    for (int w = 0; w < kWarps; ++w) top = max[w][row] > top ? max[w][row] : top;
    return top;
  }
  __device__ __forceinline__ float sum_of(int row, float top) const {
    float total = 0;
    for (int w = 0; w < kWarps; ++w) total += sum[w][row] * weight_of(max[w][row], top);
    return total;
  }
  __device__ __forceinline__ float out_of(int row, int d) const {
    float total = 0;
    for (int w = 0; w < kWarps; ++w) total += out[w][row][d];
    return total;
  }
  __device__ void fill(const DecodeState<kHeadDim, kColumns>& state, int warp, int lane) {
    const int r = lane / 4;
    for (int c = 0; c < kColumns; ++c) {
      for (int e = 0; e < 2; ++e) {
        if (r != 0) continue;
        max[warp][8 * c + lane % 4 * 2 + e] = state.max[c][e];
        sum[warp][8 * c + lane % 4 * 2 + e] = state.sum[c][e];
      }
    }
    __syncthreads();
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int row = 8 * c + lane % 4 * 2 + e;
        const float weight = weight_of(state.max[c][e], top(row));
#pragma unroll
        for (int j = 0; j < kHeadDim / 16; ++j) {
          const int d = r * (kHeadDim / 16) + j;
          out[warp][row][d] = weight * state.out[j][c][e];
          out[warp][row][d + kHeadDim / 2] = weight * state.out[j][c][2 + e];
        }
      }
    }
    __syncthreads();
  }
};

template <class Activation>
__device__ __forceinline__ void write_decode_stats(const AttentionParams<Activation>& p, std::int64_t row,
                                                   float max_log2, float sum) {
  p.row_stats[2 * row] = max_log2 * kLn2;
  p.row_stats[2 * row + 1] = kProbabilityFactor / sum;
}

// One row's output, channel lane + 32 i in x[i], as it is written; back through the Hadamard matrix where
// asked for.
template <int kHeadDim, class Activation>
__device__ __forceinline__ void write_row(const AttentionParams<Activation>& p, std::int64_t row, int lane,
                                          float (&x)[kHeadDim / kWarpLanes]) {
  constexpr int kOwn = kHeadDim / kWarpLanes;
  if (p.turn_back) {
#pragma unroll
    for (int stride = 1; stride < kOwn; stride *= 2) {
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        if ((i & stride) != 0) continue;
        const float a = x[i];
        const float b = x[i + stride];
        x[i] = a + b;
        x[i + stride] = a - b;
      }
    }
    for (int stride = 1; stride < kWarpLanes; stride *= 2) {
      const float sign = (lane & stride) != 0 ? -1.0F : 1.0F;
#pragma unroll
      for (int i = 0; i < kOwn; ++i) x[i] = __shfl_xor_sync(kAllLanes, x[i], stride) + sign * x[i];
    }
#pragma unroll
    for (int i = 0; i < kOwn; ++i) x[i] *= rsqrtf(static_cast<float>(kHeadDim));
  }
#pragma unroll
  for (int i = 0; i < kOwn; ++i) from_float(x[i], p.out[row * kHeadDim + lane + i * kWarpLanes]);
}

// All splits of a sequence and KV head are in `partials`: a warp merges a row, a lane reading up to two
// splits' sums and every 32nd channel.
template <class Activation, int kHeadDim>
__device__ void merge_splits(const AttentionParams<Activation>& p, const Share& share, const float* partials,
                             int warp, int lane) {
  const auto splits = static_cast<int>(gridDim.x);
  for (int row = warp; row < share.num_rows; row += attention_warps(kHeadDim)) {
    const float* states = partials + static_cast<std::int64_t>(row) * splits * (kHeadDim + 2);
    float max[2];
    float weight[2];
    for (int i = 0; i < 2; ++i) {
      const int split = lane + i * kWarpLanes;
      max[i] = split < splits ? states[split * (kHeadDim + 2)] : minus_infinity();
    }
    const float top = warp_max(max[0] > max[1] ? max[0] : max[1]);
    float sum = 0;
    for (int i = 0; i < 2; ++i) {
      weight[i] = weight_of(max[i], top);
      if (weight[i] > 0) sum += weight[i] * states[(lane + i * kWarpLanes) * (kHeadDim + 2) + 1];
    }
    sum = warp_sum(sum);
    float out[kHeadDim / kWarpLanes] = {};
#pragma unroll 4
    for (int split = 0; split < splits; ++split) {
      const float own =
          __shfl_sync(kAllLanes, split < kWarpLanes ? weight[0] : weight[1], split % kWarpLanes);
#pragma unroll
      for (int i = 0; i < kHeadDim / kWarpLanes; ++i)
        out[i] += own * states[split * (kHeadDim + 2) + 2 + lane + i * kWarpLanes];
    }
    const std::int64_t out_row = output_row(p, share, row);
    for (float& x : out) x /= sum;
    write_row<kHeadDim>(p, out_row, lane, out);
    if (lane == 0) write_decode_stats(p, out_row, top, sum);
  }
}

// Grid: splits, KV heads, row tiles.
template <class Activation, int kHeadDim, int kColumns>
__global__ void __launch_bounds__(attention_threads(kHeadDim), kHeadDim == 128 && kColumns == 1 ? 3 : 1)
    decode_kernel(AttentionParams<Activation> p) {
  constexpr int kWarps = attention_warps(kHeadDim);
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
  const int per_split = (walk.num_units + splits - 1) / splits;
  const int first = static_cast<int>(blockIdx.x) * per_split;
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
  load_decode_rows<kHeadDim, kColumns>(p, share, p.scale * kLog2E, warp, lane, queries);
  __syncthreads();
  DecodeState<kHeadDim, kColumns> state;
  start_decode<kHeadDim, kColumns>(share, p.group, lane, queries, state);
  // All rows see all slots before that.
  const int first_branch = sequence.cache.num_cached - sequence.num_branch_slots;
  const int oldest =
      sequence.num_branches > 1 && first_branch <= share.first_slot ? first_branch : share.first_slot + 1;
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
    attend_staged<kHeadDim, kColumns>(walk, sequence, queries, unit,
                                      stages + stage * decode_stage_bytes(kHeadDim), oldest, lane, state);
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
  float* partials = p.partials + head * kRowsPerWarp * splits * (kHeadDim + 2);
  for (int row = warp; row < share.num_rows; row += kWarps) {
    const float top = merge.top(row);
    const float sum = merge.sum_of(row, top);
    const std::int64_t out_row = output_row(p, share, row);
    float* state_of_row = partials + (static_cast<std::int64_t>(row) * splits + blockIdx.x) * (kHeadDim + 2);
    float x[kHeadDim / kWarpLanes];
#pragma unroll
    for (int i = 0; i < kHeadDim / kWarpLanes; ++i) x[i] = merge.out_of(row, lane + i * kWarpLanes);
    if (splits == 1) {
      for (float& one : x) one /= sum;
      write_row<kHeadDim>(p, out_row, lane, x);
    } else {
      for (int i = 0; i < kHeadDim / kWarpLanes; ++i) state_of_row[2 + lane + i * kWarpLanes] = x[i];
    }
    if (lane != 0) continue;
    if (splits == 1) {
      write_decode_stats(p, out_row, top, sum);
    } else {
      state_of_row[0] = top;
      state_of_row[1] = sum;
    }
  }
  if (splits == 1) return;
  __shared__ int ticket;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) ticket = atomicAdd(p.counters + head, 1);
  __syncthreads();
  if (ticket != splits - 1) return;
  __threadfence();
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
  launch<decode_kernel<Activation, kHeadDim, kColumns>>(
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
  switch (call.activations) {
    case ActivationType::kF32:
      return run_for_head<float>(call, stream);
    case ActivationType::kF16:
      return run_for_head<F16>(call, stream);
    case ActivationType::kBF16:
      return run_for_head<BF16>(call, stream);
  }
}

}  // namespace kvcrush::cuda
