// What the kernels of selection share: order keys, cuts and counting in a block. They run one after another:
//
//   lowest  a block per query head of a layer with a sliding window: what unseen candidates score
//   scores  a block per 512 candidates: order keys of scores and of importance
//   cuts    a block per row: the smallest key that belongs to the row's best
//   sign    a block per 512 candidates and set: signatures, in place of scores; only for representatives
//   keep    a block per set: representatives, and the list of slots that stay
#pragma once

#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/select.h"

namespace kvcrush::cuda {

inline constexpr int kSelectThreads = 512;  // of a block that has a row to itself
inline constexpr int kSelectWarps = kSelectThreads / kWarpLanes;
inline constexpr int kTileThreads = 128;  // of a block that has a tile of a row
inline constexpr int kKeysPerLane = 4;
inline constexpr int kTileKeys = kTileThreads * kKeysPerLane;
static_assert(kSelectRowPadding == kWarpLanes * kKeysPerLane && kTileKeys % kSelectRowPadding == 0);

void run_scores(const SelectLaunch& shape, const SelectJob* jobs, Stream stream);
void run_cuts(const SelectLaunch& shape, const SelectJob* jobs, Stream stream);
void run_sign(const SelectLaunch& shape, const SelectJob* jobs, Stream stream);

// Positive floats gain the top bit, negative ones are turned around below them; the sum turns -0 into +0.
__device__ __forceinline__ unsigned order_key(float value) {
  const int bits = __float_as_int(__fadd_rn(value, 0.0F));
  return static_cast<unsigned>(bits) ^ (static_cast<unsigned>(bits >> 31) | 0x80000000U);
}

__device__ __forceinline__ bool takes(const TopCut& cut, unsigned key, int index) {
  return key > cut.key || (key == cut.key && index <= cut.last_tie_index);
}

// Query heads of a set and bits of its signatures.
__device__ __forceinline__ int heads_of_set(const SelectJob& job) {
  return job.num_heads / job.num_sets;
}
__device__ __forceinline__ int bits_of_set(const SelectJob& job) {
  return heads_of_set(job) / job.heads_per_bit;
}

__device__ __forceinline__ int thread_index() {
  return static_cast<int>(threadIdx.x);
}
__device__ __forceinline__ unsigned lanes_before(int lane) {
  return (1U << lane) - 1;
}

struct BlockSum {
  unsigned before;  // over the threads before this one
  unsigned total;
};

// Of kSelectThreads threads. warp_sums: shared memory, [kSelectWarps].
__device__ __forceinline__ BlockSum block_sum(unsigned value, unsigned* warp_sums) {
  const int lane = thread_index() % kWarpLanes;
  const int warp = thread_index() / kWarpLanes;
  unsigned up_to_here = value;
#pragma unroll
  for (int offset = 1; offset < kWarpLanes; offset *= 2) {
    const unsigned other = __shfl_up_sync(kAllLanes, up_to_here, static_cast<unsigned>(offset));
    if (lane >= offset) up_to_here += other;
  }
  if (lane == kWarpLanes - 1) warp_sums[warp] = up_to_here;
  __syncthreads();
  BlockSum sum{up_to_here - value, 0};
#pragma unroll
  for (int w = 0; w < kSelectWarps; ++w) {
    if (w < warp) sum.before += warp_sums[w];
    sum.total += warp_sums[w];
  }
  __syncthreads();
  return sum;
}

// Adds one to bins[bin], in shared memory, for every lane of the warp that `counts`. Those that share the bin
// of the first one, often most, go together: equal scores and empty signatures are common.
__device__ __forceinline__ void count_in_bin(unsigned* bins, bool counts, unsigned bin) {
  const unsigned lanes = __ballot_sync(kAllLanes, counts ? 1 : 0);
  if (lanes == 0) return;
  const int first = __ffs(static_cast<int>(lanes)) - 1;
  const unsigned common = __shfl_sync(kAllLanes, bin, first);
  const unsigned together = __ballot_sync(kAllLanes, counts && bin == common ? 1 : 0);
  if (thread_index() % kWarpLanes == first) {
    atomicAdd(&bins[common], static_cast<unsigned>(__popc(together)));
  } else if (counts && bin != common) {
    atomicAdd(&bins[bin], 1U);
  }
}

}  // namespace kvcrush::cuda
