#include "engine/kernels/cuda/launch.h"
#include "engine/kernels/cuda/select.cuh"

// Every float operation here is the one that token_scores() and weigh_tokens() do, rounded the same and in
// the same order, so that even ties fall alike.

namespace kvcrush::cuda {

namespace {

constexpr int kPaddedTile = kTileKeys + kMaxPoolTaps;
constexpr int kLoads = (kPaddedTile + kTileThreads - 1) / kTileThreads;

// One head's values of a tile and of half a kernel on either side, on their way to shared memory.
class TileReader {
 public:
  __device__ __forceinline__ TileReader(const SelectJob& job, int begin)
      : job_(job),
        begin_(begin - job.pool_kernel / 2),
        // Neither kind of pool takes anything from beyond the candidates.
        beyond_(job.is_gaussian ? 0.0F : minus_infinity()) {}

  __device__ __forceinline__ void fetch(int head) {
    const std::int64_t num_tokens = job_.num_tokens;
    const int kv_head = head / (job_.num_heads / job_.num_kv_heads);
    const float* row = nullptr;
    if (job_.source == ScoreSource::kAttention) row = job_.probability_sums + head * num_tokens;
    if (job_.source == ScoreSource::kKeys) row = job_.key_scores + kv_head * num_tokens;
    const float* norms = job_.value_norm ? job_.value_norms + kv_head * num_tokens : nullptr;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int slot = job_.num_sink_tokens + candidate(i);
      values_[i] = 0;
      norms_[i] = 1;
      if (!is_candidate(i)) continue;
      values_[i] = row != nullptr ? row[slot] : static_cast<float>(slot);
      if (norms != nullptr) norms_[i] = norms[slot];
    }
  }
  __device__ __forceinline__ void store(float* padded) const {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int place = thread_index() + i * kTileThreads;
      if (place >= kPaddedTile) continue;
      padded[place] = is_candidate(i) ? __fmul_rn(__fdiv_rn(values_[i], job_.divisor), norms_[i]) : beyond_;
    }
  }

 private:
  __device__ __forceinline__ int candidate(int load) const {
    return begin_ + thread_index() + load * kTileThreads;
  }
  __device__ __forceinline__ bool is_candidate(int load) const {
    return candidate(load) >= 0 && candidate(load) < job_.num_candidates;
  }

  const SelectJob& job_;
  int begin_;  // candidate of the first padded value
  float beyond_;
  float values_[kLoads];
  float norms_[kLoads];
};

// Puts the weights, [kMaxPoolTaps], behind two tiles; the caller synchronises.
__device__ __forceinline__ const float* stage_weights(const SelectJob& job, float* padded) {
  float* weights = padded + 2 * kPaddedTile;
  if (thread_index() < kMaxPoolTaps) weights[thread_index()] = job.pool_weights[thread_index()];
  return weights;
}

// Pools of a thread's four neighbouring candidates; `padded` begins with the first one's first tap.
__device__ __forceinline__ void pool(const SelectJob& job, const float* padded, const float* weights,
                                     float (&out)[kKeysPerLane]) {
  float window[2 * kKeysPerLane];
  const auto load = [&](int first) {
    const float4 four = *reinterpret_cast<const float4*>(padded + first);
    window[kKeysPerLane] = four.x;
    window[kKeysPerLane + 1] = four.y;
    window[kKeysPerLane + 2] = four.z;
    window[kKeysPerLane + 3] = four.w;
  };
  load(0);
  for (int i = 0; i < kKeysPerLane; ++i) out[i] = job.is_gaussian ? 0.0F : minus_infinity();
  for (int first_tap = 0; first_tap < job.pool_kernel; first_tap += kKeysPerLane) {
#pragma unroll
    for (int i = 0; i < kKeysPerLane; ++i) window[i] = window[kKeysPerLane + i];
    load(first_tap + kKeysPerLane);
#pragma unroll
    for (int tap = 0; tap < kKeysPerLane; ++tap) {
      if (job.is_gaussian) {  // weights past the kernel are 0 and change nothing
        const float weight = weights[first_tap + tap];
#pragma unroll
        for (int i = 0; i < kKeysPerLane; ++i) out[i] = __fadd_rn(out[i], __fmul_rn(weight, window[i + tap]));
      } else if (first_tap + tap < job.pool_kernel) {
#pragma unroll
        for (int i = 0; i < kKeysPerLane; ++i) out[i] = window[i + tap] > out[i] ? window[i + tap] : out[i];
      }
    }
  }
}

__device__ __forceinline__ void store_four(std::uint32_t* row, int index,
                                           const unsigned (&four)[kKeysPerLane]) {
  *reinterpret_cast<uint4*>(row + index) = make_uint4(four[0], four[1], four[2], four[3]);
}
__device__ __forceinline__ void store_keys(const SelectJob& job, std::uint32_t* row, int index,
                                           const float (&values)[kKeysPerLane]) {
  unsigned keys[kKeysPerLane];
  for (int i = 0; i < kKeysPerLane; ++i) keys[i] = index + i < job.num_candidates ? order_key(values[i]) : 0;
  store_four(row, index, keys);
}

// Of kTileThreads threads. warp_lows: shared memory, [warps].
__device__ __forceinline__ float block_min(float value, float* warp_lows) {
  constexpr int kWarps = kTileThreads / kWarpLanes;
  const float low = -warp_max(-value);
  if (thread_index() % kWarpLanes == 0) warp_lows[thread_index() / kWarpLanes] = low;
  __syncthreads();
  float least = warp_lows[0];
  for (int warp = 1; warp < kWarps; ++warp) least = warp_lows[warp] < least ? warp_lows[warp] : least;
  return least;
}

// Grid: query heads, jobs. All tiles of a head's row in turn, scored as the next kernel scores them.
__global__ void __launch_bounds__(kTileThreads) lowest_kernel(const SelectJob* __restrict__ jobs) {
  const SelectJob& job = jobs[blockIdx.y];
  const auto head = static_cast<int>(blockIdx.x);
  if (job.buffers.unseen == nullptr || head >= job.num_heads) return;
  cpu::CachedLayer cache;
  cache.window = job.sliding_window;
  const int kv_head = head / (job.num_heads / job.num_kv_heads);
  const int end = cpu::first_in_window(cache, kv_head, job.num_tokens) - job.num_sink_tokens;
  float lowest = -minus_infinity();
  if (end > 0) {
    auto* padded = reinterpret_cast<float*>(dynamic_shared());  // [2, kPaddedTile]
    const float* weights = stage_weights(job, padded);
    const int offset = thread_index() * kKeysPerLane;
    for (int begin = 0; begin < job.num_candidates; begin += kTileKeys) {
      float* here = padded + begin / kTileKeys % 2 * kPaddedTile;
      TileReader reader(job, begin);
      reader.fetch(head);
      reader.store(here);
      __syncthreads();
      float scores[kKeysPerLane];
      pool(job, here + offset, weights, scores);
      for (int i = 0; i < kKeysPerLane; ++i) {
        if (begin + offset + i < job.num_candidates) lowest = scores[i] < lowest ? scores[i] : lowest;
      }
    }
    __syncthreads();
    lowest = block_min(lowest, padded);
  }
  if (thread_index() == 0) job.buffers.unseen[head] = {end, __fadd_rn(lowest, -1.0F)};
}

// Adds the layer's weighted mean to each set's own sums, which lie as floats where their keys will.
__device__ __forceinline__ void add_layer_mean(const SelectJob& job, int index,
                                               const float (&layer_sums)[kKeysPerLane]) {
  float mean[kKeysPerLane];
  for (int i = 0; i < kKeysPerLane; ++i)
    mean[i] = __fmul_rn(job.layer_weight, __fdiv_rn(layer_sums[i], static_cast<float>(job.num_sets)));
  for (int set = 0; set < job.num_sets; ++set) {
    std::uint32_t* row = job.buffers.importance + static_cast<std::int64_t>(set) * job.row_keys;
    const uint4 own = *reinterpret_cast<const uint4*>(row + index);
    const float sums[kKeysPerLane] = {
        __fadd_rn(__uint_as_float(own.x), mean[0]), __fadd_rn(__uint_as_float(own.y), mean[1]),
        __fadd_rn(__uint_as_float(own.z), mean[2]), __fadd_rn(__uint_as_float(own.w), mean[3])};
    store_keys(job, row, index, sums);
  }
}

__device__ __forceinline__ void sink_unseen(const UnseenCandidates& unseen, int index,
                                            float (&scores)[kKeysPerLane]) {
  for (int i = 0; i < kKeysPerLane; ++i) scores[i] = index + i < unseen.end ? unseen.score : scores[i];
}

// Grid: tiles, jobs. All heads of a tile in turn; the next one's values are fetched meanwhile.
__global__ void __launch_bounds__(kTileThreads) score_kernel(const SelectJob* __restrict__ jobs) {
  const SelectJob& job = jobs[blockIdx.y];
  const int begin = static_cast<int>(blockIdx.x) * kTileKeys;
  if (begin >= job.num_candidates) return;
  auto* padded = reinterpret_cast<float*>(dynamic_shared());  // [2, kPaddedTile]
  const float* weights = stage_weights(job, padded);
  const int offset = thread_index() * kKeysPerLane;
  const int index = begin + offset;
  const bool stores = index < job.row_keys;
  const int heads_per_set = heads_of_set(job);
  float own[kKeysPerLane];
  float layer_sums[kKeysPerLane];
  TileReader reader(job, begin);
  reader.fetch(0);
  for (int head = 0; head < job.num_heads; ++head) {
    float* here = padded + head % 2 * kPaddedTile;
    reader.store(here);
    if (head + 1 < job.num_heads) reader.fetch(head + 1);
    __syncthreads();
    float scores[kKeysPerLane];
    pool(job, here + offset, weights, scores);
    if (job.buffers.unseen != nullptr) sink_unseen(job.buffers.unseen[head], index, scores);
    const std::int64_t row = head;
    if (job.num_representatives > 0 && stores)
      store_keys(job, job.buffers.scores + row * job.row_keys, index, scores);
    for (int i = 0; i < kKeysPerLane; ++i)
      own[i] = head % heads_per_set == 0 ? scores[i] : __fadd_rn(own[i], scores[i]);
    if ((head + 1) % heads_per_set != 0) continue;

    const int set = head / heads_per_set;
    for (int i = 0; i < kKeysPerLane; ++i)
      layer_sums[i] = set == 0 ? own[i] : __fadd_rn(layer_sums[i], own[i]);
    if (!stores) continue;
    std::uint32_t* sums = job.buffers.importance + static_cast<std::int64_t>(set) * job.row_keys;
    if (job.layer_weight == 0) {
      store_keys(job, sums, index, own);
    } else {
      const unsigned bits[kKeysPerLane] = {__float_as_uint(own[0]), __float_as_uint(own[1]),
                                           __float_as_uint(own[2]), __float_as_uint(own[3])};
      store_four(sums, index, bits);
    }
  }
  if (job.layer_weight != 0 && stores) add_layer_mean(job, index, layer_sums);
}

}  // namespace

void run_scores(const SelectLaunch& shape, const SelectJob* jobs, Stream stream) {
  const auto tiles = static_cast<unsigned>((shape.row_keys + kTileKeys - 1) / kTileKeys);
  const auto num_jobs = static_cast<unsigned>(shape.num_jobs);
  constexpr std::size_t kSharedBytes = sizeof(float) * (2 * kPaddedTile + kMaxPoolTaps);
  if (shape.num_windowed_heads > 0) {
    const dim3 grid{static_cast<unsigned>(shape.num_windowed_heads), num_jobs};
    launch<lowest_kernel>(LaunchShape{grid, dim3{kTileThreads}, kSharedBytes}, stream, jobs);
  }
  launch<score_kernel>(LaunchShape{dim3{tiles, num_jobs}, dim3{kTileThreads}, kSharedBytes}, stream, jobs);
}

}  // namespace kvcrush::cuda
