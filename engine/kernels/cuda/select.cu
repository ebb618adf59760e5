#include "engine/core/splitmix64.h"
#include "engine/kernels/cuda/launch.h"
#include "engine/kernels/cuda/select.cuh"

namespace kvcrush::cuda {

namespace {

__host__ __device__ constexpr int words_of(int bits) {
  return (bits + 31) / 32;
}

// Shared memory of a block; bits: of a signature. Without representatives only the first part is used.
struct KeepScratch {
  unsigned* warp_sums;  // [kSelectWarps]
  unsigned* anchor;     // [words_of(bits)]
  unsigned* starts;     // [kSelectWarps, bits + 1]

  __device__ __forceinline__ KeepScratch(std::byte* shared, int bits)
      : warp_sums(reinterpret_cast<unsigned*>(shared)),
        anchor(warp_sums + kSelectWarps),
        starts(anchor + words_of(bits)) {}
  static std::size_t bytes(int bits) {
    return sizeof(unsigned) *
           static_cast<std::size_t>(kSelectWarps + words_of(bits) + kSelectWarps * (bits + 1));
  }
};

// One set's candidates, cut into a part for each warp: whole groups of kSelectRowPadding, in order.
class TokenSet {
 public:
  __device__ __forceinline__ TokenSet(const SelectJob& its_job, int index)
      : job(its_job),
        set(index),
        flags(job.buffers.flags + static_cast<std::int64_t>(set) * job.row_keys / kWarpLanes),
        keys_(job.buffers.importance + static_cast<std::int64_t>(set) * job.row_keys),
        cut_(job.buffers.cuts[set]) {
    const int num_groups = job.row_keys / kSelectRowPadding;
    const int groups_per_warp = (num_groups + kSelectWarps - 1) / kSelectWarps;
    const int begin = thread_index() / kWarpLanes * groups_per_warp;
    const int end = begin + groups_per_warp < num_groups ? begin + groups_per_warp : num_groups;
    first = begin * kSelectRowPadding;
    last = end * kSelectRowPadding;
  }

  // Calls function(index, key, is_important, distance) for the warp's part, 32 candidates at a time. The
  // distance to the anchor is 0 where not kDistances; padding counts as important.
  template <bool kDistances, class Function>
  __device__ __forceinline__ void for_part(const unsigned* anchor, const Function& function) const {
    const int num_words = kDistances ? words_of(bits_of_set(job)) : 0;
    const std::int64_t first_row = set * heads_of_set(job);
    for (int group = first; group < last; group += kSelectRowPadding) {
      const int index = group + thread_index() % kWarpLanes;
      unsigned keys[kKeysPerLane];
      int distances[kKeysPerLane] = {};
#pragma unroll
      for (int i = 0; i < kKeysPerLane; ++i) keys[i] = keys_[index + i * kWarpLanes];
      for (int word = 0; word < num_words; ++word) {
        const std::uint32_t* plane = job.buffers.scores + (first_row + word) * job.row_keys + index;
#pragma unroll
        for (int i = 0; i < kKeysPerLane; ++i) distances[i] += __popc(plane[i * kWarpLanes] ^ anchor[word]);
      }
#pragma unroll
      for (int i = 0; i < kKeysPerLane; ++i) {
        const int here = index + i * kWarpLanes;
        const bool stays = here >= job.num_candidates || takes(cut_, keys[i], here);
        function(here, keys[i], stays, static_cast<unsigned>(distances[i]));
      }
    }
  }
  // 32 candidates' flags, one a lane.
  __device__ __forceinline__ void set_flags(int index, bool stays) const {
    const unsigned word = __ballot_sync(kAllLanes, stays && index < job.num_candidates ? 1 : 0);
    if (index % kWarpLanes == 0) flags[index / kWarpLanes] = word;
  }

  const SelectJob& job;
  const int set;
  std::uint32_t* const flags;
  int first;  // candidates of this warp
  int last;

 private:
  const std::uint32_t* keys_;
  TopCut cut_;
};

__device__ bool anchor_bit(const TokenSet& tokens, int bit) {
  const SelectJob& job = tokens.job;
  const int of_layer = tokens.set * bits_of_set(job) + bit;
  switch (job.anchor) {
    case AnchorKind::kRandom:
      return (splitmix64(job.anchor_seed + static_cast<std::uint64_t>(of_layer)) & 1U) != 0;
    case AnchorKind::kOnes:
      return true;
    case AnchorKind::kAlternating:
      return of_layer % 2 == 1;
    case AnchorKind::kMean: {
      const auto num_evicted = static_cast<unsigned>(job.num_candidates - job.num_important);
      return 2 * job.buffers.bit_counts[of_layer] > num_evicted;
    }
    case AnchorKind::kZeros:
      break;
  }
  return false;
}

// How many evicted tokens of each warp's part have each distance, then where they start in the order by
// (distance, slot).
__device__ void sort_by_distance(const TokenSet& tokens, const KeepScratch& scratch) {
  const int num_bits = bits_of_set(tokens.job);
  const int num_buckets = num_bits + 1;
  const int warp = thread_index() / kWarpLanes;
  const int lane = thread_index() % kWarpLanes;
  unsigned* own = scratch.starts + warp * num_buckets;
  for (int bucket = lane; bucket < num_buckets; bucket += kWarpLanes) own[bucket] = 0;
  for (int word = warp; word < words_of(num_bits); word += kSelectWarps) {
    const int bit = word * 32 + lane;
    const unsigned bits = __ballot_sync(kAllLanes, bit < num_bits && anchor_bit(tokens, bit) ? 1 : 0);
    if (lane == 0) scratch.anchor[word] = bits;
  }
  __syncthreads();
  tokens.for_part<true>(scratch.anchor, [&](int, unsigned, bool is_important, unsigned distance) {
    count_in_bin(own, !is_important, distance);
  });
  __syncthreads();
  unsigned carry = 0;
  for (int first = 0; first < num_buckets * kSelectWarps; first += kSelectThreads) {
    const int i = first + thread_index();
    const bool is_entry = i < num_buckets * kSelectWarps;
    unsigned* entry = scratch.starts + i % kSelectWarps * num_buckets + i / kSelectWarps;
    const BlockSum sum = block_sum(is_entry ? *entry : 0, scratch.warp_sums);
    if (is_entry) *entry = carry + sum.before;
    carry += sum.total;
  }
  __syncthreads();
}

// Offers an evicted token to its group, where the best stays, the lower of equals. Of those that share the
// group of the warp's first one only the best goes.
__device__ __forceinline__ void offer(unsigned long long* best, bool is_evicted, unsigned group, unsigned key,
                                      int index) {
  const unsigned evicted = __ballot_sync(kAllLanes, is_evicted ? 1 : 0);
  if (evicted == 0) return;
  const unsigned common = __shfl_sync(kAllLanes, group, __ffs(static_cast<int>(evicted)) - 1);
  const bool is_together = is_evicted && group == common;
  const unsigned largest = __reduce_max_sync(kAllLanes, is_together ? key : 0);
  const unsigned equals = __ballot_sync(kAllLanes, is_together && key == largest ? 1 : 0);
  const bool is_first = thread_index() % kWarpLanes == __ffs(static_cast<int>(equals)) - 1;
  if (is_first || (is_evicted && !is_together))
    atomicMax(best + group, static_cast<unsigned long long>(key) << 32 | ~static_cast<unsigned>(index));
}

// Flags the important tokens and one of each group of the others. Borders between groups lie at
// floor(g E / R) in the order by (distance, slot); rank r is in group floor(((r + 1) R - 1) / E), and first
// of it where the remainder is below R.
__device__ void flag_with_representatives(const TokenSet& tokens, const KeepScratch& scratch) {
  const SelectJob& job = tokens.job;
  const auto num_evicted = static_cast<unsigned long long>(job.num_candidates - job.num_important);
  const auto num_groups = static_cast<unsigned long long>(job.num_representatives);
  const bool picks_best = job.pick == RepresentativePick::kBest;
  unsigned long long* best = nullptr;  // [groups]
  if (picks_best) {
    best = job.buffers.best + static_cast<std::int64_t>(tokens.set) * job.num_representatives;
    for (int group = thread_index(); group < job.num_representatives; group += kSelectThreads)
      best[group] = 0;
  }
  sort_by_distance(tokens, scratch);
  unsigned* own = scratch.starts + thread_index() / kWarpLanes * (bits_of_set(job) + 1);
  const unsigned before = lanes_before(thread_index() % kWarpLanes);
  constexpr unsigned kNone = 0xffffffffU;
  tokens.for_part<true>(scratch.anchor, [&](int index, unsigned key, bool is_important, unsigned distance) {
    const unsigned alike = __match_any_sync(kAllLanes, is_important ? kNone : distance);
    unsigned rank = 0;
    if (!is_important) rank = own[distance] + static_cast<unsigned>(__popc(alike & before));
    __syncwarp();
    if (!is_important && (alike & before) == 0) own[distance] += static_cast<unsigned>(__popc(alike));
    __syncwarp();
    const unsigned long long place = (rank + 1ULL) * num_groups - 1;
    const auto group = static_cast<unsigned>(place / num_evicted);
    const bool is_border = place - group * num_evicted < num_groups;
    tokens.set_flags(index, is_important || (is_border && !picks_best));
    if (picks_best) offer(best, !is_important, group, key, index);
  });
  if (!picks_best) return;
  __syncthreads();
  for (int group = thread_index(); group < job.num_representatives; group += kSelectThreads) {
    const unsigned index = ~static_cast<unsigned>(best[group]);
    atomicOr(&tokens.flags[index / kWarpLanes], 1U << index % kWarpLanes);
  }
}

// Slots of the flagged candidates, in order.
__device__ void list_flagged(const TokenSet& tokens, std::int32_t* slots, unsigned* warp_sums) {
  const int lane = thread_index() % kWarpLanes;
  const int last_word = tokens.last / kWarpLanes;
  unsigned own = 0;
  for (int word = tokens.first / kWarpLanes + lane; word < last_word; word += kWarpLanes)
    own += static_cast<unsigned>(__popc(tokens.flags[word]));
  // Lanes of a warp take turns with words, so only the warp's start can be used.
  unsigned next = __shfl_sync(kAllLanes, block_sum(own, warp_sums).before, 0);
  for (int first = tokens.first / kWarpLanes; first < last_word; first += kWarpLanes) {
    const unsigned words = first + lane < last_word ? tokens.flags[first + lane] : 0;
    for (int i = 0; i < kWarpLanes && first + i < last_word; ++i) {
      const unsigned word = __shfl_sync(kAllLanes, words, i);
      if ((word >> lane & 1U) != 0) {
        const auto place = next + static_cast<unsigned>(__popc(word & lanes_before(lane)));
        slots[place] = tokens.job.num_sink_tokens + (first + i) * kWarpLanes + lane;
      }
      next += static_cast<unsigned>(__popc(word));
    }
  }
}

__device__ __forceinline__ void list_neighbours(std::int32_t* slots, int count, int first_slot) {
  for (int i = thread_index(); i < count; i += kSelectThreads) slots[i] = first_slot + i;
}

// Grid: sets, jobs.
__global__ void __launch_bounds__(kSelectThreads) keep_kernel(const SelectJob* __restrict__ jobs) {
  const SelectJob& job = jobs[blockIdx.y];
  const auto set = static_cast<int>(blockIdx.x);
  if (set >= job.num_sets) return;
  std::int32_t* slots = job.kept_slots + static_cast<std::int64_t>(set) * job.num_kept;
  if (job.num_candidates == 0) return list_neighbours(slots, job.num_kept, 0);
  const TokenSet tokens(job, set);
  const KeepScratch scratch(dynamic_shared(), bits_of_set(job));
  if (job.num_representatives > 0) {
    flag_with_representatives(tokens, scratch);
  } else {
    tokens.for_part<false>(nullptr, [&](int index, unsigned, bool is_important, unsigned) {
      tokens.set_flags(index, is_important);
    });
  }
  __syncthreads();
  list_neighbours(slots, job.num_sink_tokens, 0);
  list_flagged(tokens, slots + job.num_sink_tokens, scratch.warp_sums);
  list_neighbours(slots + job.num_kept - job.window_tokens, job.window_tokens,
                  job.num_tokens - job.window_tokens);
}

}  // namespace

void select_tokens(const SelectLaunch& shape, const SelectJob* jobs, Stream stream) {
  if (shape.num_jobs == 0) return;
  if (shape.row_keys > 0) {
    run_scores(shape, jobs, stream);
    run_cuts(shape, jobs, stream);
    if (shape.signature_bits > 0) run_sign(shape, jobs, stream);
  }
  const std::size_t shared_bytes = KeepScratch::bytes(shape.signature_bits);
  launch<keep_kernel>(
      LaunchShape{dim3{static_cast<unsigned>(shape.num_sets), static_cast<unsigned>(shape.num_jobs)},
                  dim3{kSelectThreads}, shared_bytes},
      stream, jobs);
}

}  // namespace kvcrush::cuda
