// What pruning reads of keys and values alone: a warp takes a tile at a time.
#include "engine/kernels/cuda/launch.h"
#include "engine/kernels/cuda/observe.cuh"
#include "engine/kernels/cuda/observe.h"

namespace kvcrush::cuda {

namespace {

constexpr int kNormWarps = 8;
constexpr int kNormThreads = kNormWarps * kWarpLanes;
constexpr int kMeanSplits = 16;
constexpr int kTilesPerWarp = 4;  // of a block's share of the grid

// This warp's tiles of a grid's x dimension.
template <class Use>
__device__ __forceinline__ void for_tiles(const cpu::CachedLayer& cache, const Use& use) {
  const int warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  const int tiles = cpu::num_tiles(cache, cache.num_cached);
  for (int i = static_cast<int>(blockIdx.x) * kNormWarps + warp; i < tiles;
       i += static_cast<int>(gridDim.x) * kNormWarps)
    use(cpu::tile_at(cache, i));
}

__device__ __forceinline__ float* mean_partials(const KeyScoreCall& call) {
  return call.workspace +
         (static_cast<std::int64_t>(blockIdx.z) * gridDim.y + blockIdx.y) * kMeanSplits * call.pool.head_dim;
}

// Sums of keys over a split's slots. Grid: kMeanSplits, KV heads, jobs.
__global__ void __launch_bounds__(kNormThreads, 3) key_sum_kernel(KeyScoreCall call) {
  const KeyScoreJob& job = call.jobs[blockIdx.z];
  if (job.against_mean == 0) return;
  const int head_dim = call.pool.head_dim;
  const auto thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarpLanes;
  auto* shared = reinterpret_cast<float*>(dynamic_shared());  // [warps][head_dim][2 halves of a tile]
  for (int i = thread; i < kNormWarps * head_dim * 2; i += kNormThreads) shared[i] = 0;
  __syncthreads();
  float* sums = shared + thread / kWarpLanes * head_dim * 2 + lane % 2;
  for_tiles(job.cache, [&](const KvTile& tile) {
    const int valid = valid_slots(job.cache, tile) - lane % 2 * kPiece;
    for_keys(tile, cpu::head_base(call.pool, tile.block, static_cast<int>(blockIdx.y)), head_dim, lane,
             [&](int d, const float(&x)[kPiece]) {
               float sum = 0;
#pragma unroll
               for (int i = 0; i < kPiece; ++i) sum += i < valid ? x[i] : 0.0F;
               sums[2 * d] += sum;
             });
  });
  __syncthreads();
  for (int d = thread; d < head_dim; d += kNormThreads) {
    float sum = 0;
    for (int i = 0; i < kNormWarps; ++i)
      sum += shared[(i * head_dim + d) * 2] + shared[(i * head_dim + d) * 2 + 1];
    mean_partials(call)[static_cast<int>(blockIdx.x) * head_dim + d] = sum;
  }
}

// Mean of the keys over all slots, in shared memory, and its norm.
__device__ float load_mean(const KeyScoreCall& call, int num_cached, float* mean) {
  const int head_dim = call.pool.head_dim;
  const auto thread = static_cast<int>(threadIdx.x);
  for (int d = thread; d < head_dim; d += kNormThreads) {
    float sum = 0;
    for (int i = 0; i < kMeanSplits; ++i) sum += mean_partials(call)[i * head_dim + d];
    mean[d] = sum / static_cast<float>(num_cached);
  }
  __syncthreads();
  float squares = 0;
  for (int d = thread % kWarpLanes; d < head_dim; d += kWarpLanes) squares += mean[d] * mean[d];
  return sqrtf(warp_sum(squares));
}

// The sum over the lanes that hold other channels of the same tokens; lanes 0..15 get that of token
// lane % 2 * 8 + lane / 2.
__device__ __forceinline__ float sum_channels(float (&x)[kPiece], int lane) {
  float own = 0;
#pragma unroll
  for (int i = 0; i < kPiece; ++i) {
    for (int offset = 2; offset < kWarpLanes; offset *= 2) x[i] += __shfl_xor_sync(kAllLanes, x[i], offset);
    own = lane / 2 == i ? x[i] : own;
  }
  return own;
}

__global__ void __launch_bounds__(kNormThreads, 3) key_score_kernel(KeyScoreCall call) {
  const KeyScoreJob& job = call.jobs[blockIdx.z];
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  const bool against_mean = job.against_mean != 0;
  auto* mean = reinterpret_cast<float*>(dynamic_shared());  // [head_dim]
  const float mean_norm = against_mean ? load_mean(call, job.cache.num_cached, mean) : 0.0F;
  float* scores = job.scores + blockIdx.y * job.scores_stride;
  for_tiles(job.cache, [&](const KvTile& tile) {
    float squares[kPiece] = {};
    float products[kPiece] = {};
    for_keys(tile, cpu::head_base(call.pool, tile.block, static_cast<int>(blockIdx.y)), call.pool.head_dim,
             lane, [&](int d, const float(&x)[kPiece]) {
               const float other = against_mean ? mean[d] : 0.0F;
#pragma unroll
               for (int i = 0; i < kPiece; ++i) {
                 squares[i] = fmaf(x[i], x[i], squares[i]);
                 products[i] = fmaf(x[i], other, products[i]);
               }
             });
    const float norm = sqrtf(sum_channels(squares, lane));
    const float product = sum_channels(products, lane);
    const int token = lane % 2 * kPiece + lane / 2;
    if (lane >= kTileTokens || token >= valid_slots(job.cache, tile)) return;
    const float norms = norm * mean_norm;
    scores[tile.first_slot + token] = against_mean ? (norms > 0 ? -product / norms : 0.0F) : -norm;
  });
}

__global__ void __launch_bounds__(kNormThreads, 3) value_norm_kernel(ValueNormCall call) {
  const ValueNormJob& job = call.jobs[blockIdx.z];
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  float* norms = job.norms + blockIdx.y * job.norms_stride;
  for_tiles(job.cache, [&](const KvTile& tile) {
    const std::byte* head = cpu::head_base(call.pool, tile.block, static_cast<int>(blockIdx.y));
    const int valid = valid_slots(job.cache, tile);
#pragma unroll
    for (int i = 0; i < kTileTokens; i += kWarpLanes / kLanesPerValue) {
      const int token = i + lane / kLanesPerValue;
      float squares =
          token < valid ? value_squares(tile, head, token, call.pool.head_dim, lane % kLanesPerValue) : 0.0F;
      for (int offset = 1; offset < kLanesPerValue; offset *= 2)
        squares += __shfl_xor_sync(kAllLanes, squares, offset);
      if (token < valid && lane % kLanesPerValue == 0) norms[tile.first_slot + token] = sqrtf(squares);
    }
  });
}

}  // namespace

std::int64_t key_score_workspace_floats(const cpu::KvPool& pool, int num_jobs) {
  return static_cast<std::int64_t>(num_jobs) * pool.num_kv_heads * kMeanSplits * pool.head_dim;
}

void key_scores(const KeyScoreCall& call, Stream stream) {
  if (call.num_jobs == 0) return;
  const auto mean_bytes = sizeof(float) * static_cast<std::size_t>(call.pool.head_dim);
  dim3 grid = grid_of(call.max_cached, kNormWarps * kTilesPerWarp, call.pool, call.num_jobs);
  if (call.workspace != nullptr) {
    launch<key_sum_kernel>(
        LaunchShape{dim3{kMeanSplits, grid.y, grid.z}, dim3{kNormThreads}, 2 * kNormWarps * mean_bytes},
        stream, call);
  }
  launch<key_score_kernel>(LaunchShape{grid, dim3{kNormThreads}, mean_bytes}, stream, call);
}

void value_norms(const ValueNormCall& call, Stream stream) {
  if (call.num_jobs == 0) return;
  launch<value_norm_kernel>(
      LaunchShape{grid_of(call.max_cached, kNormWarps * kTilesPerWarp, call.pool, call.num_jobs),
                  dim3{kNormThreads}},
      stream, call);
}

}  // namespace kvcrush::cuda
