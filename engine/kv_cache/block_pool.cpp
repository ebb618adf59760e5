#include "engine/kv_cache/block_pool.h"

#include <numeric>

#include "engine/core/status.h"

namespace kvcrush {

BlockPool::BlockPool(int num_blocks)
    : num_blocks_(num_blocks), free_(num_blocks), is_free_(num_blocks, true) {
  KVCRUSH_CHECK(num_blocks > 0);
  std::iota(free_.rbegin(), free_.rend(), 0);  // block 0 on top
}

BlockPool::~BlockPool() {
  KVCRUSH_CHECK(num_used() == 0);
}

BlockId BlockPool::take() {
  if (free_.empty() && reserve_ != nullptr && reserve_->num_idle_blocks() > 0) reserve_->give_back_idle();
  KVCRUSH_CHECK(!free_.empty());
  const BlockId block = free_.back();
  free_.pop_back();
  is_free_[block] = false;
  return block;
}

void BlockPool::give_back(std::span<const BlockId> blocks) {
  for (BlockId block : blocks) {
    KVCRUSH_CHECK(!is_free_[block]);
    is_free_[block] = true;
    free_.push_back(block);
  }
}

}  // namespace kvcrush
