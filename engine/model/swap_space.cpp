#include "engine/model/swap_space.h"

#include <ATen/ATen.h>

#include <vector>

#include "engine/core/status.h"

namespace kvcrush {

namespace {

at::Tensor index_of(std::span<const BlockId> blocks, at::Device device) {
  return at::tensor(std::vector<std::int64_t>(blocks.begin(), blocks.end())).to(device);
}

}  // namespace

void SwapSpace::swap_out(SequenceId id, std::span<const BlockId> blocks, const KvStorage& kv) {
  kept_[id] = kv.bytes().index_select(0, index_of(blocks, kv.device())).to(at::kCPU);
}

void SwapSpace::swap_in(SequenceId id, std::span<const BlockId> blocks, const KvStorage& kv) {
  const auto it = kept_.find(id);
  KVCRUSH_CHECK(it != kept_.end() && it->second.size(0) == static_cast<std::int64_t>(blocks.size()));
  at::Tensor pool = kv.bytes();
  pool.index_copy_(0, index_of(blocks, kv.device()), it->second.to(kv.device()));
  kept_.erase(it);
}

}  // namespace kvcrush
