#include "engine/kv_cache/prefix_cache.h"

#include <algorithm>
#include <functional>
#include <random>
#include <utility>

#include "engine/core/splitmix64.h"
#include "engine/core/status.h"

namespace kvcrush {

PrefixCache::PrefixCache(BlockPool& pool, int num_layers, std::span<const int> windows)
    : pool_(pool), groups_(1) {
  for (int layer = 0; layer < num_layers; ++layer) {
    const int window = windows.empty() ? 0 : windows[static_cast<std::size_t>(layer)];
    auto group = std::ranges::find(groups_, window, &LayerGroup::window_tokens);
    if (group == groups_.end()) group = groups_.insert(groups_.end(), {window, {}});
    group->layers.push_back(layer);
    group_of_.push_back(static_cast<std::size_t>(group - groups_.begin()));
  }
  std::random_device random;
  hash_seed_ = (static_cast<std::uint64_t>(random()) << 32) ^ random();
  pool_.set_reserve(this);
}

PrefixCache::~PrefixCache() {
  while (!idle_.empty()) give_back_longest_idle();
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

PrefixCache::Entry* PrefixCache::insert(std::uint64_t parent_id, const PrefixScope& scope,
                                        std::span<const TokenId> tokens) {
  auto entry = std::make_unique<Entry>();
  entry->id = next_id_++;
  entry->parent_id = parent_id;
  if (parent_id == 0) entry->salt = scope.salt;
  entry->dtype = scope.dtype;
  entry->lasting = scope.lasting;
  entry->tokens.assign(tokens.begin(), tokens.end());
  entry->blocks.assign(group_of_.size(), kNoBlock);
  entry->parts.resize(groups_.size());
  entry->hash = hash_of(parent_id, scope, tokens);
  Entry* inserted = entry.get();
  entries_.emplace(entry->hash, std::move(entry));
  return inserted;
}

std::size_t PrefixCache::first_seen_after(std::size_t group, std::size_t num_entries,
                                          int tokens_per_block) const {
  const int window = groups_[group].window_tokens;
  if (window == 0) return 0;
  const int first_token = static_cast<int>(num_entries) * tokens_per_block - window + 1;
  return static_cast<std::size_t>(std::max(0, first_token) / tokens_per_block);
}

PrefixCache::Held PrefixCache::hold(const PrefixScope& scope, std::span<const TokenId> tokens,
                                    int tokens_per_block) {
  Held held;
  std::size_t usable = 0;
  std::vector<std::size_t> num_unbroken(groups_.size(), 0);  // newest entries in a row that have the part
  const auto width = static_cast<std::size_t>(tokens_per_block);
  for (std::size_t first = 0; first + width <= tokens.size(); first += width) {
    Entry* entry =
        find(held.entries.empty() ? 0 : held.entries.back()->id, scope, tokens.subspan(first, width));
    if (entry == nullptr) break;
    held.entries.push_back(entry);
    const std::size_t count = held.entries.size();
    bool can_begin = true;
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      num_unbroken[g] = entry->parts[g].cached ? num_unbroken[g] + 1 : 0;
      can_begin = can_begin && num_unbroken[g] >= count - first_seen_after(g, count, tokens_per_block);
    }
    if (can_begin) usable = count;
  }
  held.entries.resize(usable);
  for (std::size_t g = 0; g < groups_.size(); ++g)
    held.first_seen.push_back(first_seen_after(g, usable, tokens_per_block));
  hold(held);
  return held;
}

void PrefixCache::hold(const Held& held) {
  for (std::size_t i = 0; i < held.entries.size(); ++i) {
    for (std::size_t g = 0; g < groups_.size(); ++g)
      if (i >= held.first_seen[g]) hold_part(*held.entries[i], g);
  }
}

void PrefixCache::hold_part(Entry& entry, std::size_t group) {
  Part& part = entry.parts[group];
  KVCRUSH_CHECK(part.cached);
  ++part.num_holders;
  unlist(part, group);
}

void PrefixCache::unlist(Part& part, std::size_t group) {
  if (!part.place) return;
  idle_.erase(*part.place);
  part.place.reset();
  num_idle_blocks_ -= num_blocks_of(group);
}

// A window's parts before the first one: that goes with the entry.
void PrefixCache::release(const Held& held) {
  for (std::size_t i = held.entries.size(); i-- > 0;) {
    for (std::size_t g = groups_.size(); g-- > 0;)
      if (i >= held.first_seen[g]) release_part(*held.entries[i], g);
  }
}

void PrefixCache::release_passed(Held& held, std::size_t group, std::size_t first_seen) {
  for (std::size_t& i = held.first_seen[group]; i < first_seen; ++i) release_part(*held.entries[i], group);
}

void PrefixCache::release_part(Entry& entry, std::size_t group) {
  Part& part = entry.parts[group];
  KVCRUSH_CHECK(part.num_holders > 0);
  if (--part.num_holders > 0) return;
  if (entry.lasting) {
    part.place = idle_.insert(idle_.end(), IdlePart{&entry, group});
    num_idle_blocks_ += num_blocks_of(group);
  } else if (group == 0) {
    give_back(entry);
  } else {
    give_back_part(entry, group);
  }
}

void PrefixCache::append(Held& held, const PrefixScope& scope, std::span<const TokenId> tokens,
                         std::span<const BlockId> blocks) {
  KVCRUSH_CHECK(blocks.size() == group_of_.size());
  const std::uint64_t parent_id = held.entries.empty() ? 0 : held.entries.back()->id;
  Entry* entry = find(parent_id, scope, tokens);
  if (entry == nullptr) entry = insert(parent_id, scope, tokens);
  held.entries.push_back(entry);
  held.first_seen.resize(groups_.size(), 0);
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const std::vector<int>& layers = groups_[g].layers;
    if (g > 0 && blocks[static_cast<std::size_t>(layers.front())] == kNoBlock) {
      held.first_seen[g] = held.entries.size();
      continue;
    }
    if (Part& part = entry->parts[g]; !part.cached) {
      for (const int layer : layers)
        entry->blocks[static_cast<std::size_t>(layer)] = blocks[static_cast<std::size_t>(layer)];
      part.cached = true;
      num_blocks_ += num_blocks_of(g);
    }
    hold_part(*entry, g);
  }
}

void PrefixCache::take_out_last(Held& held) {
  Entry& entry = *held.entries.back();
  KVCRUSH_CHECK(entry.parts[0].num_holders == 1);
  held.entries.pop_back();
  const std::size_t index = held.entries.size();
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    if (index >= held.first_seen[g]) {
      forget_part(entry, g);
    } else {
      give_back_part(entry, g);
    }
    held.first_seen[g] = std::min(held.first_seen[g], index);
  }
  erase(entry);
}

// Chains hang together by ids: with a parent that never was, an entry is not found, nor is what is behind it.
void PrefixCache::forget(const Held& held) {
  for (Entry* entry : held.entries) {
    entry->parent_id = ~std::uint64_t{0};
    entry->lasting = false;
  }
}

void PrefixCache::forget_all() {
  while (!idle_.empty()) give_back_longest_idle();
  for (auto& [hash, entry] : entries_) forget({.entries = {entry.get()}, .first_seen = {}});
}

int PrefixCache::num_blocks_held_by_others(const Held& held) const {
  int blocks = 0;
  for (std::size_t i = 0; i < held.entries.size(); ++i) {
    for (std::size_t g = 0; g < groups_.size(); ++g)
      if (i >= held.first_seen[g] && held.entries[i]->parts[g].num_holders > 1) blocks += num_blocks_of(g);
  }
  return blocks;
}

void PrefixCache::give_back_idle() {
  KVCRUSH_CHECK(num_idle_blocks_ > 0);
  // An entry of layers with windows alone may have no block left.
  for (const int before = num_idle_blocks_; num_idle_blocks_ == before;) give_back_longest_idle();
}

void PrefixCache::give_back_longest_idle() {
  const auto [entry, group] = idle_.front();
  if (group == 0) {
    give_back(*entry);
  } else {
    give_back_part(*entry, group);
  }
}

void PrefixCache::forget_part(Entry& entry, std::size_t group) {
  Part& part = entry.parts[group];
  unlist(part, group);
  if (part.cached) num_blocks_ -= num_blocks_of(group);
  part = {};
}

void PrefixCache::give_back_part(Entry& entry, std::size_t group) {
  if (entry.parts[group].cached) {
    for (const int layer : groups_[group].layers)
      pool_.give_back(std::span(&entry.blocks[static_cast<std::size_t>(layer)], 1));
  }
  forget_part(entry, group);
}

void PrefixCache::give_back(Entry& entry) {
  for (std::size_t g = 0; g < groups_.size(); ++g) give_back_part(entry, g);
  erase(entry);
}

void PrefixCache::erase(const Entry& entry) {
  const auto [begin, end] = entries_.equal_range(entry.hash);
  const auto it = std::find_if(begin, end, [&](const auto& item) { return item.second.get() == &entry; });
  KVCRUSH_CHECK(it != end);
  entries_.erase(it);
}

}  // namespace kvcrush
