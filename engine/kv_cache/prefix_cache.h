// Blocks of prompts whose K and V outlive the sequence that computed them, so that a later prompt with the
// same beginning starts behind it, and samples of one request hold their prompt's blocks together.
//
// An entry is one full block of neighbouring tokens in every layer. Entries form chains: an entry is found by
// the entry before it and its own tokens, compared one by one, so a wrong hit cannot be. Blocks of entries
// are never written again; a sequence that prunes or packs copies what survives into blocks of its own.
//
// Entries that nobody holds count as free blocks of the pool. The pool takes them back, least recently
// released first, when it has no other; a chain's end goes before its beginning. Not thread-safe: only the
// engine loop touches it.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
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
  struct Entry {
    std::uint64_t id = 0;
    std::uint64_t parent_id = 0;  // 0: the first of its chain
    std::string salt;             // of the first of a chain
    KvDtype dtype = KvDtype::kF32;
    bool lasting = true;
    std::vector<TokenId> tokens;  // [tokens per block]
    std::vector<BlockId> blocks;  // [num_layers]
    int num_holders = 0;
    std::uint64_t hash = 0;
    std::list<Entry*>::iterator place;  // in idle_, while nobody holds it
  };
  // An unbroken chain from its first entry on.
  using Chain = std::vector<Entry*>;

  PrefixCache(BlockPool& pool, int num_layers);
  ~PrefixCache() override;  // nothing may be held
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  int num_layers() const { return num_layers_; }
  // Holds the longest chain of full blocks of tokens_per_block that `tokens` begin with.
  Chain hold(const PrefixScope& scope, std::span<const TokenId> tokens, int tokens_per_block);
  // Holds every entry of a chain once more.
  void hold(const Chain& chain);
  // The reverse; the entries of `chain` may be gone afterwards.
  void release(const Chain& chain);

  // Adds an entry behind `chain` (of `scope`), held by the caller, and takes over `blocks`, [num_layers]; or,
  // where there is one of the same tokens already, holds that, and `blocks` stay the caller's. True: it is
  // new.
  bool append(Chain& chain, const PrefixScope& scope, std::span<const TokenId> tokens,
              std::span<const BlockId> blocks);
  // Takes an entry that the caller alone holds out of the cache; its blocks are the caller's.
  std::vector<BlockId> take_out(Entry* entry);
  // No later prompt finds these entries, or any that is there now: their content is not to be trusted.
  static void forget(const Chain& chain);
  void forget_all();

  int num_idle_blocks() const override { return static_cast<int>(idle_.size()) * num_layers_; }
  void give_back_idle() override;
  int num_blocks() const { return static_cast<int>(entries_.size()) * num_layers_; }  // held ones included

 private:
  std::uint64_t hash_of(std::uint64_t parent_id, const PrefixScope& scope,
                        std::span<const TokenId> tokens) const;
  Entry* find(std::uint64_t parent_id, const PrefixScope& scope, std::span<const TokenId> tokens) const;
  void hold_one(Entry* entry);
  static void forget_one(Entry& entry);
  // Its blocks are no longer the cache's.
  void erase(Entry* entry);

  BlockPool& pool_;
  int num_layers_;
  std::uint64_t hash_seed_;  // so that nobody can choose prompts that collide
  std::uint64_t next_id_ = 1;
  std::unordered_multimap<std::uint64_t, std::unique_ptr<Entry>> entries_;  // by hash
  std::list<Entry*> idle_;                                                  // released longest ago first
};

}  // namespace kvcrush
