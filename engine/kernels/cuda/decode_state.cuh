// A warp's attention for up to 16 rows, one (query, query head) each, over units of the cache. Transposed:
// scores are K Q^T [tokens, rows], outputs V^T P^T [channels, rows], so that eight rows, twice what most
// models' groups have, fill the tensor cores' short side. Online softmax in powers of two.
#pragma once

#include "engine/kernels/cuda/attention_stages.cuh"
#include "engine/kernels/cuda/decode_fragments.cuh"

namespace kvcrush::cuda {

// Probabilities are 2^7 times themselves: with small V scales in them they would else lose bits as float16.
// All that they add up to has the same factor.
inline constexpr float kProbabilityExponent = 7;

// A block's queries as the other operand of with_keys(): [k-step][column][lane], kColumns of eight rows each.
template <int kHeadDim, int kColumns>
using DecodeQueries = uint2[kHeadDim / 16][kColumns][kWarpLanes];

// This lane's rows are 8 c + 2q and the next.
template <int kHeadDim, int kColumns>
struct DecodeState {
  float query_sum[kColumns][2];
  int own_slot[kColumns][2];  // of the row's query, -1: no such row
  float max[kColumns][2];
  float sum[kColumns][2];     // of this lane's tokens
  float offset[kColumns][2];  // of probabilities times V's minima, the same for all channels
  float out[kHeadDim / 16][kColumns][4];
};

// What the rows of a block see, in shared memory: few units need it, and registers are short.
template <int kColumns>
struct SeenSlots {
  int first[8 * kColumns];  // of each row's window
  int common_first;         // all rows see the slots from here
  int common_end;           // to here

  // Before a barrier.
  __device__ __forceinline__ void fill(const Share& share, int group) {
    const AttentionSequence& sequence = share.sequence;
    const auto row = static_cast<int>(threadIdx.x);
    if (row < 8 * kColumns)
      first[row] = cpu::first_seen_slot(sequence, share.kv_head, share.first_slot + row / group);
    if (row != 0) return;
    const int first_branch = sequence.cache.num_cached - sequence.num_branch_slots;
    common_first = cpu::first_seen_slot(sequence, share.kv_head, sequence.cache.num_cached - 1);
    common_end =
        sequence.num_branches > 1 && first_branch <= share.first_slot ? first_branch : share.first_slot + 1;
  }
};

// Queries times `scale`, by all warps of the block.
template <int kHeadDim, int kColumns, class Activation>
__device__ __forceinline__ void load_decode_rows(const AttentionParams<Activation>& p, const Share& share,
                                                 float scale, int warp, int lane,
                                                 DecodeQueries<kHeadDim, kColumns>& queries) {
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    const int row = 8 * c + lane / 4;
    const bool there = row < share.num_rows;
    const std::int64_t token = share.sequence.query_start + row / p.group;
    const Activation* from =
        p.q + (there ? token * p.q_stride + (share.kv_head * p.group + row % p.group) * kHeadDim : 0);
    for (int s = warp; s < kHeadDim / 16; s += attention_warps(kHeadDim)) {
      float x[4];
      for (int i = 0; i < 4; ++i) x[i] = there ? to_float(from[16 * s + lane % 4 + 4 * i]) * scale : 0.0F;
      queries[s][c][lane] = make_uint2(pack_f16(x[0], x[1]), pack_f16(x[2], x[3]));
    }
  }
}

// After all queries are there.
template <int kHeadDim, int kColumns>
__device__ __forceinline__ void start_decode(const Share& share, int group, int lane,
                                             const DecodeQueries<kHeadDim, kColumns>& queries,
                                             DecodeState<kHeadDim, kColumns>& state) {
  const int q = lane % 4;
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    float sum = 0;
    for (int s = 0; s < kHeadDim / 16; ++s) {
      const uint2 four = queries[s][c][lane];
      for (const unsigned pair : {four.x, four.y})
        sum += to_float(F16{static_cast<std::uint16_t>(pair)}) +
               to_float(F16{static_cast<std::uint16_t>(pair >> 16)});
    }
    for (int offset = 1; offset <= 2; offset *= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
    for (int e = 0; e < 2; ++e) {
      const int own = 8 * c + 2 * q + e;
      state.query_sum[c][e] = __shfl_sync(kAllLanes, sum, (2 * q + e) * 4);
      state.own_slot[c][e] = own < share.num_rows ? share.first_slot + own / group : -1;
      state.max[c][e] = minus_infinity();
      state.sum[c][e] = 0;
      state.offset[c][e] = 0;
    }
  }
#pragma unroll
  for (int j = 0; j < kHeadDim / 16; ++j) {
    for (int c = 0; c < kColumns; ++c) {
      for (int i = 0; i < 4; ++i) state.out[j][c][i] = 0;
    }
  }
}

constexpr int kNoSlot = 0x7fffffff;

// Calls use(m, c, i) for every score of a unit, [M-tiles][columns][2 * (token r + 8) + row].
template <int kMTiles, int kColumns, class Use>
__device__ __forceinline__ void for_scores(const Use& use) {
#pragma unroll
  for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) use(m, c, i);
    }
  }
}

// No row gets a score of what it does not see: later tokens, other branches, slots that are not filled or
// that its window is past.
template <int kMTiles, int kHeadDim, int kColumns>
__device__ __forceinline__ void hide_unseen(const AttentionSequence& sequence,
                                            const SeenSlots<kColumns>& seen, const int (&slots)[kMTiles][2],
                                            int lane, const DecodeState<kHeadDim, kColumns>& state,
                                            float (&scores)[kMTiles][kColumns][4]) {
  for_scores<kMTiles, kColumns>([&](int m, int c, int i) {
    const int first_seen = seen.first[8 * c + lane % 4 * 2 + i % 2];
    if (!sees(sequence, slots[m][i / 2], state.own_slot[c][i % 2], first_seen))
      scores[m][c][i] = minus_infinity();
  });
}

// Scores [M-tiles][columns][2 * (token r + 8) + row] become probabilities; those of an absent lane are of no
// token.
template <int kMTiles, int kHeadDim, int kColumns>
__device__ __forceinline__ void soften(bool absent, float (&scores)[kMTiles][kColumns][4],
                                       DecodeState<kHeadDim, kColumns>& state) {
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float top = minus_infinity();
#pragma unroll
      for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          top = fmaxf(top, scores[m][c][2 * h + e]);
        }
      }
      if (absent) top = minus_infinity();
      for (int offset = 4; offset <= 16; offset *= 2)
        top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, offset));
      const float best = fmaxf(state.max[c][e], top);
      const float seen_base = (best == minus_infinity() ? 0 : best) - kProbabilityExponent;
      const float base = absent ? -minus_infinity() : seen_base;
      if (__any_sync(kAllLanes, top > state.max[c][e])) {  // less and less often the longer the text
        const float keep = state.max[c][e] == minus_infinity() ? 0 : exp2_fast(state.max[c][e] - best);
        state.sum[c][e] *= keep;
        state.offset[c][e] *= keep;
#pragma unroll
        for (int j = 0; j < kHeadDim / 16; ++j) {
          state.out[j][c][e] *= keep;
          state.out[j][c][2 + e] *= keep;
        }
      }
      state.max[c][e] = best;
      float sum = 0;
#pragma unroll
      for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          float& score = scores[m][c][2 * h + e];
          score = exp2_fast(score - base);
          sum += score;
        }
      }
      state.sum[c][e] += sum;
    }
  }
}

// Sums that lie in lanes of the same q, and what all channels share.
template <int kHeadDim, int kColumns>
__device__ __forceinline__ void finish(DecodeState<kHeadDim, kColumns>& state) {
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      for (int offset = 4; offset <= 16; offset *= 2) {
        state.sum[c][e] += __shfl_xor_sync(kAllLanes, state.sum[c][e], offset);
        state.offset[c][e] += __shfl_xor_sync(kAllLanes, state.offset[c][e], offset);
      }
#pragma unroll
      for (int j = 0; j < kHeadDim / 16; ++j) {
        state.out[j][c][e] += state.offset[c][e];
        state.out[j][c][2 + e] += state.offset[c][e];
      }
    }
  }
}

}  // namespace kvcrush::cuda
