// Which blocks hold one layer of one sequence. Holding is owning: blocks go back to the pool when the table
// dies.
#pragma once

#include <span>
#include <vector>

#include "engine/core/types.h"
#include "engine/kernels/cpu/kv_layout.h"
#include "engine/kv_cache/block_pool.h"

namespace kvcrush {

// Blocks of a layer that holds so many packed (quantised) and tail tokens.
int blocks_for(const cpu::KvFormat& format, int num_packed, int num_tail);

class BlockTable {
 public:
  BlockTable(BlockPool& pool, const cpu::KvFormat& format) : pool_(&pool), format_(format) {}
  ~BlockTable() { clear(); }
  BlockTable(BlockTable&& other) noexcept;
  BlockTable& operator=(BlockTable&& other) noexcept;
  BlockTable(const BlockTable&) = delete;
  BlockTable& operator=(const BlockTable&) = delete;

  int num_cached_tokens() const { return num_packed_tokens_ + num_tail_tokens_; }
  int num_packed_tokens() const { return num_packed_tokens_; }
  int num_tail_tokens() const { return num_tail_tokens_; }
  std::span<const BlockId> blocks() const { return blocks_; }
  // Changes whenever blocks() does other than by growing at the end.
  int revision() const { return revision_; }
  // For kernels; valid until the table changes.
  cpu::CachedLayer cached() const {
    return {blocks_.data(), num_packed_tokens_, num_cached_tokens(), format_};
  }

  // Blocks the pool must still give so that `num_tokens` more tokens fit. New tokens enter the tail.
  int blocks_missing_for(int num_tokens) const;
  // Takes them and counts the tokens as cached; the pool must have them.
  void extend(int num_tokens);
  // From nothing to room for these tokens, as a fork needs it; the pool must have the blocks.
  void assign(int num_packed, int num_tail);
  // Keeps the first blocks only (compaction has filled them) and returns the number of blocks freed.
  int shrink(int num_packed, int num_tail);
  void clear() { shrink(0, 0); }

 private:
  BlockPool* pool_;
  cpu::KvFormat format_;
  std::vector<BlockId> blocks_;
  int revision_ = 0;
  int num_packed_tokens_ = 0;
  int num_tail_tokens_ = 0;
};

// All layers of one sequence. Three counts, never mixed: logical length (the sequence's own), cached (per
// layer), evicted.
class SequenceCache {
 public:
  SequenceCache(BlockPool& pool, int num_layers, const cpu::KvFormat& format);

  const cpu::KvFormat& format() const { return format_; }
  int num_layers() const { return static_cast<int>(layers_.size()); }
  const BlockTable& layer(int layer) const { return layers_[layer]; }
  int max_cached_tokens() const;
  int num_blocks() const;
  int num_evicted(int layer) const { return num_evicted_[layer]; }

  // Room for `num_tokens` more in every layer, all or nothing. False: the pool has too few free blocks.
  [[nodiscard]] bool try_extend(int num_tokens);
  int blocks_missing_for(int num_tokens) const;
  // What one layer of a fork holds: tokens by storage, and how many of the trunk's it does without.
  struct LayerShape {
    int num_packed = 0;
    int num_tail = 0;
    int num_evicted = 0;
  };
  // The cache is empty and takes blocks for these shapes, [num_layers], all or nothing.
  [[nodiscard]] bool try_assign(std::span<const LayerShape> shapes);
  // After compaction of `layer`. Returns blocks freed.
  int shrink(int layer, int num_packed, int num_tail);
  // Forgets the newest tokens of every layer; they are in the tail.
  void drop_newest(int num_tokens);
  // Gives everything back and forgets evictions, as for a sequence that will be recomputed.
  void clear();

 private:
  BlockPool* pool_;
  cpu::KvFormat format_;
  std::vector<BlockTable> layers_;
  std::vector<int> num_evicted_;  // [num_layers]
};

}  // namespace kvcrush
