#include "engine/kv_cache/sequence_cache.h"

#include <algorithm>
#include <utility>

#include "engine/core/status.h"

namespace kvcrush {

namespace {

// Blocks of a table of `wanted` ones that go elsewhere when it is rewritten.
std::size_t num_copied(const BlockTable& table, std::size_t wanted) {
  return std::min(static_cast<std::size_t>(table.num_shared_blocks()), wanted);
}

}  // namespace

SequenceCache::SequenceCache(BlockPool& pool, int num_layers, const cpu::KvFormat& format,
                             std::span<const int> windows)
    : pool_(&pool), format_(format), num_evicted_(static_cast<std::size_t>(num_layers), 0) {
  layers_.reserve(static_cast<std::size_t>(num_layers));
  for (int layer = 0; layer < num_layers; ++layer) {
    const int window = windows.empty() ? 0 : windows[static_cast<std::size_t>(layer)];
    layers_.emplace_back(pool, format, window);
  }
}

SequenceCache::SequenceCache(SequenceCache&& other) noexcept
    : pool_(other.pool_),
      format_(other.format_),
      layers_(std::move(other.layers_)),
      num_evicted_(std::move(other.num_evicted_)),
      prefixes_(other.prefixes_),
      shared_(std::exchange(other.shared_, {})),
      spares_(std::exchange(other.spares_, {})) {}

int SequenceCache::max_cached_tokens() const {
  int longest = 0;
  for (const BlockTable& layer : layers_) longest = std::max(longest, layer.num_cached_tokens());
  return longest;
}

int SequenceCache::num_blocks() const {
  auto total = static_cast<int>(spares_.size());
  for (const BlockTable& layer : layers_) total += static_cast<int>(layer.blocks().size());
  return total;
}

bool SequenceCache::is_whole() const {
  return std::all_of(layers_.begin(), layers_.end(), [](const BlockTable& layer) {
    return layer.num_packed_tokens() == 0 && layer.num_gone_tokens() == layer.dropped_since_settled().total();
  });
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
    restore(i, shapes[i]);
  }
  return true;
}

void SequenceCache::restore(std::size_t layer, const LayerShape& shape) {
  num_evicted_[layer] = shape.num_evicted;
  layers_[layer].restore_window(shape.num_evicted + shape.num_dropped, shape.dropped_tiles,
                                shape.dropped_since_settled, shape.positions);
}

SequenceCache::LayerShape SequenceCache::shape(int layer) const {
  const BlockTable& table = layers_[layer];
  return {.num_packed = table.num_packed_tokens(),
          .num_tail = table.num_tail_tokens(),
          .num_evicted = num_evicted_[layer],
          .num_dropped = num_dropped(layer),
          .dropped_since_settled = table.dropped_since_settled(),
          .dropped_tiles = table.dropped_tiles(),
          .positions = table.positions()};
}

WindowReport SequenceCache::drop_past_windows(int num_newest, int num_kv_heads) {
  WindowReport report;
  for (BlockTable& layer : layers_) {
    const std::size_t before = layer.blocks().size();
    report.tokens_dropped += layer.drop_past_window(num_newest, num_kv_heads);
    report.blocks_freed += static_cast<std::int64_t>(before - layer.blocks().size());
  }
  if (shared_.entries.empty()) return report;
  for (std::size_t group = 1; group < prefixes_->groups().size(); ++group) {
    const int left = layers_[prefixes_->groups()[group].layers.front()].num_shared_blocks();
    prefixes_->release_passed(shared_, group, shared_.entries.size() - static_cast<std::size_t>(left));
  }
  return report;
}

bool SequenceCache::shares_with_fork(std::span<const LayerShape> shapes) const {
  if (shared_.entries.empty()) return false;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    if (shapes[i].num_packed > 0 || shapes[i].num_evicted > 0 ||
        shapes[i].num_tail != layers_[i].num_tail_tokens())
      return false;
  }
  return true;
}

bool SequenceCache::try_fork(const SequenceCache& trunk, std::span<const LayerShape> shapes) {
  if (!trunk.shares_with_fork(shapes)) return try_assign(shapes);
  int wanted = -trunk.num_shared_blocks();
  for (const LayerShape& shape : shapes) wanted += blocks_for(format_, 0, shape.num_tail);
  if (wanted > pool_->num_free()) return false;
  prefixes_ = trunk.prefixes_;
  shared_ = trunk.shared_;
  prefixes_->hold(shared_);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const BlockTable& table = trunk.layers_[i];
    for (const BlockId block : table.blocks().first(static_cast<std::size_t>(table.num_shared_blocks())))
      layers_[i].begin_with(block);
    layers_[i].extend(shapes[i].num_tail - layers_[i].num_tail_tokens());
    restore(i, shapes[i]);
  }
  return true;
}

int SequenceCache::shrink(int layer, int num_packed, int num_tail) {
  const int evicted = layers_[layer].num_cached_tokens() - num_packed - num_tail;
  num_evicted_[layer] += evicted;
  layers_[layer].add_gone(evicted);
  return layers_[layer].shrink(num_packed, num_tail);
}

void SequenceCache::drop_newest(int num_tokens) {
  for (BlockTable& layer : layers_)
    layer.shrink(layer.num_packed_tokens(), layer.num_tail_tokens() - num_tokens);
}

void SequenceCache::clear() {
  for (BlockTable& layer : layers_) layer.clear();
  std::fill(num_evicted_.begin(), num_evicted_.end(), 0);
  if (prefixes_ != nullptr) prefixes_->release(std::exchange(shared_, {}));
  give_back_spares();
}

int SequenceCache::hold_prefix(PrefixCache& prefixes, const PrefixScope& scope,
                               std::span<const TokenId> tokens) {
  KVCRUSH_CHECK(max_cached_tokens() == 0 && shared_.entries.empty());
  prefixes_ = &prefixes;
  shared_ = prefixes.hold(scope, tokens, format_.tail_tokens_per_block);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const std::size_t first = shared_.first_seen[prefixes.group_of(static_cast<int>(i))];
    layers_[i].begin_behind(static_cast<int>(first) * format_.tail_tokens_per_block);
    for (std::size_t j = first; j < shared_.entries.size(); ++j)
      layers_[i].begin_with(shared_.entries[j]->blocks[i]);
  }
  return num_shared_entries() * format_.tail_tokens_per_block;
}

void SequenceCache::share(PrefixCache& prefixes, const PrefixScope& scope, std::span<const TokenId> tokens) {
  prefixes_ = &prefixes;
  const auto width = static_cast<std::size_t>(format_.tail_tokens_per_block);
  const int num_tokens = layers_[0].num_gone_tokens() + layers_[0].num_cached_tokens();
  tokens = tokens.first(std::min(tokens.size(), static_cast<std::size_t>(num_tokens)));
  while ((shared_.entries.size() + 1) * width <= tokens.size()) {
    const std::size_t index = shared_.entries.size();
    std::vector<BlockId> blocks(layers_.size());
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const std::size_t gone = static_cast<std::size_t>(layers_[i].num_gone_tokens()) / width;
      blocks[i] = index < gone ? PrefixCache::kNoBlock : layers_[i].blocks()[index - gone];
    }
    prefixes.append(shared_, scope, tokens.subspan(index * width, width), blocks);
    for (std::size_t i = 0; i < layers_.size(); ++i)
      if (blocks[i] != PrefixCache::kNoBlock) layers_[i].share_next(shared_.entries.back()->blocks[i]);
  }
}

int SequenceCache::num_shared_blocks() const {
  int blocks = 0;
  for (const BlockTable& layer : layers_) blocks += layer.num_shared_blocks();
  return blocks;
}

int SequenceCache::num_blocks_held_by_others() const {
  return shared_.entries.empty() ? 0 : prefixes_->num_blocks_held_by_others(shared_);
}

// Who holds an entry holds those before it.
bool SequenceCache::unshare_own() {
  const std::size_t before = shared_.entries.size();
  while (!shared_.entries.empty() && shared_.entries.back()->parts[0].num_holders == 1) {
    prefixes_->take_out_last(shared_);
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const std::size_t first_seen = shared_.first_seen[prefixes_->group_of(static_cast<int>(i))];
      layers_[i].own_all_but(static_cast<int>(shared_.entries.size() - first_seen));
    }
  }
  return shared_.entries.size() < before;
}

int SequenceCache::spares_missing_for(std::span<const LayerShape> shapes, int num_entries) const {
  int wanted = 0;
  for (const LayerShape& shape : shapes) {
    const int num_shared = std::max(0, num_entries - shape.num_dropped / format_.tail_tokens_per_block);
    wanted += std::min(num_shared, blocks_for(format_, shape.num_packed, shape.num_tail));
  }
  return std::max(0, wanted - static_cast<int>(spares_.size()));
}

bool SequenceCache::try_take_spares(int count) {
  if (count > pool_->num_free()) return false;
  for (; count > 0; --count) spares_.push_back(pool_->take());
  return true;
}

void SequenceCache::give_back_spares() {
  pool_->give_back(std::exchange(spares_, {}));
}

std::vector<std::vector<BlockId>> SequenceCache::rewrite_targets(std::span<const LayerShape> shapes) {
  if (shared_.entries.empty()) return {};
  std::vector<std::vector<BlockId>> targets(layers_.size());
  std::size_t next_spare = 0;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const auto wanted =
        static_cast<std::size_t>(blocks_for(format_, shapes[i].num_packed, shapes[i].num_tail));
    const std::span<const BlockId> blocks = layers_[i].blocks();
    KVCRUSH_CHECK(wanted <= blocks.size());
    targets[i].assign(blocks.begin(), blocks.begin() + static_cast<std::ptrdiff_t>(wanted));
    const std::size_t copied = num_copied(layers_[i], wanted);
    KVCRUSH_CHECK(next_spare + copied <= spares_.size());
    for (std::size_t j = 0; j < copied; ++j) targets[i][j] = spares_[next_spare++];
  }
  return targets;
}

int SequenceCache::finish_rewrite(std::span<const LayerShape> shapes,
                                  std::vector<std::vector<BlockId>> targets) {
  int freed = 0;
  if (targets.empty()) {
    for (int layer = 0; layer < num_layers(); ++layer) {
      const LayerShape& shape = shapes[static_cast<std::size_t>(layer)];
      freed += shrink(layer, shape.num_packed, shape.num_tail);
    }
    give_back_spares();
    return freed;
  }
  std::size_t used = 0;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    used += num_copied(layers_[i], targets[i].size());
    num_evicted_[i] += shapes[i].num_evicted;
    layers_[i].add_gone(shapes[i].num_evicted);
    freed += layers_[i].become(std::move(targets[i]), shapes[i].num_packed, shapes[i].num_tail);
  }
  prefixes_->release(std::exchange(shared_, {}));
  spares_.erase(spares_.begin(), spares_.begin() + static_cast<std::ptrdiff_t>(used));
  give_back_spares();
  return freed;
}

}  // namespace kvcrush
