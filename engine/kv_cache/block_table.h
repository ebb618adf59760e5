// Which blocks hold one layer of one sequence. Holding is owning: blocks go back to the pool when the table
// dies.
#pragma once

#include <span>
#include <vector>

#include "engine/core/types.h"
#include "engine/kv_cache/block_pool.h"

namespace kvcrush {

class BlockTable {
 public:
  explicit BlockTable(BlockPool& pool) : pool_(&pool) {}
  ~BlockTable() { clear(); }
  BlockTable(BlockTable&& other) noexcept;
  BlockTable& operator=(BlockTable&& other) noexcept;
  BlockTable(const BlockTable&) = delete;
  BlockTable& operator=(const BlockTable&) = delete;

  int num_cached_tokens() const { return num_cached_tokens_; }
  std::span<const BlockId> blocks() const { return blocks_; }

  // Blocks the pool must still give so that `num_tokens` more tokens fit.
  int blocks_missing_for(int num_tokens) const;
  // Takes them and counts the tokens as cached; the pool must have them.
  void extend(int num_tokens);
  // Keeps the first `num_tokens` slots (compaction has filled them) and returns the number of blocks freed.
  int truncate(int num_tokens);
  void clear() { truncate(0); }

 private:
  BlockPool* pool_;
  std::vector<BlockId> blocks_;
  int num_cached_tokens_ = 0;
};

// All layers of one sequence. Three counts, never mixed: logical length (the sequence's own), cached (per
// layer), evicted.
class SequenceCache {
 public:
  SequenceCache(BlockPool& pool, int num_layers);

  int num_layers() const { return static_cast<int>(layers_.size()); }
  const BlockTable& layer(int layer) const { return layers_[layer]; }
  int max_cached_tokens() const;
  int num_blocks() const;
  int num_evicted(int layer) const { return num_evicted_[layer]; }

  // Room for `num_tokens` more in every layer, all or nothing. False: the pool has too few free blocks.
  [[nodiscard]] bool try_extend(int num_tokens);
  int blocks_missing_for(int num_tokens) const;
  // After compaction of `layer`. Returns blocks freed.
  int truncate(int layer, int num_tokens);
  // Gives everything back and forgets evictions, as for a sequence that will be recomputed.
  void clear();

 private:
  BlockPool* pool_;
  std::vector<BlockTable> layers_;
  std::vector<int> num_evicted_;  // [num_layers]
};

}  // namespace kvcrush
