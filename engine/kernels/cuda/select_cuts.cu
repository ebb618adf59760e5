#include "engine/kernels/cuda/launch.h"
#include "engine/kernels/cuda/select.cuh"

namespace kvcrush::cuda {

namespace {

// A radix search as TopSelection::find() does it, 11, 11 and 10 bits at a time.
constexpr int kNumBins = 1 << 11;
constexpr int kNumDigits = 3;
static_assert(kNumBins == kKeysPerLane * kSelectThreads);

struct CutScratch {
  unsigned bins[kNumBins];
  unsigned warp_sums[kSelectWarps];
  // What find_bin() found.
  unsigned bin;
  unsigned rank;   // in the bin
  bool takes_all;  // of the bin
  int tie_index;
};

// Calls function(key, index) for all keys of a row, a whole warp at a time.
template <class Function>
__device__ __forceinline__ void for_keys(const std::uint32_t* keys, int row_keys, const Function& function) {
  int next_index = thread_index() * kKeysPerLane;
  if (next_index >= row_keys) return;
  uint4 next = *reinterpret_cast<const uint4*>(keys + next_index);
  while (next_index < row_keys) {
    const uint4 four = next;
    const int index = next_index;
    next_index += kSelectThreads * kKeysPerLane;
    if (next_index < row_keys) next = *reinterpret_cast<const uint4*>(keys + next_index);
    function(four.x, index);
    function(four.y, index + 1);
    function(four.z, index + 2);
    function(four.w, index + 3);
  }
}

__device__ __forceinline__ void clear_bins(CutScratch& scratch) {
  reinterpret_cast<uint4*>(scratch.bins)[thread_index()] = make_uint4(0, 0, 0, 0);
  __syncthreads();
}

// The bin that holds what is of this rank, counted from 1 in the last bin on downwards.
__device__ __forceinline__ void find_bin(CutScratch& scratch, unsigned rank) {
  __syncthreads();
  int bin = kNumBins - 1 - kKeysPerLane * thread_index();
  const uint4 four = reinterpret_cast<const uint4*>(scratch.bins)[bin / kKeysPerLane];
  const unsigned own = four.x + four.y + four.z + four.w;
  const unsigned before = block_sum(own, scratch.warp_sums).before;
  if (before < rank && rank <= before + own) {
    unsigned left = rank - before;
    while (scratch.bins[bin] < left) left -= scratch.bins[bin--];
    scratch.bin = static_cast<unsigned>(bin);
    scratch.rank = left;
    scratch.takes_all = scratch.bins[bin] == left;
  }
  __syncthreads();
}

// Index of the rank-th of the keys that equal `key`, counted from 1: the piece of the row that holds it, then
// its place there.
__device__ int index_of_tie(const std::uint32_t* keys, int row_keys, unsigned key, unsigned rank,
                            CutScratch& scratch) {
  const int piece_keys =
      (row_keys + kNumBins * kSelectRowPadding - 1) / (kNumBins * kSelectRowPadding) * kSelectRowPadding;
  clear_bins(scratch);
  for_keys(keys, row_keys, [&](unsigned one, int index) {
    const unsigned ties = __ballot_sync(kAllLanes, one == key ? 1 : 0);
    if (ties != 0 && thread_index() % kWarpLanes == 0)
      atomicAdd(&scratch.bins[kNumBins - 1 - index / piece_keys], static_cast<unsigned>(__popc(ties)));
  });
  find_bin(scratch, rank);
  if (thread_index() < kWarpLanes) {
    int index = (kNumBins - 1 - static_cast<int>(scratch.bin)) * piece_keys + thread_index();
    auto left = static_cast<int>(scratch.rank);
    unsigned ties = __ballot_sync(kAllLanes, keys[index] == key ? 1 : 0);
    while (__popc(ties) < left) {
      left -= __popc(ties);
      index += kWarpLanes;
      ties = __ballot_sync(kAllLanes, keys[index] == key ? 1 : 0);
    }
    if (keys[index] == key && __popc(ties & lanes_before(thread_index())) == left - 1)
      scratch.tie_index = index;
  }
  __syncthreads();
  return scratch.tie_index;
}

__device__ TopCut find_cut(const std::uint32_t* keys, int row_keys, int count, CutScratch& scratch) {
  if (count == 0) return {0xffffffffU, -1};
  unsigned prefix = 0;
  unsigned fixed = 0;  // bits that the digits before took
  auto rank = static_cast<unsigned>(count);
#pragma unroll
  for (int digit = 0; digit < kNumDigits; ++digit) {
    const int shift = digit == 0 ? 21 : digit == 1 ? 10 : 0;
    const unsigned mask = digit == 2 ? kNumBins / 2 - 1 : kNumBins - 1;
    clear_bins(scratch);
    for_keys(keys, row_keys, [&](unsigned key, int) {
      count_in_bin(scratch.bins, (key & fixed) == prefix, key >> shift & mask);
    });
    find_bin(scratch, rank);
    prefix |= scratch.bin << shift;
    fixed |= mask << shift;
    rank = scratch.rank;
    if (scratch.takes_all) return {prefix, row_keys};
  }
  return {prefix, index_of_tie(keys, row_keys, prefix, rank, scratch)};
}

// Grid: rows, jobs. Rows are the sets' importance, then the heads' scores.
__global__ void __launch_bounds__(kSelectThreads) cut_kernel(const SelectJob* __restrict__ jobs) {
  const SelectJob& job = jobs[blockIdx.y];
  const auto row = static_cast<int>(blockIdx.x);
  const bool has_representatives = job.num_representatives > 0;
  if (job.num_candidates == 0 || row >= job.num_sets + (has_representatives ? job.num_heads : 0)) return;
  const bool is_set = row < job.num_sets;
  const std::uint32_t* keys =
      is_set ? job.buffers.importance + static_cast<std::int64_t>(row) * job.row_keys
             : job.buffers.scores + static_cast<std::int64_t>(row - job.num_sets) * job.row_keys;
  if (is_set && has_representatives) {  // for the kernel that comes next
    std::uint32_t* counts = job.buffers.bit_counts + static_cast<std::ptrdiff_t>(row) * bits_of_set(job);
    for (int bit = thread_index(); bit < bits_of_set(job); bit += kSelectThreads) counts[bit] = 0;
  }
  auto& scratch = *reinterpret_cast<CutScratch*>(dynamic_shared());
  const int count = job.num_important + (is_set ? 0 : job.num_representatives);
  const TopCut cut = find_cut(keys, job.row_keys, count, scratch);
  if (thread_index() == 0) job.buffers.cuts[row] = cut;
}

// A bit for each of a thread's four candidates that `cut` takes.
__device__ __forceinline__ unsigned taken(const TopCut& cut, const std::uint32_t* keys, int index) {
  const uint4 four = *reinterpret_cast<const uint4*>(keys);
  return (takes(cut, four.x, index) ? 1U : 0U) | (takes(cut, four.y, index + 1) ? 2U : 0U) |
         (takes(cut, four.z, index + 2) ? 4U : 0U) | (takes(cut, four.w, index + 3) ? 8U : 0U);
}

// Adds to counts[bit] how many of the warp's evicted candidates have the bit.
__device__ __forceinline__ void count_bits(const unsigned (&words)[kKeysPerLane], unsigned evicted,
                                           int num_bits, std::uint32_t* counts) {
  unsigned own = 0;  // of bit `lane`
  for (int bit = 0; bit < num_bits; ++bit) {
    unsigned count = 0;
#pragma unroll
    for (int i = 0; i < kKeysPerLane; ++i) count += words[i] >> bit & evicted >> i & 1U;
    count = __reduce_add_sync(kAllLanes, count);
    own = thread_index() % kWarpLanes == bit ? count : own;
  }
  if (own > 0) atomicAdd(counts + thread_index() % kWarpLanes, own);
}

// Grid: tiles, sets, jobs. A thread signs four neighbouring candidates, 32 bits at a time: a head that wants
// the token sets its bit. The words take the place of scores that this thread has read before.
__global__ void __launch_bounds__(kTileThreads) sign_kernel(const SelectJob* __restrict__ jobs) {
  const SelectJob& job = jobs[blockIdx.z];
  const auto set = static_cast<int>(blockIdx.y);
  const int index = (static_cast<int>(blockIdx.x) * kTileThreads + thread_index()) * kKeysPerLane;
  // Rows end with a whole warp.
  if (job.num_representatives == 0 || set >= job.num_sets || index >= job.row_keys) return;
  const int num_bits = bits_of_set(job);
  const int heads_per_bit = job.heads_per_bit;
  const int first_head = set * heads_of_set(job);
  const std::int64_t row_keys = job.row_keys;
  std::uint32_t* rows = job.buffers.scores + first_head * row_keys + index;
  const TopCut* cuts = job.buffers.cuts + job.num_sets + first_head;
  // Padding counts as evicted, but has no bits.
  const unsigned evicted =
      ~taken(job.buffers.cuts[set], job.buffers.importance + set * row_keys + index, index);

  for (int first_bit = 0; first_bit < num_bits; first_bit += 32) {
    unsigned words[kKeysPerLane] = {};
    const int bits_here = num_bits - first_bit < 32 ? num_bits - first_bit : 32;
    for (int i = 0; i < bits_here * heads_per_bit; ++i) {
      const int head = first_bit * heads_per_bit + i;
      const unsigned wanted = taken(cuts[head], rows + head * row_keys, index);
#pragma unroll
      for (int j = 0; j < kKeysPerLane; ++j) words[j] |= (wanted >> j & 1U) << i / heads_per_bit;
    }
    *reinterpret_cast<uint4*>(rows + first_bit / 32 * row_keys) =
        make_uint4(words[0], words[1], words[2], words[3]);
    if (job.anchor == AnchorKind::kMean)
      count_bits(words, evicted, bits_here, job.buffers.bit_counts + set * num_bits + first_bit);
  }
}

}  // namespace

void run_cuts(const SelectLaunch& shape, const SelectJob* jobs, Stream stream) {
  const auto rows = static_cast<unsigned>(shape.num_sets + shape.num_scored_heads);
  launch<cut_kernel>(LaunchShape{dim3{rows, static_cast<unsigned>(shape.num_jobs)}, dim3{kSelectThreads},
                                 sizeof(CutScratch)},
                     stream, jobs);
}

void run_sign(const SelectLaunch& shape, const SelectJob* jobs, Stream stream) {
  const auto tiles = static_cast<unsigned>((shape.row_keys + kTileKeys - 1) / kTileKeys);
  launch<sign_kernel>(
      LaunchShape{dim3{tiles, static_cast<unsigned>(shape.num_sets), static_cast<unsigned>(shape.num_jobs)},
                  dim3{kTileThreads}},
      stream, jobs);
}

}  // namespace kvcrush::cuda
