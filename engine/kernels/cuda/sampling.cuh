// Parts of the sampler: a row of logits seen by a block, tokens' ranks and masses, sums over the block.
#pragma once

#include "engine/kernels/cuda/device.cuh"
#include "engine/kernels/cuda/sampling.h"

namespace kvcrush::cuda::sampling {

using Word = unsigned long long;  // 64 bits as CUDA's functions take them

inline constexpr int kBins = 1024;
inline constexpr int kMaxListed = 2048;
inline constexpr int kMaxMembers = 256;
inline constexpr int kMaxFolded = 2;
inline constexpr int kIdBits = 18;
inline constexpr float kLog2E = 1.44269504F;
static_assert(1 << kIdBits == kMaxSampledVocab);

// A token's place among all: greater is likelier, of equal logits the one of the lower id.
using Rank = Word;

// What a token weighs, in units of 2^-44 of the likeliest one: sums of integers are the same in any order, so
// results never depend on timing. What is lighter than a unit is lost: with the largest vocabulary less
// than 2^-26 of all mass.
using Mass = Word;
inline constexpr float kMassUnits = 0x1p44F;
inline constexpr float kMassLog2 = 44;

// Turns floats, none of them NaN, into integers of the same order.
__device__ __forceinline__ unsigned order_key(float x) {
  const unsigned bits = __float_as_uint(x + 0.0F);  // the sum turns -0 into +0
  return bits ^ ((bits >> 31) != 0 ? 0xffffffffU : 0x80000000U);
}
__device__ __forceinline__ float from_order_key(unsigned key) {
  return __uint_as_float(key ^ ((key >> 31) != 0 ? 0x80000000U : 0xffffffffU));
}
__device__ __forceinline__ Rank rank_of(float logit, int id) {
  return (static_cast<Rank>(order_key(logit)) << kIdBits) | static_cast<Rank>(kMaxSampledVocab - 1 - id);
}
__device__ __forceinline__ float logit_of(Rank rank) {
  return from_order_key(static_cast<unsigned>(rank >> kIdBits));
}
__device__ __forceinline__ int id_of(Rank rank) {
  return kMaxSampledVocab - 1 - static_cast<int>(rank & (kMaxSampledVocab - 1));
}

// Relative to the likeliest logit: exp((logit - max) / temperature). Temperatures below 1e-38 make the scale
// infinite, and leave the likeliest.
struct Weights {
  float max;
  float scale;     // log2(e) / temperature
  bool count_all;  // tokens without mass count too

  __device__ __forceinline__ float of(float logit) const {
    return logit == max ? 1.0F : exp2_fast((logit - max) * scale);
  }
};
__device__ __forceinline__ Mass mass_of(float weight) {
  return static_cast<Mass>(weight * kMassUnits);
}

// Equal parts of the logits' range; the last takes what lies below, too.
struct Bins {
  float max;
  float scale;

  __device__ __forceinline__ int of(float logit) const {
    // Infinities may make a NaN of the product, of which fminf makes the last bin.
    return logit >= max ? 0 : static_cast<int>(fminf((max - logit) * scale, static_cast<float>(kBins - 1)));
  }
};
__device__ __forceinline__ Bins bins_over(float max, float range) {
  return {max, fminf(static_cast<float>(kBins - 1) / range, 0x1p127F)};
}

// Bins' contents. A lane reads 32 bins in a row: the gaps keep it off the other lanes' banks.
struct Histogram {
  unsigned counts[kBins + kBins / 32];
  unsigned masses_low[kBins + kBins / 32];
  unsigned masses_high[kBins + kBins / 32];

  __device__ __forceinline__ static int slot(int bin) { return bin + bin / 32; }
  // The block's; it meets after.
  __device__ __forceinline__ void clear() {
    for (int i = static_cast<int>(threadIdx.x); i < kBins + kBins / 32; i += static_cast<int>(blockDim.x))
      counts[i] = masses_low[i] = masses_high[i] = 0;
    __syncthreads();
  }
  // 64-bit sums of two 32-bit ones: shared memory adds no 64 bits at once.
  __device__ __forceinline__ void add(int bin, Mass mass) {
    const int i = slot(bin);
    atomicAdd(&counts[i], 1U);
    const auto low = static_cast<unsigned>(mass);
    const unsigned before = atomicAdd(&masses_low[i], low);
    const unsigned high = static_cast<unsigned>(mass >> 32) + (before + low < before ? 1U : 0U);
    if (high != 0) atomicAdd(&masses_high[i], high);
  }
  __device__ __forceinline__ Mass mass(int bin) const {
    return static_cast<Mass>(masses_high[slot(bin)]) << 32 | masses_low[slot(bin)];
  }
};

// What is to be reached, going from the likeliest token down.
struct Goal {
  Word amount;   // > 0
  bool of_mass;  // else of tokens
};
// How far a search has come: to a bin, and where that has too many tokens, to a part of their ranks.
struct Search {
  Goal goal;         // what of it is left, from here on
  Mass mass_before;  // of what is likelier; of all, where the goal is not reached
  int bin;           // in which the goal is reached; -1: nowhere
  unsigned count;    // of tokens left
  Rank highest;
  Rank lowest;
  int shift;  // of the ranks' parts: 2^shift each; -1: none yet
};
struct Found {
  Rank rank;  // of the token that reaches it
  Mass mass;  // of it and all before it; of all that count, where they do not reach it
};

struct SampleShared {
  Histogram bins;     // of what a choice is made from
  Histogram refined;  // of one bin of it
  Rank listed[kMaxListed];
  Rank members[kMaxMembers];
  Mass member_masses[kMaxMembers];
  Word words[kMaxFolded * kWarpLanes];
  Search search;
  Found found;
  int num_listed;  // may exceed kMaxListed: then the list is of no use
  int num_members;
  int drawn;
  double log_sum;  // of the raw logits, where log-probabilities are asked for
  float raw_logit_of_0;
};

__device__ __forceinline__ int thread_index() {
  return static_cast<int>(threadIdx.x);
}
__device__ __forceinline__ int num_threads() {
  return static_cast<int>(blockDim.x);
}

__device__ __forceinline__ Word warp_sum(Word x) {
  for (int offset = kWarpLanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}
__device__ __forceinline__ Word warp_max(Word x) {
  const auto high = static_cast<unsigned>(x >> 32);
  const unsigned top = __reduce_max_sync(kAllLanes, high);
  const unsigned low = __reduce_max_sync(kAllLanes, high == top ? static_cast<unsigned>(x) : 0U);
  return static_cast<Word>(top) << 32 | low;
}

// The results are all threads'.
template <int kCount, class Fold>
__device__ __forceinline__ void fold_block(Word (&x)[kCount], SampleShared& s, const Fold& fold) {
  static_assert(kCount <= kMaxFolded);
  const int lane = thread_index() % kWarpLanes;
  const int warp = thread_index() / kWarpLanes;
  for (int i = 0; i < kCount; ++i) x[i] = fold(x[i]);
  if (lane == 0) {
    for (int i = 0; i < kCount; ++i) s.words[i * kWarpLanes + warp] = x[i];
  }
  __syncthreads();
  for (int i = 0; i < kCount; ++i)
    x[i] = fold(lane < num_threads() / kWarpLanes ? s.words[i * kWarpLanes + lane] : Word{0});
  __syncthreads();
}
template <int kCount>
__device__ __forceinline__ void block_max(Word (&x)[kCount], SampleShared& s) {
  fold_block(x, s, [](Word one) { return warp_max(one); });
}
template <int kCount>
__device__ __forceinline__ void block_sum(Word (&x)[kCount], SampleShared& s) {
  fold_block(x, s, [](Word one) { return warp_sum(one); });
}

// A row of logits in global memory, read four at a time; NaN reads as -infinity.
struct LogitsRow {
  float* logits;
  int vocab_size;

  __device__ __forceinline__ float4 four(int first) const {
    const bool aligned = reinterpret_cast<std::uintptr_t>(logits) % 16 == 0;
    if (aligned && first + 4 <= vocab_size) return *reinterpret_cast<const float4*>(logits + first);
    float4 x = make_float4(minus_infinity(), minus_infinity(), minus_infinity(), minus_infinity());
    if (first < vocab_size) x.x = logits[first];
    if (first + 1 < vocab_size) x.y = logits[first + 1];
    if (first + 2 < vocab_size) x.z = logits[first + 2];
    if (first + 3 < vocab_size) x.w = logits[first + 3];
    return x;
  }

  // function(logit, id) for ids in [first, last), a multiple of 4 the first, this worker's share of them. Ids
  // ascend. Some loads are under way together, or their latency would be all there is.
  template <int kLoads, class Visit>
  __device__ __forceinline__ void visit(int first, int last, int worker, int num_workers,
                                        const Visit& function) const {
    for (int base = first + 4 * worker; base < last; base += 4 * num_workers * kLoads) {
      float4 loaded[kLoads];
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int id = base + i * 4 * num_workers;
        if (id < last) loaded[i] = four(id);
      }
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int id = base + i * 4 * num_workers;
        const float x[4] = {loaded[i].x, loaded[i].y, loaded[i].z, loaded[i].w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (id + j < last) function(fmaxf(x[j], minus_infinity()), id + j);
        }
      }
    }
  }
  template <int kLoads = 4, class Visit>
  __device__ __forceinline__ void visit_all(const Visit& function) const {
    visit<kLoads>(0, vocab_size, thread_index(), num_threads(), function);
  }
};

}  // namespace kvcrush::cuda::sampling
