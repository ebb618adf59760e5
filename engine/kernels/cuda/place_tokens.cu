#include "engine/kernels/cuda/place_tokens.h"

#include "engine/kernels/cuda/launch.h"

namespace kvcrush::cuda {

namespace {

constexpr int kThreads = 256;

// Grid: jobs, KV heads.
__global__ void __launch_bounds__(kThreads) place_tokens_kernel(const PlaceJob* jobs) {
  const PlaceJob& job = jobs[blockIdx.x];
  if (job.from.tokens == 0) return;
  const auto kv_head = static_cast<int>(blockIdx.y);
  const std::int64_t set = job.num_sets == 1 ? 0 : kv_head;
  const std::int32_t* slots = job.kept_slots + set * job.num_kept;
  std::int32_t* to = job.to + static_cast<std::int64_t>(kv_head) * job.to_stride;
  for (auto i = static_cast<int>(threadIdx.x); i < job.num_kept; i += kThreads)
    to[i] = cpu::position_of(job.from, kv_head, slots[i]);
}

}  // namespace

void place_tokens(const PlaceJob* jobs, int num_jobs, int num_kv_heads, Stream stream) {
  if (num_jobs == 0) return;
  const dim3 grid{static_cast<unsigned>(num_jobs), static_cast<unsigned>(num_kv_heads)};
  launch<place_tokens_kernel>(LaunchShape{grid, dim3{kThreads}}, stream, jobs);
}

}  // namespace kvcrush::cuda
