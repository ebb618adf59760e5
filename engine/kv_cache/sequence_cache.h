// The block tables of all layers of one sequence. Three counts, never mixed: logical length (the sequence's
// own), cached (per layer), evicted.
#pragma once

#include <span>
#include <vector>

#include "engine/core/observer.h"
#include "engine/kv_cache/block_table.h"
#include "engine/kv_cache/prefix_cache.h"

namespace kvcrush {

class SequenceCache {
 public:
  // windows: of each layer, as BlockTable has it; empty: no layer has one.
  SequenceCache(BlockPool& pool, int num_layers, const cpu::KvFormat& format,
                std::span<const int> windows = {});
  ~SequenceCache() { clear(); }
  SequenceCache(SequenceCache&& other) noexcept;
  SequenceCache& operator=(SequenceCache&&) = delete;

  const cpu::KvFormat& format() const { return format_; }
  int num_layers() const { return static_cast<int>(layers_.size()); }
  const BlockTable& layer(int layer) const { return layers_[layer]; }
  int max_cached_tokens() const;
  int num_blocks() const;  // shared ones and spares included
  // Tokens that pruning took, and those that left the layer's window.
  int num_evicted(int layer) const { return num_evicted_[layer]; }
  int num_dropped(int layer) const { return layers_[layer].num_gone_tokens() - num_evicted_[layer]; }
  // Every token so far is cached as it was computed, but for those that left a layer's window.
  bool is_whole() const;

  // Room for `num_tokens` more in every layer, all or nothing. False: the pool has too few free blocks.
  [[nodiscard]] bool try_extend(int num_tokens);
  int blocks_missing_for(int num_tokens) const;
  // What one layer of a fork holds: tokens by storage, and how many of the trunk's it does without.
  struct LayerShape {
    int num_packed = 0;
    int num_tail = 0;
    int num_evicted = 0;
    // Of a layer with a window.
    int num_dropped = 0;
    BlockTable::Dropped dropped_since_settled = {};
    int dropped_tiles = 0;
    BlockTable::Positions positions = nullptr;
  };
  LayerShape shape(int layer) const;
  // The cache is empty and takes blocks for these shapes, [num_layers], all or nothing.
  [[nodiscard]] bool try_assign(std::span<const LayerShape> shapes);
  // The same for a fork of `trunk`, whose shared blocks it holds too where the fork has every token as the
  // trunk has it.
  [[nodiscard]] bool try_fork(const SequenceCache& trunk, std::span<const LayerShape> shapes);
  bool shares_with_fork(std::span<const LayerShape> shapes) const;  // of a trunk
  // After compaction of `layer` in place. Returns blocks freed.
  int shrink(int layer, int num_packed, int num_tail);
  // Forgets the newest tokens of every layer; they are in the tail.
  void drop_newest(int num_tokens);
  // Does without what no later query sees, of layers with a window; the num_newest last tokens may still be
  // taken out.
  WindowReport drop_past_windows(int num_newest, int num_kv_heads);
  // After a rewrite: slots of `layer` have these positions (BlockTable).
  void place(int layer, BlockTable::Positions positions) { layers_[layer].settle(std::move(positions)); }
  // Gives everything back and forgets evictions, as for a sequence that will be recomputed.
  void clear();

  // The cache is empty and begins with what the prefix cache has of `tokens`. Returns the number of tokens.
  int hold_prefix(PrefixCache& prefixes, const PrefixScope& scope, std::span<const TokenId> tokens);
  // Shares the full blocks of `tokens`, as far as the cache has them. It is whole.
  void share(PrefixCache& prefixes, const PrefixScope& scope, std::span<const TokenId> tokens);
  int num_shared_entries() const { return static_cast<int>(shared_.entries.size()); }
  int num_shared_blocks() const;  // all layers together, as all counts of blocks
  int num_blocks_held_by_others() const;
  // Nobody else comes to share what it shares now.
  void distrust_shared() { PrefixCache::forget(shared_); }
  // Blocks that nobody else holds are no longer shared. False: there are none.
  bool unshare_own();

  // Blocks that are wanted beside the cache's own before it can be rewritten, if it shares num_entries and
  // has dropped what the shapes say by then: shared ones are never written.
  int spares_missing_for(std::span<const LayerShape> shapes, int num_entries) const;
  [[nodiscard]] bool try_take_spares(int count);
  void give_back_spares();
  // Where each layer's tokens go when it is rewritten into `shapes`, [num_layers]: into its own blocks in
  // place, into spares instead of shared ones. Empty: all in place.
  std::vector<std::vector<BlockId>> rewrite_targets(std::span<const LayerShape> shapes);
  // After that. Returns blocks freed, all layers together.
  int finish_rewrite(std::span<const LayerShape> shapes, std::vector<std::vector<BlockId>> targets);

 private:
  // What is gone from a layer that holds what the shape says.
  void restore(std::size_t layer, const LayerShape& shape);

  BlockPool* pool_;
  cpu::KvFormat format_;
  std::vector<BlockTable> layers_;
  std::vector<int> num_evicted_;  // [num_layers]
  PrefixCache* prefixes_ = nullptr;
  PrefixCache::Held shared_;  // the first blocks of every layer
  std::vector<BlockId> spares_;
};

}  // namespace kvcrush
