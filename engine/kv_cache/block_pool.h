// Accounting of the KV memory. The pool is a number of equal blocks of bytes; a block holds K and V of
// `block_size_tokens` tokens of ONE layer, so that layers may hold different tokens and different numbers of
// them.
//
//   sequence A   layer 0: [ 7][ 3][ 9]      cached 41 tokens = 2 full blocks + 9 slots
//                layer 1: [ 1][12]          cached 30 tokens (pruned harder)
//   pool         [0][1][2][3] ... [num_blocks-1]    each free or held by exactly one table
//
// Invariant: num_free() + blocks held by all tables == num_blocks().
// Not thread-safe: only the engine loop touches it.
#pragma once

#include <span>
#include <vector>

#include "engine/core/types.h"

namespace kvcrush {

class BlockPool {
 public:
  BlockPool(int num_blocks, int block_size_tokens);
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;
  ~BlockPool();

  int num_blocks() const { return num_blocks_; }
  int num_free() const { return static_cast<int>(free_.size()); }
  int num_used() const { return num_blocks_ - num_free(); }
  int block_size_tokens() const { return block_size_tokens_; }
  int blocks_for(int num_tokens) const { return (num_tokens + block_size_tokens_ - 1) / block_size_tokens_; }

 private:
  friend class BlockTable;
  BlockId take();
  void give_back(std::span<const BlockId> blocks);

  int num_blocks_;
  int block_size_tokens_;
  std::vector<BlockId>
      free_;  // a stack: the block freed last is taken first, while it is warm in the CPU's cache
  std::vector<bool> is_free_;  // [num_blocks], guards against a block given back twice
};

}  // namespace kvcrush
