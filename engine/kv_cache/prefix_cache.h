// Blocks of prompts whose K and V outlive the sequence that computed them, so that a later prompt with the
// same beginning starts behind it, and samples of one request hold their prompt's blocks together.
//
// An entry is one full block of neighbouring tokens in every layer. Entries form chains: an entry is found by
// the entry before it and its own tokens, compared one by one, so a wrong hit cannot be. Blocks of entries
// are never written again; a sequence that prunes or packs copies what survives into blocks of its own.
//
// Layers with the same sliding window form a group, and an entry has a part for each. The part of layers
// that see everything lives as long as the entry; a window's part is held only while the holder's queries see
// it, and may be gone. So a chain can be begun with wherever the windows' parts just before its end are
// there:
//
//   tokens         [  0..15][ 16..31][ 32..47][ 48..63]
//   sees all          x        x        x        x
//   window of 20      gone     gone     x        x       a prompt begins behind 64 tokens: its next query
//                                                        sees 45..63; behind 48 the second part is wanting
//
// Parts that nobody holds count as free blocks of the pool. The pool takes them back, least recently released
// first, when it has no other; a chain's end goes before its beginning. Not thread-safe: only the engine loop
// touches it.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/core/kv_dtype.h"
#include "engine/core/types.h"
#include "engine/kv_cache/block_pool.h"

namespace kvcrush {

// Entries of different scopes never meet.
struct PrefixScope {
  std::string salt;
  KvDtype dtype = KvDtype::kF32;  // in which K and V are stored
  bool lasting = true;            // false: entries go with their last holder
};

class PrefixCache final : public BlockReserve {
 public:
  struct Entry;
  struct IdlePart {
    Entry* entry = nullptr;
    std::size_t group = 0;
  };
  struct Part {
    bool cached = false;
    int num_holders = 0;
    std::optional<std::list<IdlePart>::iterator> place;  // in idle_, while it is cached and nobody holds it
  };
  struct Entry {
    std::uint64_t id = 0;
    std::uint64_t parent_id = 0;  // 0: the first of its chain
    std::string salt;             // of the first of a chain
    KvDtype dtype = KvDtype::kF32;
    bool lasting = true;
    std::vector<TokenId> tokens;  // [tokens per block]
    std::vector<BlockId> blocks;  // [num_layers]; meaningless in parts that are not cached
    std::vector<Part> parts;      // [num_groups]; who holds an entry holds the first one
    std::uint64_t hash = 0;
  };
  // What one sequence holds: a chain from its first entry on, and of a group's parts those that its queries
  // see.
  struct Held {
    std::vector<Entry*> entries;
    std::vector<std::size_t> first_seen;  // [num_groups], that of the first is 0; empty: holds nothing
  };
  struct LayerGroup {
    int window_tokens = 0;    // 0: its queries see everything
    std::vector<int> layers;  // none in the first group where all layers have windows
  };

  // windows: of each layer; empty: no layer has one.
  PrefixCache(BlockPool& pool, int num_layers, std::span<const int> windows = {});
  ~PrefixCache() override;  // nothing may be held
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  // The first is that of the layers that see everything.
  const std::vector<LayerGroup>& groups() const { return groups_; }
  std::size_t group_of(int layer) const { return group_of_[static_cast<std::size_t>(layer)]; }

  // Holds the longest chain of full blocks of tokens_per_block that `tokens` begin with and that can be begun
  // with.
  Held hold(const PrefixScope& scope, std::span<const TokenId> tokens, int tokens_per_block);
  // Holds once more what another holds.
  void hold(const Held& held);
  // The reverse; the entries may be gone afterwards.
  void release(const Held& held);
  // The group's queries see nothing before the entry `first_seen` any more.
  void release_passed(Held& held, std::size_t group, std::size_t first_seen);

  // Adds an entry (of `scope`) behind what the caller holds, and holds it. The cache takes over `blocks`,
  // [num_layers], of parts that it does not have; the others stay the caller's, which holds the cache's
  // instead. kNoBlock in the layers of a window: the caller's queries have passed it.
  static constexpr BlockId kNoBlock = -1;
  void append(Held& held, const PrefixScope& scope, std::span<const TokenId> tokens,
              std::span<const BlockId> blocks);
  // Takes the last entry, which the caller alone holds, out of the cache; blocks that it held are its own.
  void take_out_last(Held& held);
  // No later prompt finds these entries, or any that is there now: their content is not to be trusted.
  static void forget(const Held& held);
  void forget_all();

  // Blocks of what is held that someone else holds too.
  int num_blocks_held_by_others(const Held& held) const;
  int num_idle_blocks() const override { return num_idle_blocks_; }
  void give_back_idle() override;
  int num_blocks() const { return num_blocks_; }  // held ones included

 private:
  std::uint64_t hash_of(std::uint64_t parent_id, const PrefixScope& scope,
                        std::span<const TokenId> tokens) const;
  Entry* find(std::uint64_t parent_id, const PrefixScope& scope, std::span<const TokenId> tokens) const;
  Entry* insert(std::uint64_t parent_id, const PrefixScope& scope, std::span<const TokenId> tokens);
  // The first entry of which the group's next query sees a token, after so many.
  std::size_t first_seen_after(std::size_t group, std::size_t num_entries, int tokens_per_block) const;
  int num_blocks_of(std::size_t group) const { return static_cast<int>(groups_[group].layers.size()); }
  void hold_part(Entry& entry, std::size_t group);
  void release_part(Entry& entry, std::size_t group);
  void unlist(Part& part, std::size_t group);  // from idle_, where it is there
  void forget_part(Entry& entry, std::size_t group);
  void give_back_part(Entry& entry, std::size_t group);
  void give_back(Entry& entry);
  void erase(const Entry& entry);
  void give_back_longest_idle();

  BlockPool& pool_;
  std::vector<LayerGroup> groups_;
  std::vector<std::size_t> group_of_;  // [num_layers]
  std::uint64_t hash_seed_;            // so that nobody can choose prompts that collide
  std::uint64_t next_id_ = 1;
  std::unordered_multimap<std::uint64_t, std::unique_ptr<Entry>> entries_;  // by hash
  std::list<IdlePart> idle_;                                                // released longest ago first
  int num_idle_blocks_ = 0;
  int num_blocks_ = 0;
};

}  // namespace kvcrush
