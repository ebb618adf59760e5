#include "engine/kv_cache/block_table.h"

#include <algorithm>
#include <utility>

#include "engine/core/status.h"
#include "engine/kernels/cpu/cpu_kernels.h"

namespace kvcrush {

int blocks_for(const cpu::KvFormat& format, int num_packed, int num_tail) {
  const int packed = num_packed == 0 ? 0 : cpu::ceil_div(num_packed, format.packed_tokens_per_block);
  return packed + cpu::ceil_div(num_tail, format.tail_tokens_per_block);
}

BlockTable::BlockTable(BlockTable&& other) noexcept
    : pool_(other.pool_),
      format_(other.format_),
      window_tokens_(other.window_tokens_),
      blocks_(std::exchange(other.blocks_, {})),
      num_shared_(std::exchange(other.num_shared_, 0)),
      num_packed_tokens_(std::exchange(other.num_packed_tokens_, 0)),
      num_tail_tokens_(std::exchange(other.num_tail_tokens_, 0)),
      num_gone_(std::exchange(other.num_gone_, 0)),
      dropped_tiles_(std::exchange(other.dropped_tiles_, 0)),
      dropped_(std::exchange(other.dropped_, {})),
      positions_(std::exchange(other.positions_, nullptr)) {}

BlockTable& BlockTable::operator=(BlockTable&& other) noexcept {
  if (this != &other) {
    clear();
    pool_ = other.pool_;
    format_ = other.format_;
    window_tokens_ = other.window_tokens_;
    blocks_ = std::exchange(other.blocks_, {});
    num_shared_ = std::exchange(other.num_shared_, 0);
    num_packed_tokens_ = std::exchange(other.num_packed_tokens_, 0);
    num_tail_tokens_ = std::exchange(other.num_tail_tokens_, 0);
    num_gone_ = std::exchange(other.num_gone_, 0);
    dropped_tiles_ = std::exchange(other.dropped_tiles_, 0);
    dropped_ = std::exchange(other.dropped_, {});
    positions_ = std::exchange(other.positions_, nullptr);
  }
  return *this;
}

cpu::CachedLayer BlockTable::cached() const {
  cpu::CachedLayer layer{blocks_.data(), num_packed_tokens_, num_cached_tokens(), format_};
  if (window_tokens_ == 0) return layer;
  layer.window.tokens = window_tokens_;
  layer.window.dropped_tiles = dropped_tiles_;
  layer.window.num_evicted = num_gone_;
  if (positions_ == nullptr) return layer;
  layer.window.num_placed = positions_->num_slots;
  layer.window.positions = positions_->of_heads.data();
  layer.window.positions_stride = positions_->num_slots;
  return layer;
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
  KVCRUSH_CHECK(freed >= 0 && keep >= num_shared_);
  pool_->give_back(std::span(blocks_).subspan(static_cast<std::size_t>(keep)));
  if (freed > 0) ++revision_;
  blocks_.resize(static_cast<std::size_t>(keep));
  num_packed_tokens_ = num_packed;
  num_tail_tokens_ = num_tail;
  return freed;
}

void BlockTable::clear() {
  pool_->give_back(std::span(blocks_).subspan(static_cast<std::size_t>(num_shared_)));
  if (!blocks_.empty()) ++revision_;
  blocks_.clear();
  num_shared_ = num_packed_tokens_ = num_tail_tokens_ = 0;
  restore_window(0, 0, {}, nullptr);
}

BlockTable::Dropped BlockTable::past_window(int num_newest, int num_kv_heads) const {
  Dropped past;
  if (window_tokens_ == 0) return past;
  const cpu::CachedLayer layer = cached();
  const int next_slot = num_cached_tokens() - num_newest;
  int first_seen = cpu::first_in_window(layer, 0, next_slot);
  for (int h = 1; h < num_kv_heads && layer.window.num_placed > 0; ++h)
    first_seen = std::min(first_seen, cpu::first_in_window(layer, h, next_slot));
  for (int count = 0; past.num_packed < num_packed_tokens_; past.num_packed += count) {
    count = std::min(format_.packed_tokens_per_block, num_packed_tokens_ - past.num_packed);
    if (past.num_packed + count > first_seen) return past;
  }
  while (past.total() + format_.tail_tokens_per_block <= first_seen)
    past.num_tail += format_.tail_tokens_per_block;
  return past;
}

int BlockTable::drop_past_window(int num_newest, int num_kv_heads) {
  const Dropped now = past_window(num_newest, num_kv_heads);
  if (now.total() == 0) return 0;
  dropped_tiles_ = (dropped_tiles_ + cpu::num_tiles(cached(), now.total())) % cpu::kPartitionTiles;
  const int num_blocks = blocks_for(format_, now.num_packed, now.num_tail);
  const int num_shared = std::min(num_blocks, num_shared_);
  pool_->give_back(std::span(blocks_).subspan(static_cast<std::size_t>(num_shared),
                                              static_cast<std::size_t>(num_blocks - num_shared)));
  num_shared_ -= num_shared;
  blocks_.erase(blocks_.begin(), blocks_.begin() + num_blocks);
  ++revision_;
  num_packed_tokens_ -= now.num_packed;
  num_tail_tokens_ -= now.num_tail;
  num_gone_ += now.total();
  dropped_.num_packed += now.num_packed;
  dropped_.num_tail += now.num_tail;
  drop_positions(now.total());
  return now.total();
}

void BlockTable::drop_positions(int num_slots) {
  if (positions_ == nullptr) return;
  const int left = positions_->num_slots - num_slots;
  if (left <= 0) {
    positions_ = nullptr;
    return;
  }
  auto kept = std::make_shared<SlotPositions>();
  kept->num_slots = left;
  const std::vector<std::int32_t>& all = positions_->of_heads;
  for (auto row = all.begin(); row != all.end(); row += positions_->num_slots)
    kept->of_heads.insert(kept->of_heads.end(), row + num_slots, row + positions_->num_slots);
  positions_ = std::move(kept);
}

void BlockTable::settle(Positions positions) {
  positions_ = std::move(positions);
  dropped_tiles_ = 0;
  dropped_ = {};
}

void BlockTable::restore_window(int num_gone, int dropped_tiles, const Dropped& dropped_since_settled,
                                Positions positions) {
  positions_ = std::move(positions);
  num_gone_ = num_gone;
  dropped_tiles_ = dropped_tiles;
  dropped_ = dropped_since_settled;
}

void BlockTable::begin_behind(int num_tokens) {
  KVCRUSH_CHECK(blocks_.empty() && num_tokens % format_.tail_tokens_per_block == 0);
  restore_window(num_tokens, cpu::num_tiles(cached(), num_tokens) % cpu::kPartitionTiles,
                 {.num_packed = 0, .num_tail = num_tokens}, nullptr);
}

void BlockTable::begin_with(BlockId shared) {
  KVCRUSH_CHECK(static_cast<int>(blocks_.size()) == num_shared_ && num_packed_tokens_ == 0);
  blocks_.push_back(shared);
  ++num_shared_;
  num_tail_tokens_ += format_.tail_tokens_per_block;
}

void BlockTable::share_next(BlockId shared) {
  BlockId& block = blocks_[static_cast<std::size_t>(num_shared_++)];
  if (block == shared) return;
  pool_->give_back(std::span(&block, 1));
  block = shared;
  ++revision_;
}

int BlockTable::become(std::vector<BlockId> blocks, int num_packed, int num_tail) {
  KVCRUSH_CHECK(static_cast<int>(blocks.size()) == blocks_for(format_, num_packed, num_tail));
  const int freed = static_cast<int>(blocks_.size()) - static_cast<int>(blocks.size());
  const std::size_t first_own = static_cast<std::size_t>(num_shared_);
  if (first_own < blocks_.size()) {
    const std::size_t kept = std::max(first_own, blocks.size());  // those in place are the same in both
    if (kept < blocks_.size()) pool_->give_back(std::span(blocks_).subspan(kept));
  }
  blocks_ = std::move(blocks);
  num_shared_ = 0;
  num_packed_tokens_ = num_packed;
  num_tail_tokens_ = num_tail;
  ++revision_;
  return freed;
}

}  // namespace kvcrush
