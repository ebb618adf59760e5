#include "engine/kv_cache/prefix_cache.h"

#include <gtest/gtest.h>

#include <list>
#include <map>
#include <numeric>
#include <random>

#include "engine/kv_cache/sequence_cache.h"

namespace kvcrush {
namespace {

constexpr int kLayers = 2;
constexpr int kBlockTokens = 16;
constexpr cpu::KvFormat kFormat{
    .tail = KvDtype::kF32, .packed = KvDtype::kF32, .tail_tokens_per_block = kBlockTokens};
const PrefixScope kScope{.salt = "s", .dtype = KvDtype::kF32, .lasting = true};

std::vector<TokenId> tokens_from(TokenId first, int count) {
  std::vector<TokenId> tokens(static_cast<std::size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

class PrefixCacheTest : public ::testing::Test {
 protected:
  SequenceCache filled(const std::vector<TokenId>& tokens, const PrefixScope& scope = kScope) {
    SequenceCache cache(pool_, kLayers, kFormat);
    const int found = cache.hold_prefix(prefixes_, scope, tokens);
    EXPECT_TRUE(cache.try_extend(static_cast<int>(tokens.size()) - found));
    cache.share(prefixes_, scope, tokens);
    return cache;
  }
  static std::vector<BlockId> blocks(const SequenceCache& cache, int layer = 0) {
    const auto held = cache.layer(layer).blocks();
    return {held.begin(), held.end()};
  }

  BlockPool pool_{40};
  PrefixCache prefixes_{pool_, kLayers};
};

TEST_F(PrefixCacheTest, ALaterSequenceHoldsTheSameBlocks) {
  std::vector<BlockId> first_blocks;
  {
    const SequenceCache first = filled(tokens_from(0, 50));
    first_blocks = blocks(first);
    EXPECT_EQ(first.num_shared_entries(), 3);
    EXPECT_EQ(first.num_shared_blocks(), 3 * kLayers);
    EXPECT_EQ(pool_.num_used(), 4 * kLayers);
  }
  EXPECT_EQ(pool_.num_used(), 0);  // all that is left is idle
  EXPECT_EQ(prefixes_.num_blocks(), 3 * kLayers);
  SequenceCache second(pool_, kLayers, kFormat);
  EXPECT_EQ(second.hold_prefix(prefixes_, kScope, tokens_from(0, 40)), 32);
  EXPECT_EQ(blocks(second), (std::vector<BlockId>{first_blocks[0], first_blocks[1]}));
  EXPECT_EQ(second.layer(1).num_cached_tokens(), 32);
  EXPECT_EQ(pool_.num_used(), 2 * kLayers);
}

TEST_F(PrefixCacheTest, OnlyTheSameTokensBehindTheSameTokensInTheSameScope) {
  filled(tokens_from(0, 48));
  const auto found = [&](std::vector<TokenId> tokens, const PrefixScope& scope) {
    SequenceCache cache(pool_, kLayers, kFormat);
    return cache.hold_prefix(prefixes_, scope, tokens);
  };
  EXPECT_EQ(found(tokens_from(0, 48), kScope), 48);
  EXPECT_EQ(found(tokens_from(16, 32), kScope), 0);  // there, but not at the beginning
  std::vector<TokenId> other = tokens_from(0, 48);
  other[20] = 7;
  EXPECT_EQ(found(other, kScope), 16);
  EXPECT_EQ(found(tokens_from(0, 48), {.salt = "t", .dtype = KvDtype::kF32}), 0);
  EXPECT_EQ(found(tokens_from(0, 48), {.salt = "s", .dtype = KvDtype::kF16}), 0);
}

TEST_F(PrefixCacheTest, WhoComputedTheSameAtTheSameTimeGivesItsBlocksBack) {
  SequenceCache a(pool_, kLayers, kFormat);
  SequenceCache b(pool_, kLayers, kFormat);
  ASSERT_TRUE(a.try_extend(40) && b.try_extend(40));
  EXPECT_EQ(pool_.num_used(), 6 * kLayers);
  a.share(prefixes_, kScope, tokens_from(0, 40));
  const int revision = b.layer(0).revision();
  b.share(prefixes_, kScope, tokens_from(0, 40));
  EXPECT_EQ(pool_.num_used(), 4 * kLayers);
  EXPECT_EQ(blocks(a)[1], blocks(b)[1]);
  EXPECT_NE(blocks(a)[2], blocks(b)[2]);
  EXPECT_NE(b.layer(0).revision(), revision);  // who mirrors the table must hear of it
  EXPECT_EQ(a.num_blocks_held_by_others(), 2 * kLayers);
}

TEST_F(PrefixCacheTest, ThePoolTakesTheLongestUnusedBackAndChainsFromTheirEnds) {
  filled(tokens_from(0, 64));  // 4 entries
  filled(tokens_from(1000, 64));
  filled(tokens_from(0, 20));  // used again: its first block is newer than all of the second's
  SequenceCache large(pool_, kLayers, kFormat);
  ASSERT_TRUE(large.try_extend(13 * kBlockTokens));  // 7 blocks a layer for the entries: one must go
  const auto found = [&](TokenId first) {
    SequenceCache cache(pool_, kLayers, kFormat);
    return cache.hold_prefix(prefixes_, kScope, tokens_from(first, 64));
  };
  EXPECT_EQ(found(0), 48);
  EXPECT_EQ(found(1000), 64);
  ASSERT_TRUE(large.try_extend(7 * kBlockTokens));
  EXPECT_EQ(prefixes_.num_blocks(), 0);
  EXPECT_EQ(pool_.num_free(), 0);
  EXPECT_FALSE(large.try_extend(1));
}

TEST_F(PrefixCacheTest, RewritingLeavesSharedBlocksAlone) {
  SequenceCache first = filled(tokens_from(0, 70));
  SequenceCache second = filled(tokens_from(0, 70));
  const std::vector<BlockId> shared = blocks(first);
  const std::vector<SequenceCache::LayerShape> shapes(kLayers,
                                                      {.num_packed = 0, .num_tail = 20, .num_evicted = 50});
  EXPECT_FALSE(second.unshare_own());  // the first holds them too
  const int missing = second.spares_missing_for(shapes, second.num_shared_entries());
  EXPECT_EQ(missing, 2 * kLayers);
  ASSERT_TRUE(second.try_take_spares(missing));
  auto targets = second.rewrite_targets(shapes);
  for (const auto& layer : targets) {
    ASSERT_EQ(layer.size(), 2U);
    for (const BlockId block : layer) EXPECT_EQ(std::count(shared.begin(), shared.end(), block), 0);
  }
  EXPECT_EQ(second.finish_rewrite(shapes, targets), 3 * kLayers);
  EXPECT_EQ(second.num_evicted(1), 50);
  EXPECT_FALSE(second.is_whole());
  EXPECT_EQ(blocks(first), shared);
  EXPECT_EQ(pool_.num_used(), (5 + 2) * kLayers);
}

TEST_F(PrefixCacheTest, SharesNoMoreThanIsCached) {
  SequenceCache cache(pool_, kLayers, kFormat);
  ASSERT_TRUE(cache.try_extend(70));
  cache.drop_newest(20);
  cache.share(prefixes_, kScope, tokens_from(0, 200));
  EXPECT_EQ(cache.num_shared_entries(), 3);  // of 4, the last is no longer full
  cache.clear();
  cache.share(prefixes_, kScope, tokens_from(0, 200));
  EXPECT_EQ(cache.num_shared_blocks(), 0);
  EXPECT_EQ(pool_.num_used(), 0);
}

TEST_F(PrefixCacheTest, SparesThatWereNotWantedGoBack) {
  SequenceCache cache(pool_, kLayers, kFormat);
  ASSERT_TRUE(cache.try_extend(70));
  ASSERT_TRUE(cache.try_take_spares(4));
  const std::vector<SequenceCache::LayerShape> shapes(kLayers,
                                                      {.num_packed = 0, .num_tail = 20, .num_evicted = 50});
  EXPECT_EQ(cache.finish_rewrite(shapes, cache.rewrite_targets(shapes)), 3 * kLayers);
  EXPECT_EQ(cache.num_blocks(), 2 * kLayers);
  EXPECT_EQ(pool_.num_used(), 2 * kLayers);
}

TEST_F(PrefixCacheTest, WhatNobodyElseHoldsBecomesTheSequencesOwn) {
  SequenceCache cache = filled(tokens_from(0, 70));
  EXPECT_TRUE(cache.unshare_own());
  EXPECT_EQ(cache.num_shared_blocks(), 0);
  EXPECT_EQ(prefixes_.num_blocks(), 0);
  const std::vector<SequenceCache::LayerShape> shapes(kLayers,
                                                      {.num_packed = 0, .num_tail = 20, .num_evicted = 50});
  EXPECT_EQ(cache.spares_missing_for(shapes, 0), 0);
  const std::vector<BlockId> before = blocks(cache);
  EXPECT_EQ(cache.finish_rewrite(shapes, cache.rewrite_targets(shapes)), 3 * kLayers);
  EXPECT_EQ(blocks(cache), (std::vector<BlockId>{before[0], before[1]}));
}

TEST_F(PrefixCacheTest, AForkHoldsItsTrunksBlocksAndTheyGoWithTheLast) {
  const PrefixScope scope{.salt = "request", .dtype = KvDtype::kF32, .lasting = false};
  {
    SequenceCache child(pool_, kLayers, kFormat);
    {
      SequenceCache trunk = filled(tokens_from(0, 40), scope);
      const std::vector<SequenceCache::LayerShape> shapes(kLayers, {.num_packed = 0, .num_tail = 40});
      ASSERT_TRUE(child.try_fork(trunk, shapes));
      EXPECT_EQ(blocks(child)[1], blocks(trunk)[1]);
      EXPECT_NE(blocks(child)[2], blocks(trunk)[2]);
      EXPECT_EQ(pool_.num_used(), 4 * kLayers);
    }
    EXPECT_EQ(pool_.num_used(), 3 * kLayers);
  }
  EXPECT_EQ(prefixes_.num_blocks(), 0);  // not a lasting one
  EXPECT_EQ(pool_.num_free(), 40);
}

TEST_F(PrefixCacheTest, WhatIsForgottenIsNeverFound) {
  SequenceCache held = filled(tokens_from(0, 32));
  filled(tokens_from(500, 32));
  prefixes_.forget_all();
  for (const TokenId first : {0, 500}) {
    SequenceCache cache(pool_, kLayers, kFormat);
    EXPECT_EQ(cache.hold_prefix(prefixes_, kScope, tokens_from(first, 32)), 0);
  }
  held.clear();
  EXPECT_EQ(prefixes_.num_blocks(), 0);
}

TEST_F(PrefixCacheTest, WhatOneDistrustsOthersDoNotFind) {
  SequenceCache poisoned = filled(tokens_from(0, 32));
  SequenceCache holds_it_already = filled(tokens_from(0, 40));
  filled(tokens_from(500, 32));
  poisoned.distrust_shared();
  poisoned.clear();
  const auto found = [&](TokenId first) {
    SequenceCache cache(pool_, kLayers, kFormat);
    return cache.hold_prefix(prefixes_, kScope, tokens_from(first, 32));
  };
  EXPECT_EQ(found(0), 0);
  EXPECT_EQ(found(500), 32);
  holds_it_already.clear();
  EXPECT_EQ(prefixes_.num_blocks(), 2 * kLayers);
}

// Against a model that knows which tokens every block was filled for: no block is ever anything else while
// held.
TEST_F(PrefixCacheTest, RandomUseNeverMixesContents) {
  std::mt19937 random(7);
  std::map<BlockId, std::vector<TokenId>> content;  // layer 0: tokens up to the block's end
  std::list<std::pair<SequenceCache, std::vector<TokenId>>> live;
  for (int step = 0; step < 3000; ++step) {
    if (live.size() < 5 && random() % 2 == 0) {
      std::vector<TokenId> tokens;
      for (int part = 0, parts = 1 + static_cast<int>(random() % 4); part < parts; ++part) {
        const std::vector<TokenId> more =
            tokens_from(static_cast<TokenId>(100 * (random() % 3)), kBlockTokens);
        tokens.insert(tokens.end(), more.begin(), more.end());
      }
      SequenceCache cache(pool_, kLayers, kFormat);
      const int found = cache.hold_prefix(prefixes_, kScope, tokens);
      const auto so_far = [&](std::size_t block) {
        return std::vector<TokenId>(tokens.begin(),
                                    tokens.begin() + static_cast<std::ptrdiff_t>((block + 1) * kBlockTokens));
      };
      for (std::size_t b = 0; b < static_cast<std::size_t>(found / kBlockTokens); ++b)
        ASSERT_EQ(content.at(cache.layer(0).blocks()[b]), so_far(b));
      if (!cache.try_extend(static_cast<int>(tokens.size()) - found)) continue;
      for (std::size_t b = static_cast<std::size_t>(found / kBlockTokens); b < cache.layer(0).blocks().size();
           ++b)
        content[cache.layer(0).blocks()[b]] = so_far(b);
      cache.share(prefixes_, kScope, tokens);
      live.emplace_back(std::move(cache), std::move(tokens));
    } else if (!live.empty()) {
      live.erase(std::next(live.begin(), static_cast<std::ptrdiff_t>(random() % live.size())));
    }
    int held = 0;
    std::map<BlockId, bool> distinct;
    for (const auto& [cache, tokens] : live) {
      for (const BlockId block : cache.layer(0).blocks()) distinct[block] = true;
    }
    held = static_cast<int>(distinct.size()) * kLayers;
    ASSERT_EQ(pool_.num_used(), held);
  }
}

}  // namespace
}  // namespace kvcrush
