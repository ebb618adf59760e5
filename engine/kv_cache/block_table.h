// Which blocks hold one layer of one sequence. Holding is owning, but for the first ones where they are
// shared (PrefixCache): only the table's own blocks go back to the pool when it dies or drops them.
#pragma once

#include <memory>
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
  // window_tokens: a query sees so many of the newest tokens, its own included; 0: all.
  BlockTable(BlockPool& pool, const cpu::KvFormat& format, int window_tokens = 0)
      : pool_(&pool), format_(format), window_tokens_(window_tokens) {}
  ~BlockTable() { clear(); }
  BlockTable(BlockTable&& other) noexcept;
  BlockTable& operator=(BlockTable&& other) noexcept;
  BlockTable(const BlockTable&) = delete;
  BlockTable& operator=(const BlockTable&) = delete;

  int num_cached_tokens() const { return num_packed_tokens_ + num_tail_tokens_; }
  int num_packed_tokens() const { return num_packed_tokens_; }
  int num_tail_tokens() const { return num_tail_tokens_; }
  std::span<const BlockId> blocks() const { return blocks_; }
  int num_shared_blocks() const { return num_shared_; }  // of the first ones; never written
  // Changes whenever blocks() does other than by growing at the end.
  int revision() const { return revision_; }
  // For kernels; valid until the table changes.
  cpu::CachedLayer cached() const;
  int window_tokens() const { return window_tokens_; }

  // Blocks the pool must still give so that `num_tokens` more tokens fit. New tokens enter the tail.
  int blocks_missing_for(int num_tokens) const;
  // Takes them and counts the tokens as cached; the pool must have them.
  void extend(int num_tokens);
  // From nothing to room for these tokens, as a fork needs it; the pool must have the blocks.
  void assign(int num_packed, int num_tail);
  // Keeps the first blocks only (compaction has filled them) and returns the number of blocks freed.
  int shrink(int num_packed, int num_tail);
  void clear();

  // What a layer with a window keeps count of.
  // Tokens that are no longer there, for whatever reason.
  int num_gone_tokens() const { return num_gone_; }
  void add_gone(int num_tokens) { num_gone_ += num_tokens; }
  // Of those, the ones that drop_past_window() dropped since the last settle(): of the packed ones, and of
  // the tail.
  struct Dropped {
    int num_packed = 0;
    int num_tail = 0;
    int total() const { return num_packed + num_tail; }
  };
  Dropped dropped_since_settled() const { return dropped_; }
  // Tokens of whole blocks, the first ones, that no query sees any more which comes after all but the
  // `num_newest` last ones.
  Dropped past_window(int num_newest, int num_kv_heads) const;
  int dropped_tiles() const { return dropped_tiles_; }
  // Logical positions of the first slots; null: all slots are neighbours.
  struct SlotPositions {
    int num_slots = 0;
    std::vector<std::int32_t> of_heads;  // [num_kv_heads, num_slots], each row ascending
  };
  using Positions = std::shared_ptr<const SlotPositions>;
  const Positions& positions() const { return positions_; }
  // Does without them. Returns the number of tokens.
  int drop_past_window(int num_newest, int num_kv_heads);
  // After compaction: tiles are counted from the first slot, and the slots have these positions.
  void settle(Positions positions);
  // As after swapping, or of a fork's trunk.
  void restore_window(int num_gone, int dropped_tiles, const Dropped& dropped_since_settled,
                      Positions positions);

  // What SequenceCache does with shared blocks.
  // Of an empty table: so many tail tokens, whole blocks, have come and gone.
  void begin_behind(int num_tokens);
  // Of an empty table: begins with a shared block, full of tail tokens.
  void begin_with(BlockId shared);
  // The first own block becomes shared: itself, or, where another block has the same content, that one; then
  // its own goes back to the pool.
  void share_next(BlockId shared);
  // Of the shared blocks, all but the first ones become the table's own.
  void own_all_but(int num_shared) { num_shared_ = num_shared; }
  // Everything moved into `blocks`: each is the table's own already, or taken for it. Returns the number of
  // blocks freed.
  int become(std::vector<BlockId> blocks, int num_packed, int num_tail);

 private:
  void drop_positions(int num_slots);

  BlockPool* pool_;
  cpu::KvFormat format_;
  int window_tokens_;
  std::vector<BlockId> blocks_;
  int revision_ = 0;
  int num_shared_ = 0;
  int num_packed_tokens_ = 0;
  int num_tail_tokens_ = 0;
  int num_gone_ = 0;
  int dropped_tiles_ = 0;  // modulo kPartitionTiles
  Dropped dropped_;
  Positions positions_;
};

}  // namespace kvcrush
