#include "engine/kernels/cuda/attention.cuh"

#include "engine/core/status.h"
#include "engine/kernels/cuda/cuda_kernels.h"
#include "engine/kernels/cuda/launch.h"

namespace kvcrush::cuda {

namespace {

constexpr float kLog2E = 1.44269504F;
constexpr float kLn2 = 0.693147181F;

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

template <class Activation, int kHeadDim, bool kDecode>
__device__ __forceinline__ Share share_of(const AttentionParams<Activation>& p) {
  const RowTile rows = p.row_tiles[blockIdx.z];
  const AttentionSequence& sequence = p.sequences[rows.sequence];
  const int most_queries = kRowsPerWarp * (kDecode ? 1 : attention_warps(kHeadDim)) / p.group;
  const int left = sequence.num_queries - rows.first_query;
  const int queries = left < most_queries ? left : most_queries;
  const int first_slot = sequence.cache.num_cached - sequence.num_queries + rows.first_query;
  const int tiles = cpu::num_tiles(sequence.cache, first_slot + queries);
  const auto splits = static_cast<int>(gridDim.x);
  const int tiles_per_split = (tiles + splits - 1) / splits;
  const int first_tile = static_cast<int>(blockIdx.x) * tiles_per_split;
  const int last_tile = first_tile + tiles_per_split < tiles ? first_tile + tiles_per_split : tiles;
  return {sequence, static_cast<int>(blockIdx.y), rows.first_query, queries * p.group, first_slot, first_tile,
          last_tile};
}

// Row of out and row_stats.
template <class Activation>
__device__ __forceinline__ std::int64_t output_row(const AttentionParams<Activation>& p, const Share& share,
                                                   int row) {
  const std::int64_t token = share.sequence.query_start + share.first_query + row / p.group;
  return token * p.num_heads + share.kv_head * p.group + row % p.group;
}

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

// One row's result, columns spread over the caller's threads.
template <class Activation, int kHeadDim>
__device__ __forceinline__ void write_stats(const AttentionParams<Activation>& p, std::int64_t row,
                                            float max_log2, float sum) {
  p.row_stats[2 * row] = max_log2 * kLn2;
  p.row_stats[2 * row + 1] = 1.0F / sum;
}

// Decode: the warps' states become one, in shared memory that no tile needs any more.
template <class Activation, int kHeadDim>
__device__ void merge_warps(const AttentionParams<Activation>& p, const Share& share, int warp, int lane,
                            const RowPair<kHeadDim>& state, std::byte* shared) {
  auto* maxima = reinterpret_cast<float*>(shared);  // [warps, rows]
  float* sums = maxima + attention_warps(kHeadDim) * kRowsPerWarp;
  float* total = sums + attention_warps(kHeadDim) * kRowsPerWarp;  // [rows, head_dim]
  for (int r = 0; r < 2; ++r) {
    if (lane % 4 != 0) continue;
    maxima[warp * kRowsPerWarp + lane / 4 + 8 * r] = state.max[r];
    sums[warp * kRowsPerWarp + lane / 4 + 8 * r] = state.sum[r];
  }
  for (int i = static_cast<int>(threadIdx.x); i < kRowsPerWarp * kHeadDim; i += attention_threads(kHeadDim))
    total[i] = 0;
  __syncthreads();
  const auto top_of = [&](int row) {
    float top = minus_infinity();
    for (int w = 0; w < attention_warps(kHeadDim); ++w) {
      const float one = maxima[w * kRowsPerWarp + row];
      top = one > top ? one : top;
    }
    return top;
  };
  const auto weight_of = [](float max, float top) {
    return top == minus_infinity() ? 0.0F : exp2_fast(max - top);
  };
  for (int w = 0; w < attention_warps(kHeadDim); ++w) {  // in turn: the order of sums is fixed
    if (w == warp) {
      for (int r = 0; r < 2; ++r) {
        const int row = lane / 4 + 8 * r;
        const float weight = weight_of(state.max[r], top_of(row));
#pragma unroll
        for (int i = 0; i < kHeadDim / 8; ++i) {
          for (int j = 0; j < 2; ++j)
            total[row * kHeadDim + i * 8 + lane % 4 * 2 + j] += weight * state.out[i][2 * r + j];
        }
      }
    }
    __syncthreads();
  }
  const auto sum_of = [&](int row) {
    float sum = 0;
    for (int w = 0; w < attention_warps(kHeadDim); ++w)
      sum += sums[w * kRowsPerWarp + row] * weight_of(maxima[w * kRowsPerWarp + row], top_of(row));
    return sum;
  };
  const std::int64_t block =
      (static_cast<std::int64_t>(blockIdx.x) * gridDim.z + blockIdx.z) * gridDim.y + blockIdx.y;
  for (int row = 0; row < share.num_rows; ++row) {
    const float sum = sum_of(row);
    float* partial =
        p.partials == nullptr ? nullptr : p.partials + (block * kRowsPerWarp + row) * (kHeadDim + 2);
    const std::int64_t out_row = output_row(p, share, row);
    for (int d = static_cast<int>(threadIdx.x); d < kHeadDim; d += attention_threads(kHeadDim)) {
      if (partial != nullptr) {
        partial[2 + d] = total[row * kHeadDim + d];
      } else {
        from_float(total[row * kHeadDim + d] / sum, p.out[out_row * kHeadDim + d]);
      }
    }
    if (threadIdx.x != 0) continue;
    if (partial != nullptr) {
      partial[0] = top_of(row);
      partial[1] = sum;
    } else {
      write_stats<Activation, kHeadDim>(p, out_row, top_of(row), sum);
    }
  }
}

// Prefill: a warp's rows are its own.
template <class Activation, int kHeadDim>
__device__ void write_rows(const AttentionParams<Activation>& p, const Share& share, int first_row, int lane,
                           const RowPair<kHeadDim>& state) {
  for (int r = 0; r < 2; ++r) {
    const int row = first_row + lane / 4 + 8 * r;
    if (row >= share.num_rows) continue;
    const std::int64_t out_row = output_row(p, share, row);
    const float inverse = 1.0F / state.sum[r];
#pragma unroll
    for (int i = 0; i < kHeadDim / 8; ++i) {
      for (int j = 0; j < 2; ++j)
        from_float(state.out[i][2 * r + j] * inverse, p.out[out_row * kHeadDim + i * 8 + lane % 4 * 2 + j]);
    }
    if (lane % 4 == 0) write_stats<Activation, kHeadDim>(p, out_row, state.max[r], state.sum[r]);
  }
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
  int own_slot[2];
  for (int r = 0; r < 2; ++r) {
    const int row = first_row + lane / 4 + 8 * r;
    own_slot[r] = row < share.num_rows ? share.first_slot + row / p.group : -1;
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
      softmax_tile<kHeadDim>(share.sequence, tile.first_slot, stages.num_valid(tile), own_slot,
                             p.scale * kLog2E, lane, scores, state);
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

// Splits of one row become one. Grid: rows of a tile, KV heads, row tiles; a thread per channel.
template <class Activation>
__global__ void merge_splits_kernel(AttentionParams<Activation> p, int num_splits, int head_dim) {
  const RowTile rows = p.row_tiles[blockIdx.z];
  const AttentionSequence& sequence = p.sequences[rows.sequence];
  const auto row = static_cast<int>(blockIdx.x);
  if (row >= (sequence.num_queries - rows.first_query) * p.group) return;
  const std::int64_t state = head_dim + 2;
  const float* partials =
      p.partials +
      ((static_cast<std::int64_t>(blockIdx.z) * gridDim.y + blockIdx.y) * kRowsPerWarp + row) * state;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.z) * gridDim.y * kRowsPerWarp * state;
  float top = minus_infinity();
  for (int s = 0; s < num_splits; ++s) top = partials[s * stride] > top ? partials[s * stride] : top;
  const auto d = static_cast<int>(threadIdx.x);
  float sum = 0;
  float value = 0;
  for (int s = 0; s < num_splits; ++s) {
    const float weight = exp2_fast(partials[s * stride] - top);
    sum += weight * partials[s * stride + 1];
    value += weight * partials[s * stride + 2 + d];
  }
  const Share share{sequence, static_cast<int>(blockIdx.y), rows.first_query, 0, 0, 0, 0};
  const std::int64_t out_row = output_row(p, share, row);
  from_float(value / sum, p.out[out_row * head_dim + d]);
  if (d == 0) {
    p.row_stats[2 * out_row] = top * kLn2;
    p.row_stats[2 * out_row + 1] = 1.0F / sum;
  }
}

template <class Activation, int kHeadDim>
void run(const AttentionCall& call, Stream stream) {
  AttentionParams<Activation> p{
      .sequences = call.sequences,
      .row_tiles = call.decode,
      .pool = call.pool,
      .q = static_cast<const Activation*>(call.q),
      .q_stride = call.q_stride,
      .num_heads = call.num_heads,
      .group = call.num_heads / call.pool.num_kv_heads,
      .scale = call.scale,
      .raw = {raw_tile_bytes(call.widest, kHeadDim), is_quantised(call.widest) ? kStages : 1},
      .out = static_cast<Activation*>(call.out),
      .row_stats = call.row_stats,
      .partials = call.num_splits > 1 ? call.partials : nullptr};
  const auto heads = static_cast<unsigned>(call.pool.num_kv_heads);
  const auto shape = [&](int splits, int tiles, bool decode) {
    return LaunchShape{dim3{static_cast<unsigned>(splits), heads, static_cast<unsigned>(tiles)},
                       dim3{attention_threads(kHeadDim)},
                       static_cast<std::size_t>(attention_shared_bytes(kHeadDim, decode, p.raw))};
  };
  if (call.num_decode > 0) {
    launch<attention_kernel<Activation, kHeadDim, true>>(shape(call.num_splits, call.num_decode, true),
                                                         stream, p);
    if (call.num_splits > 1) {
      launch<merge_splits_kernel<Activation>>(
          LaunchShape{dim3{kRowsPerWarp, heads, static_cast<unsigned>(call.num_decode)}, dim3{kHeadDim}},
          stream, p, call.num_splits, kHeadDim);
    }
  }
  if (call.num_prefill > 0) {
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

void paged_attention(const AttentionCall& call, Stream stream) {
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
