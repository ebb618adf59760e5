// The largest logit, and the draws: by id where all tokens may come, else by rank.
#pragma once

#include "engine/core/splitmix64.h"
#include "engine/kernels/cuda/sampling_find.cuh"

namespace kvcrush::cuda::sampling {

inline constexpr float kLargestFinite = 0x1.fffffep127F;

struct Extremes {
  float max;      // -infinity: no token is possible
  int id;         // of max, the lowest
  float low;      // the smallest finite logit; +infinity if there is none
  float own_max;  // of this thread's logits
};

__device__ inline Extremes scan(const LogitsRow& row, SampleShared& s) {
  float max = minus_infinity();
  float low = -minus_infinity();
  int id = 0;
  row.visit_all([&](float logit, int i) {
    if (logit > max) {
      max = logit;
      id = i;
    }
    if (logit >= -kLargestFinite) low = fminf(low, logit);
  });
  Word ends[2] = {rank_of(max, id), order_key(-low)};
  block_max(ends, s);
  return {logit_of(ends[0]), id_of(ends[0]), -from_order_key(static_cast<unsigned>(ends[1])), max};
}

// The least mass that is a share of all, or exceeds it.
__device__ __forceinline__ Goal share_of(double share, Mass mass, bool exceed) {
  const double wanted = share * static_cast<double>(mass);
  auto amount = static_cast<Mass>(wanted);
  if (exceed || static_cast<double>(amount) < wanted) ++amount;
  return {amount < mass ? amount : mass, true};
}

// One warp's, of the 128 tokens from `first` on.
template <class MassAt>
__device__ __forceinline__ void draw_in_warp(const LogitsRow& row, int first, Mass goal,
                                             const MassAt& mass_at, SampleShared& s) {
  const int own_first = first + thread_index() % kWarpLanes * 4;
  const float4 loaded = row.four(own_first);
  const Mass masses[4] = {
      mass_at(fmaxf(loaded.x, minus_infinity())), mass_at(fmaxf(loaded.y, minus_infinity())),
      mass_at(fmaxf(loaded.z, minus_infinity())), mass_at(fmaxf(loaded.w, minus_infinity()))};
  const Mass own = masses[0] + masses[1] + masses[2] + masses[3];
  Mass before = own;
  for (int offset = 1; offset < kWarpLanes; offset *= 2) {
    const Mass left = __shfl_up_sync(kAllLanes, before, static_cast<unsigned>(offset));
    if (thread_index() % kWarpLanes >= offset) before += left;
  }
  before -= own;
  for (int j = 0; j < 4; ++j) {
    if (before < goal && before + masses[j] >= goal) s.drawn = own_first + j;
    before += masses[j];
  }
}

// Mass is laid out by id. The part of the row in which it reaches the goal shrinks to what a warp holds.
__device__ inline int draw_by_id(const LogitsRow& row, const Weights& weights, float min_p, double uniform,
                                 SampleShared& s) {
  const int lane = thread_index() % kWarpLanes;
  const int warp = thread_index() / kWarpLanes;
  const int num_warps = num_threads() / kWarpLanes;
  constexpr int kWarpTokens = 4 * kWarpLanes;
  const auto mass_at = [&](float logit) {
    const float weight = weights.of(logit);
    return weight >= min_p ? mass_of(weight) : Mass{0};
  };
  int first = 0;
  int last = row.vocab_size;
  Mass goal = 0;
  do {
    const int chunks = (last - first + kWarpTokens - 1) / kWarpTokens;
    const int part = (chunks + num_warps - 1) / num_warps * kWarpTokens;
    const int own_first = first + warp * part;
    Mass mass = 0;
    row.visit<4>(own_first, own_first + part < last ? own_first + part : last, lane, kWarpLanes,
                 [&](float logit, int) { mass += mass_at(logit); });
    mass = warp_sum(mass);
    if (lane == 0) s.words[warp] = mass;
    __syncthreads();
    if (goal == 0) {
      for (int i = 0; i < num_warps; ++i) goal += s.words[i];
      goal = share_of(uniform, goal, true).amount;
    }
    int chosen = 0;
    for (; s.words[chosen] < goal; ++chosen) goal -= s.words[chosen];
    __syncthreads();
    first += chosen * part;
    last = first + part < last ? first + part : last;
  } while (last - first > kWarpTokens);

  if (warp == 0) draw_in_warp(row, first, goal, mass_at, s);
  __syncthreads();
  return s.drawn;
}

// In [0, 1), by nothing but stream and step; the CPU's.
__device__ __forceinline__ double uniform_draw(const SampleRow& p) {
  constexpr double kUnit = 1.0 / static_cast<double>(Word{1} << 53);
  return static_cast<double>(splitmix64(p.stream_key + static_cast<std::uint64_t>(p.step)) >> 11) * kUnit;
}

// Of the mass that goes to the likeliest tokens, what those get that min_p admits. Some may be missing from
// the list, but then all that `kept` is for are admitted.
__device__ inline Mass limit_to_min_p(const Tokens& tokens, float min_p, Mass kept, SampleShared& s) {
  Word admitted[1] = {0};
  tokens.visit([&](float logit, Rank, Mass mass) {
    if (tokens.weights.of(logit) >= min_p) admitted[0] += mass;
  });
  block_sum(admitted, s);
  return admitted[0] < kept ? admitted[0] : kept;
}

// Mass is laid out by rank: each truncation says how much of it is left, the draw where in it.
__device__ inline int draw_by_rank(const Tokens& tokens, const SampleRow& p, int top_k, Mass kept,
                                   SampleShared& s) {
  fill_bins(tokens, s);
  for (int stage = top_k > 0 ? 0 : 1;; ++stage) {
    if (stage == 1 && p.top_p >= 1) continue;
    if (stage == 2 && p.min_p > 0) kept = limit_to_min_p(tokens, p.min_p, kept, s);
    const Goal goal = stage == 0   ? Goal{static_cast<Word>(top_k), false}
                      : stage == 1 ? share_of(static_cast<double>(p.top_p), kept, false)
                                   : share_of(uniform_draw(p), kept, true);
    const Found found = find(tokens, goal, s);
    if (stage == 2) return id_of(found.rank);
    kept = found.mass;
  }
}

__device__ inline int draw_token(const SampleRow& p, const LogitsRow& row, const Extremes& extremes,
                                 SampleShared& s) {
  const int top_k = p.top_k < row.vocab_size ? p.top_k : 0;
  const Weights weights{extremes.max, kLog2E / p.temperature, false};
  if (top_k <= 0 && p.top_p >= 1) return draw_by_id(row, weights, p.min_p, uniform_draw(p), s);

  const float range = fminf(extremes.max - extremes.low, kMassLog2 / weights.scale);
  Tokens tokens{row, s, weights, bins_over(extremes.max, range)};
  const int half = num_threads() / 2;
  const int wanted = top_k > 0 && top_k < half ? top_k : half;
  const RowMass mass = list_likeliest(tokens, extremes.own_max, wanted, s);
  const bool enough = top_k > 0
                          ? s.num_listed >= top_k
                          : mass.listed >= share_of(static_cast<double>(p.top_p), mass.all, false).amount;
  tokens.listed = enough && s.num_listed <= kMaxListed;
  return draw_by_rank(tokens, p, top_k, mass.all, s);
}

}  // namespace kvcrush::cuda::sampling
