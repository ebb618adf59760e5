// From a block's warps to its rows' outputs, and from a sequence's blocks to one.
#pragma once

#include "engine/kernels/cuda/attention_output.cuh"
#include "engine/kernels/cuda/decode.cuh"
#include "engine/kernels/cuda/shared_steps.cuh"

namespace kvcrush::cuda {

inline constexpr float kProbabilityFactor = 128;  // 2^kProbabilityExponent
static_assert(kProbabilityExponent == 7);

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

// One row's output, neighbouring channels of each lane, as it is written; back through the Hadamard matrix
// where asked for.
template <int kHeadDim, class Activation>
__device__ __forceinline__ void write_row(const AttentionParams<Activation>& p, std::int64_t row, int lane,
                                          float (&x)[kHeadDim / kWarpLanes]) {
  constexpr int kOwn = kHeadDim / kWarpLanes;
  if (p.turn_back) turn_lanes(kWarpLanes, rsqrtf(static_cast<float>(kHeadDim)), lane, x);
#pragma unroll
  for (int i = 0; i < kOwn; ++i) from_float(x[i], p.out[row * kHeadDim + lane * kOwn + i]);
}

// Floats of a row in AttentionCall::partials: largest score, sum, two unused, outputs.
inline constexpr int kPartialHeader = 4;
__device__ __forceinline__ constexpr int partial_stride(int head_dim) {
  return head_dim + kPartialHeader;
}

// A block's rows: to the output where it has all units of its sequence, else to `partials`.
template <class Activation, int kHeadDim, int kColumns>
__device__ __forceinline__ void write_block(const AttentionParams<Activation>& p, const Share& share,
                                            const BlockMerge<kHeadDim, kColumns>& merge, float* partials,
                                            int warp, int lane) {
  constexpr int kOwn = kHeadDim / kWarpLanes;
  const auto splits = static_cast<int>(gridDim.x);
  for (int row = warp; row < share.num_rows; row += attention_warps(kHeadDim)) {
    const float top = merge.top(row);
    const float sum = merge.sum_of(row, top);
    float x[kOwn];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) x[i] = merge.out_of(row, lane * kOwn + i);
    if (splits == 1) {
      const std::int64_t out_row = output_row(p, share, row);
      for (float& one : x) one /= sum;
      write_row<kHeadDim>(p, out_row, lane, x);
      if (lane == 0) write_decode_stats(p, out_row, top, sum);
      continue;
    }
    float* state =
        partials + (static_cast<std::int64_t>(row) * splits + blockIdx.x) * partial_stride(kHeadDim);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) state[kPartialHeader + lane * kOwn + i] = x[i];
    if (lane == 0) state[0] = top, state[1] = sum;
  }
}

// Whether all other splits of the sequence and head have written theirs; what they wrote can be read then.
__device__ __forceinline__ bool is_last_split(int* counter) {
  __shared__ int ticket;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) ticket = atomicAdd(counter, 1);
  __syncthreads();
  const bool last = ticket == static_cast<int>(gridDim.x) - 1;
  if (last) __threadfence();
  return last;
}

// All splits of a sequence and KV head are in `partials`: a warp merges a row, a lane up to two splits' sums
// and some neighbouring channels. Loads do not wait for each other: there are few blocks, and nothing else
// hides their time.
template <class Activation, int kHeadDim>
__device__ void merge_splits(const AttentionParams<Activation>& p, const Share& share, const float* partials,
                             int warp, int lane) {
  constexpr int kOwn = kHeadDim / kWarpLanes;
  constexpr int kStride = partial_stride(kHeadDim);
  const auto splits = static_cast<int>(gridDim.x);
  for (int row = warp; row < share.num_rows; row += attention_warps(kHeadDim)) {
    const float* states = partials + static_cast<std::int64_t>(row) * splits * kStride;
    float max[2];
    float sums[2];
    for (int i = 0; i < 2; ++i) {
      const int split = lane + i * kWarpLanes;
      max[i] = split < splits ? states[split * kStride] : minus_infinity();
      sums[i] = split < splits ? states[split * kStride + 1] : 0;
    }
    const float top = warp_max(fmaxf(max[0], max[1]));
    const float weight[2] = {weight_of(max[0], top), weight_of(max[1], top)};
    const float sum = warp_sum(weight[0] * sums[0] + weight[1] * sums[1]);
    float out[kOwn] = {};
#pragma unroll 8
    for (int split = 0; split < splits; ++split) {
      const float own =
          __shfl_sync(kAllLanes, split < kWarpLanes ? weight[0] : weight[1], split % kWarpLanes);
      unsigned bits[kOwn];
      load_words<kOwn>(
          reinterpret_cast<const std::byte*>(states + split * kStride + kPartialHeader + lane * kOwn), bits);
#pragma unroll
      for (int i = 0; i < kOwn; ++i) out[i] += own * __uint_as_float(bits[i]);
    }
    const std::int64_t out_row = output_row(p, share, row);
    for (float& x : out) x /= sum;
    write_row<kHeadDim>(p, out_row, lane, out);
    if (lane == 0) write_decode_stats(p, out_row, top, sum);
  }
}

}  // namespace kvcrush::cuda
