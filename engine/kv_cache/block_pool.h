// Accounting of the KV memory. The pool is a number of equal blocks of bytes; a block holds K and V of ONE
// layer, as many tokens as fit in the dtype, so that layers may hold different tokens and different numbers
// of them, and sequences of different dtypes share the pool.
//
//   sequence A   layer 0: [ 7][ 3][ 9]      cached 41 tokens = 2 full blocks + 9 slots
//                layer 1: [ 1][12]          cached 30 tokens (pruned harder)
//   pool         [0][1][2][3] ... [num_blocks-1]    each free, or one table's, or a prefix cache's
//
// Invariant: num_free() + blocks of all tables + blocks of held prefixes == num_blocks().
// Not thread-safe: only the engine loop touches it.
#pragma once

#include <span>
#include <vector>

#include "engine/core/types.h"

namespace kvcrush {

// Blocks that are not in use but still hold something of worth (PrefixCache): free, but taken last.
class BlockReserve {
 public:
  virtual ~BlockReserve() = default;
  virtual int num_idle_blocks() const = 0;
  virtual void give_back_idle() = 0;  // some of them, at least one; only where there are any
};

class BlockPool {
 public:
  explicit BlockPool(int num_blocks);
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;
  ~BlockPool();

  int num_blocks() const { return num_blocks_; }
  int num_free() const {
    return static_cast<int>(free_.size()) + (reserve_ == nullptr ? 0 : reserve_->num_idle_blocks());
  }
  int num_used() const { return num_blocks_ - num_free(); }
  void set_reserve(BlockReserve* reserve) { reserve_ = reserve; }

 private:
  friend class BlockTable;
  friend class SequenceCache;
  friend class PrefixCache;
  BlockId take();
  void give_back(std::span<const BlockId> blocks);

  int num_blocks_;
  BlockReserve* reserve_ = nullptr;
  std::vector<BlockId>
      free_;  // a stack: the block freed last is taken first, while it is warm in the CPU's cache
  std::vector<bool> is_free_;  // [num_blocks], guards against a block given back twice
};

}  // namespace kvcrush
