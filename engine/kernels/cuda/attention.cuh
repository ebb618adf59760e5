// Attention over the paged cache on tensor cores, one body for decode and prefill. A row is one (query, query
// head) of a KV head's group; a warp holds 16 rows. Where all rows of a sequence fit one warp (decode), a
// block's warps share the rows and take tiles in turn, each with an online softmax of its own, merged at the
// end; else (prefill) they share the tiles and have rows of their own.
#pragma once

#include "engine/kernels/cuda/attention_plan.h"
#include "engine/kernels/cuda/kv_tile.cuh"

namespace kvcrush::cuda {

using cpu::AttentionSequence;

template <class Activation>
struct AttentionParams {
  const AttentionSequence* sequences;
  const RowTile* row_tiles;  // [gridDim.z]
  KvPool pool;
  const Activation* q;
  std::int64_t q_stride;
  int num_heads;
  int group;  // query heads of a KV head
  float scale;
  RawStaging raw;
  bool turn_back;
  Activation* out;
  float* row_stats;
  float* partials;  // [row tiles, KV heads, kRowsPerWarp, splits, head_dim + 2]; null: one split
  int* counters;    // [row tiles, KV heads], zero before and after
};

// Softmax state of the two rows that a lane holds parts of.
template <int kHeadDim>
struct RowPair {
  float max[2];
  float sum[2];  // of this lane's columns
  float out[kHeadDim / 8][4];

  __device__ __forceinline__ void clear() {
    for (int r = 0; r < 2; ++r) {
      max[r] = minus_infinity();
      sum[r] = 0;
    }
#pragma unroll
    for (int i = 0; i < kHeadDim / 8; ++i) {
      for (int j = 0; j < 4; ++j) out[i][j] = 0;
    }
  }
};

// Row of matrix `lane / 8` that a lane names to ldmatrix: matrices go down the rows first, then right.
__device__ __forceinline__ int matrix_row(int lane) {
  return lane / 8 % 2 * 8 + lane % 8;
}
__device__ __forceinline__ int matrix_column(int lane) {
  return lane / 16 * 8;
}

// Scores of 16 rows against a tile's 16 tokens.
template <int kHeadDim>
__device__ __forceinline__ void score_tile(const F16* queries, const F16* keys, int lane,
                                           float (&scores)[2][4]) {
  for (int n = 0; n < 2; ++n) {
    for (int j = 0; j < 4; ++j) scores[n][j] = 0;
  }
  const F16* query_row = queries + matrix_row(lane) * value_stride(kHeadDim) + matrix_column(lane);
  const F16* key_row = keys + matrix_row(lane) * kKeyStride + matrix_column(lane);
#pragma unroll
  for (int d = 0; d < kHeadDim; d += 16) {
    unsigned a[4];
    unsigned b[4];
    load_matrices(a, query_row + d);
    load_matrices_transposed(b, key_row + d * kKeyStride);
    mma_f16(scores[0], a, b[0], b[1]);
    mma_f16(scores[1], a, b[2], b[3]);
  }
}

// first_seen: of the query in own_slot (cpu::first_seen_slot).
__device__ __forceinline__ bool sees(const AttentionSequence& sequence, int slot, int own_slot,
                                     int first_seen) {
  if (slot > own_slot || slot < first_seen) return false;
  const int first_branch_slot = sequence.cache.num_cached - sequence.num_branch_slots;
  return sequence.num_branches == 1 || slot < first_branch_slot ||
         (own_slot - slot) % sequence.num_branches == 0;
}

// What a lane's two rows see: the slot of each row's query, -1 where the row is none, and the first slot of
// its window.
struct RowViews {
  int own_slot[2];
  int first_seen[2];
};

// Online softmax of one tile: scores become probabilities, `state` is rescaled. scale_log2: of scores, to
// powers of two.
template <int kHeadDim>
__device__ __forceinline__ void softmax_tile(const AttentionSequence& sequence, int first_slot, int num_valid,
                                             const RowViews& views, float scale_log2, int lane,
                                             float (&scores)[2][4], RowPair<kHeadDim>& state) {
  for (int r = 0; r < 2; ++r) {
    float top = minus_infinity();
    for (int n = 0; n < 2; ++n) {
      for (int j = 0; j < 2; ++j) {
        const int column = n * 8 + lane % 4 * 2 + j;
        const bool visible =
            column < num_valid && sees(sequence, first_slot + column, views.own_slot[r], views.first_seen[r]);
        float& score = scores[n][2 * r + j];
        score = visible ? score * scale_log2 : minus_infinity();
        top = score > top ? score : top;
      }
    }
    for (int offset = 1; offset <= 2; offset *= 2) {
      const float other = __shfl_xor_sync(kAllLanes, top, offset);
      top = other > top ? other : top;
    }
    const float best = state.max[r] > top ? state.max[r] : top;
    const float base = best == minus_infinity() ? 0 : best;  // nothing seen yet: all exponents are -inf
    const float shrink = exp2_fast(state.max[r] - base);
    state.max[r] = best;
    float sum = 0;
    for (int n = 0; n < 2; ++n) {
      for (int j = 0; j < 2; ++j) {
        float& score = scores[n][2 * r + j];
        score = exp2_fast(score - base);
        sum += score;
      }
    }
    state.sum[r] = state.sum[r] * shrink + sum;
#pragma unroll
    for (int i = 0; i < kHeadDim / 8; ++i) {
      state.out[i][2 * r] *= shrink;
      state.out[i][2 * r + 1] *= shrink;
    }
  }
}

// state.out += probabilities x V.
template <int kHeadDim>
__device__ __forceinline__ void add_values(const float (&p)[2][4], const F16* values, int lane,
                                           RowPair<kHeadDim>& state) {
  const unsigned a[4] = {pack_f16(p[0][0], p[0][1]), pack_f16(p[0][2], p[0][3]), pack_f16(p[1][0], p[1][1]),
                         pack_f16(p[1][2], p[1][3])};
  const F16* row = values + matrix_row(lane) * value_stride(kHeadDim) + matrix_column(lane);
#pragma unroll
  for (int d = 0; d < kHeadDim; d += 16) {
    unsigned b[4];
    load_matrices_transposed(b, row + d);
    mma_f16(state.out[d / 8], a, b[0], b[1]);
    mma_f16(state.out[d / 8 + 1], a, b[2], b[3]);
  }
}

// Columns of a row lie in four lanes.
template <int kHeadDim>
__device__ __forceinline__ void finish_sums(RowPair<kHeadDim>& state) {
  for (int r = 0; r < 2; ++r) {
    for (int offset = 1; offset <= 2; offset *= 2)
      state.sum[r] += __shfl_xor_sync(kAllLanes, state.sum[r], offset);
  }
}

}  // namespace kvcrush::cuda
