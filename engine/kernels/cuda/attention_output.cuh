// From softmax states to attention's output: a warp's own rows, a block's merged warps, merged splits.
#pragma once

#include "engine/kernels/cuda/attention_stages.cuh"

namespace kvcrush::cuda {

inline constexpr float kLn2 = 0.693147181F;

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

}  // namespace kvcrush::cuda
