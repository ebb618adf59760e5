#include "engine/kv_cache/block_table.h"

#include <algorithm>
#include <utility>

#include "engine/core/status.h"

namespace kvcrush {

int blocks_for(const cpu::KvFormat& format, int num_packed, int num_tail) {
  const int packed = num_packed == 0 ? 0 : cpu::ceil_div(num_packed, format.packed_tokens_per_block);
  return packed + cpu::ceil_div(num_tail, format.tail_tokens_per_block);
}

BlockTable::BlockTable(BlockTable&& other) noexcept
    : pool_(other.pool_),
      format_(other.format_),
      blocks_(std::exchange(other.blocks_, {})),
      num_packed_tokens_(std::exchange(other.num_packed_tokens_, 0)),
      num_tail_tokens_(std::exchange(other.num_tail_tokens_, 0)) {}

BlockTable& BlockTable::operator=(BlockTable&& other) noexcept {
  if (this != &other) {
    clear();
    pool_ = other.pool_;
    format_ = other.format_;
    blocks_ = std::exchange(other.blocks_, {});
    num_packed_tokens_ = std::exchange(other.num_packed_tokens_, 0);
    num_tail_tokens_ = std::exchange(other.num_tail_tokens_, 0);
  }
  return *this;
}

int BlockTable::blocks_missing_for(int num_tokens) const {
  return blocks_for(format_, num_packed_tokens_, num_tail_tokens_ + num_tokens) -
         static_cast<int>(blocks_.size());
}

void BlockTable::extend(int num_tokens) {
  for (int missing = blocks_missing_for(num_tokens); missing > 0; --missing) blocks_.push_back(pool_->take());
  num_tail_tokens_ += num_tokens;
}

void BlockTable::assign(int num_packed, int num_tail) {
  KVCRUSH_CHECK(blocks_.empty());
  for (int left = blocks_for(format_, num_packed, num_tail); left > 0; --left)
    blocks_.push_back(pool_->take());
  num_packed_tokens_ = num_packed;
  num_tail_tokens_ = num_tail;
}

int BlockTable::shrink(int num_packed, int num_tail) {
  KVCRUSH_CHECK(num_packed >= 0 && num_tail >= 0 && num_packed + num_tail <= num_cached_tokens());
  const int keep = blocks_for(format_, num_packed, num_tail);
  const int freed = static_cast<int>(blocks_.size()) - keep;
  KVCRUSH_CHECK(freed >= 0);
  pool_->give_back(std::span(blocks_).subspan(static_cast<std::size_t>(keep)));
  if (freed > 0) ++revision_;
  blocks_.resize(static_cast<std::size_t>(keep));
  num_packed_tokens_ = num_packed;
  num_tail_tokens_ = num_tail;
  return freed;
}

SequenceCache::SequenceCache(BlockPool& pool, int num_layers, const cpu::KvFormat& format)
    : pool_(&pool), format_(format), num_evicted_(static_cast<std::size_t>(num_layers), 0) {
  layers_.reserve(static_cast<std::size_t>(num_layers));
  for (int layer = 0; layer < num_layers; ++layer) layers_.emplace_back(pool, format);
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

bool SequenceCache::try_assign(std::span<const LayerShape> shapes) {
  KVCRUSH_CHECK(shapes.size() == layers_.size());
  int wanted = 0;
  for (const LayerShape& shape : shapes) wanted += blocks_for(format_, shape.num_packed, shape.num_tail);
  if (wanted > pool_->num_free()) return false;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    layers_[i].assign(shapes[i].num_packed, shapes[i].num_tail);
    num_evicted_[i] = shapes[i].num_evicted;
  }
  return true;
}

int SequenceCache::shrink(int layer, int num_packed, int num_tail) {
  num_evicted_[layer] += layers_[layer].num_cached_tokens() - num_packed - num_tail;
  return layers_[layer].shrink(num_packed, num_tail);
}

void SequenceCache::drop_newest(int num_tokens) {
  for (BlockTable& layer : layers_)
    layer.shrink(layer.num_packed_tokens(), layer.num_tail_tokens() - num_tokens);
}

void SequenceCache::clear() {
  for (BlockTable& layer : layers_) layer.clear();
  std::fill(num_evicted_.begin(), num_evicted_.end(), 0);
}

}  // namespace kvcrush
