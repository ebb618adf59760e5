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
      num_shared_(std::exchange(other.num_shared_, 0)),
      num_packed_tokens_(std::exchange(other.num_packed_tokens_, 0)),
      num_tail_tokens_(std::exchange(other.num_tail_tokens_, 0)) {}

BlockTable& BlockTable::operator=(BlockTable&& other) noexcept {
  if (this != &other) {
    clear();
    pool_ = other.pool_;
    format_ = other.format_;
    blocks_ = std::exchange(other.blocks_, {});
    num_shared_ = std::exchange(other.num_shared_, 0);
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
