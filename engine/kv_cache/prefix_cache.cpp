#include "engine/kv_cache/prefix_cache.h"

#include <algorithm>
#include <functional>
#include <random>
#include <utility>

#include "engine/core/splitmix64.h"
#include "engine/core/status.h"

namespace kvcrush {

PrefixCache::PrefixCache(BlockPool& pool, int num_layers) : pool_(pool), num_layers_(num_layers) {
  std::random_device random;
  hash_seed_ = (static_cast<std::uint64_t>(random()) << 32) ^ random();
  pool_.set_reserve(this);
}

PrefixCache::~PrefixCache() {
  while (!idle_.empty()) give_back_idle();
  KVCRUSH_CHECK(entries_.empty());
  pool_.set_reserve(nullptr);
}

std::uint64_t PrefixCache::hash_of(std::uint64_t parent_id, const PrefixScope& scope,
                                   std::span<const TokenId> tokens) const {
  std::uint64_t hash = splitmix64(hash_seed_ ^ parent_id);
  if (parent_id == 0)
    hash = splitmix64(hash ^ std::hash<std::string>{}(scope.salt) ^ static_cast<std::uint64_t>(scope.dtype));
  for (const TokenId token : tokens) hash = splitmix64(hash ^ static_cast<std::uint64_t>(token));
  return hash;
}

PrefixCache::Entry* PrefixCache::find(std::uint64_t parent_id, const PrefixScope& scope,
                                      std::span<const TokenId> tokens) const {
  const auto [begin, end] = entries_.equal_range(hash_of(parent_id, scope, tokens));
  for (auto it = begin; it != end; ++it) {
    Entry& entry = *it->second;
    const bool same_scope = parent_id != 0 || (entry.salt == scope.salt && entry.dtype == scope.dtype);
    if (entry.parent_id == parent_id && same_scope && std::ranges::equal(entry.tokens, tokens)) return &entry;
  }
  return nullptr;
}

PrefixCache::Chain PrefixCache::hold(const PrefixScope& scope, std::span<const TokenId> tokens,
                                     int tokens_per_block) {
  Chain chain;
  const auto width = static_cast<std::size_t>(tokens_per_block);
  for (std::size_t first = 0; first + width <= tokens.size(); first += width) {
    Entry* entry = find(chain.empty() ? 0 : chain.back()->id, scope, tokens.subspan(first, width));
    if (entry == nullptr) break;
    hold_one(entry);
    chain.push_back(entry);
  }
  return chain;
}

void PrefixCache::hold(const Chain& chain) {
  for (Entry* entry : chain) hold_one(entry);
}

void PrefixCache::hold_one(Entry* entry) {
  if (entry->num_holders++ == 0) idle_.erase(entry->place);
}

void PrefixCache::release(const Chain& chain) {
  for (auto it = chain.rbegin(); it != chain.rend(); ++it) {
    Entry* entry = *it;
    KVCRUSH_CHECK(entry->num_holders > 0);
    if (--entry->num_holders > 0) continue;
    if (entry->lasting) {
      entry->place = idle_.insert(idle_.end(), entry);
      continue;
    }
    pool_.give_back(entry->blocks);
    erase(entry);
  }
}

bool PrefixCache::append(Chain& chain, const PrefixScope& scope, std::span<const TokenId> tokens,
                         std::span<const BlockId> blocks) {
  KVCRUSH_CHECK(static_cast<int>(blocks.size()) == num_layers_);
  const std::uint64_t parent_id = chain.empty() ? 0 : chain.back()->id;
  if (Entry* same = find(parent_id, scope, tokens)) {
    hold_one(same);
    chain.push_back(same);
    return false;
  }
  auto entry = std::make_unique<Entry>();
  entry->id = next_id_++;
  entry->parent_id = parent_id;
  if (parent_id == 0) entry->salt = scope.salt;
  entry->dtype = scope.dtype;
  entry->lasting = scope.lasting;
  entry->tokens.assign(tokens.begin(), tokens.end());
  entry->blocks.assign(blocks.begin(), blocks.end());
  entry->num_holders = 1;
  entry->hash = hash_of(parent_id, scope, tokens);
  chain.push_back(entry.get());
  entries_.emplace(entry->hash, std::move(entry));
  return true;
}

std::vector<BlockId> PrefixCache::take_out(Entry* entry) {
  KVCRUSH_CHECK(entry->num_holders == 1);
  std::vector<BlockId> blocks = std::move(entry->blocks);
  erase(entry);
  return blocks;
}

// Chains hang together by ids: with a parent that never was, an entry is not found, nor is what is behind it.
void PrefixCache::forget_one(Entry& entry) {
  entry.parent_id = ~std::uint64_t{0};
  entry.lasting = false;
}

void PrefixCache::forget(const Chain& chain) {
  for (Entry* entry : chain) forget_one(*entry);
}

void PrefixCache::forget_all() {
  while (!idle_.empty()) give_back_idle();
  for (auto& [hash, entry] : entries_) forget_one(*entry);
}

void PrefixCache::give_back_idle() {
  KVCRUSH_CHECK(!idle_.empty());
  Entry* entry = idle_.front();
  idle_.pop_front();
  pool_.give_back(entry->blocks);
  erase(entry);
}

void PrefixCache::erase(Entry* entry) {
  const auto [begin, end] = entries_.equal_range(entry->hash);
  const auto it = std::find_if(begin, end, [entry](const auto& item) { return item.second.get() == entry; });
  KVCRUSH_CHECK(it != end);
  entries_.erase(it);
}

}  // namespace kvcrush
