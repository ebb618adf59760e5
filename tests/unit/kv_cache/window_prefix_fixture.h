// A pool, a prefix cache and sequences whose layers have windows of different lengths, or none.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <span>
#include <vector>

#include "engine/kv_cache/sequence_cache.h"

namespace kvcrush::testing {

inline constexpr int kLayers = 4;
inline constexpr int kBlockTokens = 16;
inline constexpr int kShort = 20;
inline constexpr int kLong = 40;
inline constexpr std::array<int, kLayers> kWindows = {kShort, 0, kLong, kShort};
inline constexpr cpu::KvFormat kFormat{
    .tail = KvDtype::kF32, .packed = KvDtype::kF32, .tail_tokens_per_block = kBlockTokens};
inline const PrefixScope kScope{.salt = "s", .dtype = KvDtype::kF32, .lasting = true};
inline const PrefixScope kBriefScope{.salt = "request", .dtype = KvDtype::kF32, .lasting = false};

inline std::vector<TokenId> tokens_from(TokenId first, int count) {
  std::vector<TokenId> tokens(static_cast<std::size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

class WindowPrefixTest : public ::testing::Test {
 protected:
  explicit WindowPrefixTest(int num_blocks = 60, std::span<const int> windows = kWindows)
      : pool_(num_blocks), prefixes_(pool_, kLayers, windows), windows_(windows) {}

  SequenceCache empty() { return {pool_, kLayers, kFormat, windows_}; }
  // Computes tokens[computed..] as a prompt, in chunks.
  void compute(SequenceCache& cache, std::span<const TokenId> tokens, int computed, int chunk = 32,
               const PrefixScope& scope = kScope) {
    while (computed < static_cast<int>(tokens.size())) {
      const int count = std::min(chunk, static_cast<int>(tokens.size()) - computed);
      ASSERT_TRUE(cache.try_extend(count));
      computed += count;
      cache.share(prefixes_, scope, tokens.first(static_cast<std::size_t>(computed)));
      cache.drop_past_windows(/*num_newest=*/0, /*num_kv_heads=*/1);
    }
  }
  SequenceCache filled(const std::vector<TokenId>& tokens, int chunk = 32,
                       const PrefixScope& scope = kScope) {
    SequenceCache cache = empty();
    compute(cache, tokens, cache.hold_prefix(prefixes_, scope, tokens), chunk, scope);
    return cache;
  }
  // Tokens that a prompt would find.
  int found(const std::vector<TokenId>& tokens) {
    SequenceCache cache = empty();
    return cache.hold_prefix(prefixes_, kScope, tokens);
  }
  // Until the pool has taken so many idle blocks back.
  void evict(int count) {
    SequenceCache hog(pool_, 1, kFormat);
    ASSERT_TRUE(hog.try_extend((pool_.num_free() - prefixes_.num_idle_blocks() + count) * kBlockTokens));
  }

  BlockPool pool_;
  PrefixCache prefixes_;
  std::span<const int> windows_;
};

}  // namespace kvcrush::testing
