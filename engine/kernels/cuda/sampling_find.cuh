// Finding tokens by their place in the ranking without sorting it: a histogram over the logits' range says
// in which bin a count or a mass is reached, and only that bin's tokens are compared with each other.
#pragma once

#include "engine/kernels/cuda/sampling.cuh"

namespace kvcrush::cuda::sampling {

// Tokens that a choice is made from, in the list or in the whole row. Visits only those that count.
struct Tokens {
  const LogitsRow& row;
  const SampleShared& s;
  Weights weights;
  Bins bins;
  bool listed = false;

  // function(logit, rank, mass), this thread's share.
  template <class Visit>
  __device__ __forceinline__ void visit(const Visit& function) const {
    const auto visit_one = [&](float logit, Rank rank) {
      const Mass mass = mass_of(weights.of(logit));
      if (mass != 0 || weights.count_all) function(logit, rank, mass);
    };
    if (listed) {
#pragma unroll 1
      for (int i = thread_index(); i < s.num_listed; i += num_threads())
        visit_one(logit_of(s.listed[i]), s.listed[i]);
    } else {
      row.visit_all<1>([&](float logit, int id) { visit_one(logit, rank_of(logit, id)); });
    }
  }
};

// For one warp, 32 bins a lane.
__device__ inline void locate(const Histogram& histogram, Search& search) {
  constexpr int kOwn = kBins / kWarpLanes;
  const int lane = thread_index() % kWarpLanes;
  const Goal goal = search.goal;
  Word own_count = 0;
  Mass own_mass = 0;
#pragma unroll 4
  for (int i = 0; i < kOwn; ++i) {
    own_count += histogram.counts[Histogram::slot(lane * kOwn + i)];
    own_mass += histogram.mass(lane * kOwn + i);
  }
  Word count = own_count;
  Mass mass = own_mass;
  for (int offset = 1; offset < kWarpLanes; offset *= 2) {
    const Word count_left = __shfl_up_sync(kAllLanes, count, static_cast<unsigned>(offset));
    const Mass mass_left = __shfl_up_sync(kAllLanes, mass, static_cast<unsigned>(offset));
    if (lane < offset) continue;
    count += count_left;
    mass += mass_left;
  }
  if ((goal.of_mass ? mass : count) < goal.amount) {
    if (lane == kWarpLanes - 1) search.bin = -1, search.mass_before += mass;
    return;
  }
  count -= own_count;
  mass -= own_mass;
  if ((goal.of_mass ? mass : count) >= goal.amount) return;  // a lane before this one
  int bin = lane * kOwn - 1;
  unsigned bin_count = 0;
  Mass bin_mass = 0;
  do {
    count += bin_count;
    mass += bin_mass;
    ++bin;
    bin_count = histogram.counts[Histogram::slot(bin)];
    bin_mass = histogram.mass(bin);
  } while ((goal.of_mass ? mass + bin_mass : count + bin_count) < goal.amount);
  search.goal.amount -= goal.of_mass ? mass : count;
  search.mass_before += mass;
  search.count = bin_count;
  if (search.shift < 0) {
    search.bin = bin;
  } else {
    search.highest -= static_cast<Rank>(bin) << search.shift;
    search.lowest = search.highest - ((Rank{1} << search.shift) - 1);
  }
}

__device__ __forceinline__ void begin_search(Goal goal, SampleShared& s) {
  if (thread_index() == 0) s.search = {goal, 0, 0, 0, ~Rank{0}, 0, -1};
}
// For the block, which meets before and after.
__device__ inline void go_on(SampleShared& s) {
  __syncthreads();
  if (thread_index() < kWarpLanes) locate(s.search.shift < 0 ? s.bins : s.refined, s.search);
  if (thread_index() == 0) s.num_members = 0;
  __syncthreads();
}

__device__ inline void fill_bins(const Tokens& tokens, SampleShared& s) {
  s.bins.clear();
  tokens.visit([&](float logit, Rank, Mass mass) { s.bins.add(tokens.bins.of(logit), mass); });
}

// Each of the few members counts those likelier than itself.
__device__ inline Found find_among_members(SampleShared& s) {
  const Goal goal = s.search.goal;
  for (int i = thread_index(); i < s.num_members; i += num_threads()) {
    const Rank own = s.members[i];
    Word count = 0;
    Mass mass = 0;
#pragma unroll 4
    for (int j = 0; j < s.num_members; ++j) {
      if (s.members[j] <= own) continue;
      ++count;
      mass += s.member_masses[j];
    }
    const Mass own_mass = s.member_masses[i];
    const Word before = goal.of_mass ? mass : count;
    if (before < goal.amount && before + (goal.of_mass ? own_mass : 1) >= goal.amount)
      s.found = {own, s.search.mass_before + mass + own_mass};
  }
  __syncthreads();
  const Found found = s.found;
  __syncthreads();
  return found;
}

// The token that reaches the goal. After fill_bins(). A bin with too many tokens (equal logits, mostly) is
// divided by ranks, each time into kBins parts of the range that they span; two visits a time.
__device__ inline Found find(const Tokens& tokens, Goal goal, SampleShared& s) {
  const auto is_member = [&](float logit, Rank rank) {
    return tokens.bins.of(logit) == s.search.bin && rank <= s.search.highest && rank >= s.search.lowest;
  };
  begin_search(goal, s);
  for (go_on(s); s.search.count > kMaxMembers; go_on(s)) {
    Word ends[2] = {0, 0};
    tokens.visit([&](float logit, Rank rank, Mass) {
      if (!is_member(logit, rank)) return;
      ends[0] = rank > ends[0] ? rank : ends[0];
      ends[1] = ~rank > ends[1] ? ~rank : ends[1];
    });
    block_max(ends, s);
    if (thread_index() == 0) {
      s.search.highest = ends[0];
      s.search.lowest = ~ends[1];
      for (s.search.shift = 0; ((ends[0] - ~ends[1]) >> s.search.shift) >= kBins;) ++s.search.shift;
    }
    s.refined.clear();
    tokens.visit([&](float logit, Rank rank, Mass mass) {
      if (is_member(logit, rank))
        s.refined.add(static_cast<int>((s.search.highest - rank) >> s.search.shift), mass);
    });
  }
  if (s.search.bin < 0) {
    const Found all{0, s.search.mass_before};
    __syncthreads();
    return all;
  }
  tokens.visit([&](float logit, Rank rank, Mass mass) {
    if (!is_member(logit, rank)) return;
    const int i = atomicAdd(&s.num_members, 1);
    s.members[i] = rank;
    s.member_masses[i] = mass;
  });
  __syncthreads();
  return find_among_members(s);
}

// What a row's tokens weigh together.
struct RowMass {
  Mass all;
  Mass listed;
};

// Lists the row's likeliest tokens, at least `count` of them (num_listed says how many), and every token that
// is as likely as the least of them. One pass: the count-th largest of the threads' own largest logits is a
// bound below which no token need be looked at, and above which few are. count: at most the block's threads.
__device__ inline RowMass list_likeliest(const Tokens& tokens, float own_max, int count, SampleShared& s) {
  s.bins.clear();
  s.bins.add(tokens.bins.of(own_max), 0);
  begin_search({static_cast<Word>(count), false}, s);
  go_on(s);
  const int last_bin = s.search.bin;
  if (thread_index() == 0) s.num_listed = 0;
  __syncthreads();
  Word sums[2] = {0, 0};
  tokens.row.visit_all([&](float logit, int id) {
    const Mass mass = mass_of(tokens.weights.of(logit));
    sums[0] += mass;
    if (tokens.bins.of(logit) > last_bin) return;
    sums[1] += mass;
    const int i = atomicAdd(&s.num_listed, 1);
    if (i < kMaxListed) s.listed[i] = rank_of(logit, id);
  });
  block_sum(sums, s);
  return {sums[0], sums[1]};
}

}  // namespace kvcrush::cuda::sampling
