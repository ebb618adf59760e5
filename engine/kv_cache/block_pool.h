// Accounting of the KV memory. The pool is a number of equal blocks of bytes; a block holds K and V of ONE
// layer, as many tokens as fit in the dtype, so that layers may hold different tokens and different numbers
// of them, and sequences of different dtypes share the pool.
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
  explicit BlockPool(int num_blocks);
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;
  ~BlockPool();

  int num_blocks() const { return num_blocks_; }
  int num_free() const { return static_cast<int>(free_.size()); }
  int num_used() const { return num_blocks_ - num_free(); }

 private:
  friend class BlockTable;
  BlockId take();
  void give_back(std::span<const BlockId> blocks);

  int num_blocks_;
  std::vector<BlockId>
      free_;  // a stack: the block freed last is taken first, while it is warm in the CPU's cache
  std::vector<bool> is_free_;  // [num_blocks], guards against a block given back twice
};

}  // namespace kvcrush
