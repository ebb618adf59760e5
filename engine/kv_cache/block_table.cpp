#include "engine/kv_cache/block_table.h"

#include <algorithm>
#include <utility>

#include "engine/core/status.h"

namespace kvcrush {

BlockTable::BlockTable(BlockTable&& other) noexcept
    : pool_(other.pool_),
      blocks_(std::exchange(other.blocks_, {})),
      num_cached_tokens_(std::exchange(other.num_cached_tokens_, 0)) {}

BlockTable& BlockTable::operator=(BlockTable&& other) noexcept {
  if (this != &other) {
    clear();
    pool_ = other.pool_;
    blocks_ = std::exchange(other.blocks_, {});
    num_cached_tokens_ = std::exchange(other.num_cached_tokens_, 0);
  }
  return *this;
}

int BlockTable::blocks_missing_for(int num_tokens) const {
  return pool_->blocks_for(num_cached_tokens_ + num_tokens) - static_cast<int>(blocks_.size());
}

void BlockTable::extend(int num_tokens) {
  for (int missing = blocks_missing_for(num_tokens); missing > 0; --missing) blocks_.push_back(pool_->take());
  num_cached_tokens_ += num_tokens;
}

int BlockTable::truncate(int num_tokens) {
  KVCRUSH_CHECK(num_tokens >= 0 && num_tokens <= num_cached_tokens_);
  const int keep = pool_->blocks_for(num_tokens);
  const int freed = static_cast<int>(blocks_.size()) - keep;
  pool_->give_back(std::span(blocks_).subspan(keep));
  blocks_.resize(keep);
  num_cached_tokens_ = num_tokens;
  return freed;
}

SequenceCache::SequenceCache(BlockPool& pool, int num_layers) : pool_(&pool), num_evicted_(num_layers, 0) {
  layers_.reserve(num_layers);
  for (int layer = 0; layer < num_layers; ++layer) layers_.emplace_back(pool);
}

int SequenceCache::max_cached_tokens() const {
  int longest = 0;
  for (const BlockTable& layer : layers_) longest = std::max(longest, layer.num_cached_tokens());
  return longest;
}

int SequenceCache::num_blocks() const {
  int total = 0;
  for (const BlockTable& layer : layers_) total += static_cast<int>(layer.blocks().size());
  return total;
}

int SequenceCache::blocks_missing_for(int num_tokens) const {
  int missing = 0;
  for (const BlockTable& layer : layers_) missing += layer.blocks_missing_for(num_tokens);
  return missing;
}

bool SequenceCache::try_extend(int num_tokens) {
  if (blocks_missing_for(num_tokens) > pool_->num_free()) return false;
  for (BlockTable& layer : layers_) layer.extend(num_tokens);
  return true;
}

int SequenceCache::truncate(int layer, int num_tokens) {
  num_evicted_[layer] += layers_[layer].num_cached_tokens() - num_tokens;
  return layers_[layer].truncate(num_tokens);
}

void SequenceCache::clear() {
  for (BlockTable& layer : layers_) layer.clear();
  std::fill(num_evicted_.begin(), num_evicted_.end(), 0);
}

}  // namespace kvcrush
