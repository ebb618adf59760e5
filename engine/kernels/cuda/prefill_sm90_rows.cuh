// What a thread of a multiplying warpgroup of the Hopper prefill kernel does with rows: queries on their way
// in, which columns a row sees, softmax, and pieces of rows on their way out. A row is one (query, query
// head) of a KV head's group; a thread has parts of two, 8 apart, as wgmma's accumulators lie.
#pragma once

#include "engine/kernels/cuda/prefill_sm90_work.cuh"

namespace kvcrush::cuda {

template <class Activation>
struct PrefillParams {
  PrefillWork work;
  const Activation* q;
  std::int64_t q_stride;
  int num_heads;
  float scale;
  Activation* out;
  float* row_stats;
};

__device__ __forceinline__ unsigned pack_pair(float low, float high, const F16* /*type*/) {
  return pack_f16(low, high);
}
__device__ __forceinline__ unsigned pack_pair(float low, float high, const BF16* /*type*/) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&pair);
}

// Eight activations as float16.
__device__ __forceinline__ uint4 eight_f16(const uint4 (&from)[1], const F16* /*type*/) {
  return from[0];
}
__device__ __forceinline__ uint4 eight_f16(const uint4 (&from)[1], const BF16* /*type*/) {
  const auto pair = [](unsigned both) {
    return pack_f16(__uint_as_float(both << 16), __uint_as_float(both & 0xffff0000U));
  };
  return make_uint4(pair(from[0].x), pair(from[0].y), pair(from[0].z), pair(from[0].w));
}
__device__ __forceinline__ uint4 eight_f16(const uint4 (&from)[2], const float* /*type*/) {
  const auto pair = [](unsigned low, unsigned high) {
    return pack_f16(__uint_as_float(low), __uint_as_float(high));
  };
  return make_uint4(pair(from[0].x, from[0].y), pair(from[0].z, from[0].w), pair(from[1].x, from[1].y),
                    pair(from[1].z, from[1].w));
}

// A warpgroup's queries on their way to shared memory. Rows past the last repeat it.
template <class Activation, int kHeadDim>
class QueryRows {
  static constexpr int kPieces = kHeadDim / 8;  // of a row, 8 channels each
  static constexpr int kRounds = kGroupRows * kPieces / kWarpgroup;
  static constexpr int kWords = static_cast<int>(sizeof(Activation)) / 2;

 public:
  __device__ __forceinline__ void load(const PrefillParams<Activation>& p, const PrefillItem& item,
                                       int first_row) {
    const int thread = thread_below<kWarpgroup>();
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      const int row = min(first_row + thread / kPieces + i * (kWarpgroup / kPieces), item.num_rows - 1);
      const std::int64_t token = item.first_token + row / p.work.group;
      const int head = item.kv_head * p.work.group + row % p.work.group;
      const auto* from = reinterpret_cast<const uint4*>(p.q + token * p.q_stride + head * kHeadDim) +
                         thread % kPieces * kWords;
      for (int j = 0; j < kWords; ++j) words_[i][j] = from[j];
    }
  }
  __device__ __forceinline__ void store(std::byte* to) const {
    const int thread = thread_below<kWarpgroup>();
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      const int row = thread / kPieces + i * (kWarpgroup / kPieces);
      *reinterpret_cast<uint4*>(to + QueryLayout<kHeadDim>::offset(row, thread % kPieces)) =
          eight_f16(words_[i], static_cast<const Activation*>(nullptr));
    }
  }

 private:
  uint4 words_[kRounds][kWords];
};

// Which columns the two rows that a thread holds parts of may see.
struct Visibility {
  int own_column[2];
  int num_packed;
  int tail_column;
  int num_branches;
  int first_branch_slot;
  int first_hidden;  // no column before is hidden from any row of the warpgroup

  __device__ __forceinline__ Visibility(const PrefillWork& work, const cpu::AttentionSequence& sequence,
                                        const PrefillItem& item, int first_row, int row) {
    const auto column = [&](int r) { return item.first_column + min(r, item.num_rows - 1) / work.group; };
    for (int r = 0; r < 2; ++r) own_column[r] = column(row + 8 * r);
    num_packed = item.num_packed;
    tail_column = item.tail_column;
    num_branches = sequence.num_branches;
    first_branch_slot = sequence.cache.num_cached - sequence.num_branch_slots;
    first_hidden = column(first_row) + 1;
    if (num_packed < tail_column) first_hidden = min(first_hidden, num_packed);
    if (num_branches > 1) first_hidden = min(first_hidden, first_branch_slot);
  }
  __device__ __forceinline__ int slot_of(int column) const {
    return column < num_packed ? column : column - (tail_column - num_packed);
  }
  __device__ __forceinline__ bool other_branch(int column, int r) const {
    const int slot = slot_of(column);
    return slot >= first_branch_slot && (slot_of(own_column[r]) - slot) % num_branches != 0;
  }
};

// Online softmax of a thread's two rows. Sums and outputs are relative to `base`, which follows the largest
// score only when that has grown by much: weights stay below 2^kSlack, and outputs are seldom rescaled.
struct RowSoftmax {
  static constexpr float kSlack = 8;
  static constexpr float kLowest =
      -1e30F;  // below every score, but finite: no infinity is subtracted from another
  float top[2] = {kLowest, kLowest};
  float base[2] = {kLowest, kLowest};
  float sum[2] = {0, 0};  // of this thread's columns

  // Scores become weights; returns by what sums and outputs before them shrink. scale_log2: to powers of two.
  template <int kCount>
  __device__ __forceinline__ float2 weigh(float (&scores)[kCount], float scale_log2) {
    float shrink[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float most[2] = {top[r], scores[2 * r]};
#pragma unroll
      for (int i = 0; i < kCount / 4; ++i) {
        for (int j = 0; j < 2; ++j) most[j] = fmaxf(most[j], scores[4 * i + 2 * r + j]);
      }
      most[0] = fmaxf(most[0], most[1]);
      for (int offset = 1; offset <= 2; offset *= 2)
        most[0] = fmaxf(most[0], __shfl_xor_sync(kAllLanes, most[0], offset));
      top[r] = most[0];
      const float next = (top[r] - base[r]) * scale_log2 > kSlack ? top[r] : base[r];
      shrink[r] = exp2_fast((base[r] - next) * scale_log2);
      base[r] = next;
      const float minus_base = -next * scale_log2;
      float part[2] = {0, 0};
#pragma unroll
      for (int i = 0; i < kCount / 4; ++i) {
        for (int j = 0; j < 2; ++j) {
          float& score = scores[4 * i + 2 * r + j];
          score = exp2_fast(fmaf(score, scale_log2, minus_base));
          part[j] += score;
        }
      }
      sum[r] = sum[r] * shrink[r] + (part[0] + part[1]);
    }
    return make_float2(shrink[0], shrink[1]);
  }
  __device__ __forceinline__ void finish() {
    for (int r = 0; r < 2; ++r) {
      for (int offset = 1; offset <= 2; offset *= 2) sum[r] += __shfl_xor_sync(kAllLanes, sum[r], offset);
    }
  }
};

// Words i of lanes q of four neighbours become words q of lanes i.
__device__ __forceinline__ void transpose_quad(unsigned (&words)[4], int quad) {
  const auto swap = [&](unsigned& low, unsigned& high, int distance) {
    const bool upper = (quad & distance) != 0;
    const unsigned other = __shfl_xor_sync(kAllLanes, upper ? low : high, distance);
    (upper ? low : high) = other;
  };
  swap(words[0], words[1], 1);
  swap(words[2], words[3], 1);
  swap(words[0], words[2], 2);
  swap(words[1], words[3], 2);
}

}  // namespace kvcrush::cuda
