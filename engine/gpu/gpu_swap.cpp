#include "engine/gpu/gpu_swap.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "engine/core/status.h"

namespace kvcrush {

namespace {

constexpr std::int64_t kSampleBytes = std::int64_t{32} << 20;

}  // namespace

GpuSwap::GpuSwap(const KvStorage& kv, GpuRuntime& runtime) : runtime_(runtime) {
  const at::Tensor& pool = kv.bytes();
  const std::int64_t block_bytes = pool.stride(0);
  const std::int64_t count = std::clamp<std::int64_t>(kSampleBytes / block_bytes, 1, pool.size(0));
  const at::Tensor sample = pool.narrow(0, 0, count);
  const auto round_trip = [&] {
    const auto start = std::chrono::steady_clock::now();
    runtime_.send(runtime_.fetch(sample));
    runtime_.wait_for_copies();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  round_trip();  // pins memory of the host
  seconds_per_block_ = round_trip() / 2 / static_cast<double>(count);
}

at::Tensor GpuSwap::device_index(std::span<const BlockId> blocks, Staging& staging) const {
  const std::vector<std::int64_t> index(blocks.begin(), blocks.end());
  std::int64_t* address = staging.add(index);
  staging.upload();
  return at::from_blob(address, {static_cast<std::int64_t>(index.size())},
                       at::TensorOptions(at::kLong).device(runtime_.device()));
}

void GpuSwap::swap_out(SequenceId id, std::span<const BlockId> blocks, const KvStorage& kv,
                       Staging& staging) {
  kept_[id] = runtime_.fetch(kv.bytes().index_select(0, device_index(blocks, staging)));
}

void GpuSwap::swap_in(SequenceId id, std::span<const BlockId> blocks, const KvStorage& kv, Staging& staging) {
  const auto it = kept_.find(id);
  KVCRUSH_CHECK(it != kept_.end() && it->second.size(0) == static_cast<std::int64_t>(blocks.size()));
  at::Tensor pool = kv.bytes();
  pool.index_copy_(0, device_index(blocks, staging), runtime_.send(it->second));
  kept_.erase(it);
}

}  // namespace kvcrush
