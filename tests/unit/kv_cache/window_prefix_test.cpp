// Prefixes of layers with sliding windows: what is held, what may go, and where a prompt can begin.
#include "tests/unit/kv_cache/window_prefix_fixture.h"

namespace kvcrush {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

TEST_F(WindowPrefixTest, AHitLeavesACacheAsComputingDoes) {
  for (const int num_tokens : {15, 16, 32, 48, 55, 64, 112}) {
    const std::vector<TokenId> tokens = tokens_from(0, num_tokens);
    const int whole = num_tokens / kBlockTokens * kBlockTokens;
    const SequenceCache computed = filled(tokens_from(0, whole), 7);
    SequenceCache hit = empty();
    ASSERT_EQ(hit.hold_prefix(prefixes_, kScope, tokens), whole);
    EXPECT_TRUE(hit.is_whole());
    for (int i = 0; i < kLayers; ++i) {
      const SequenceCache::LayerShape expected = computed.shape(i);
      const SequenceCache::LayerShape shape = hit.shape(i);
      EXPECT_EQ(shape.num_tail, expected.num_tail) << num_tokens << " tokens, layer " << i;
      EXPECT_EQ(shape.num_dropped, expected.num_dropped);
      EXPECT_EQ(shape.dropped_since_settled.num_tail, expected.dropped_since_settled.num_tail);
      EXPECT_EQ(shape.dropped_tiles, expected.dropped_tiles);
      EXPECT_TRUE(std::ranges::equal(hit.layer(i).blocks(), computed.layer(i).blocks()));
      EXPECT_EQ(hit.layer(i).num_shared_blocks(), shape.num_tail / kBlockTokens);
    }
  }
}

TEST_F(WindowPrefixTest, WindowsHoldNoMoreThanTheySee) {
  const SequenceCache cache = filled(tokens_from(0, 112));
  // Of 7 entries: 7 + 3 of the window of 40, and twice 2 of that of 20.
  EXPECT_EQ(cache.num_shared_blocks(), 7 + 3 + 2 * 2);
  EXPECT_EQ(pool_.num_used(), cache.num_shared_blocks());
  EXPECT_EQ(prefixes_.num_blocks(), 7 * kLayers);
  EXPECT_EQ(prefixes_.num_idle_blocks(), 7 * kLayers - pool_.num_used());
}

TEST_F(WindowPrefixTest, APromptThatBranchesOffFindsWhatTheWindowsPassed) {
  filled(tokens_from(0, 112));
  for (const int shared : {40, 64, 100}) {
    std::vector<TokenId> tokens = tokens_from(0, shared);
    tokens.resize(112, 7);
    EXPECT_EQ(found(tokens), shared / kBlockTokens * kBlockTokens);
  }
}

TEST_F(WindowPrefixTest, WhatWindowsPassedFirstGoesFirstAndTheEndStaysOfUse) {
  filled(tokens_from(0, 112));
  const int idle_passed = (5 + 5 + 4);
  evict(idle_passed);
  EXPECT_EQ(found(tokens_from(0, 112)), 112);
  EXPECT_EQ(found(tokens_from(0, 100)), 0);  // the windows' parts before 96 are gone
  EXPECT_EQ(prefixes_.num_blocks(), 7 * kLayers - idle_passed);
  evict(prefixes_.num_idle_blocks());
  EXPECT_EQ(prefixes_.num_blocks(), 0);
}

TEST_F(WindowPrefixTest, WhoComputesWhatWasGoneBringsItBack) {
  filled(tokens_from(0, 112));
  evict(5 + 5 + 4);
  const SequenceCache other = filled(tokens_from(0, 100));
  EXPECT_EQ(found(tokens_from(0, 100)), 96);
  EXPECT_EQ(prefixes_.num_blocks(), 7 * kLayers);
  EXPECT_EQ(other.num_shared_entries(), 6);
}

TEST_F(WindowPrefixTest, WhatAWindowPassedBeforeItWasSharedIsWanting) {
  const std::vector<TokenId> tokens = tokens_from(0, 180);
  {
    SequenceCache cache = filled(tokens_from(0, 50));
    for (int i = 50; i < 180; ++i) {
      ASSERT_TRUE(cache.try_extend(1));
      cache.drop_past_windows(0, 1);
    }
    cache.share(prefixes_, kScope, tokens);
    EXPECT_EQ(cache.num_shared_entries(), 11);
    EXPECT_EQ(pool_.num_used(), cache.num_blocks());
  }
  EXPECT_EQ(pool_.num_used(), 0);
  // The query after 176 tokens sees 157 and on in a window of 20, which held 160 and on.
  EXPECT_EQ(found(tokens), 48);
  SequenceCache again = empty();
  compute(again, tokens, again.hold_prefix(prefixes_, kScope, tokens));
  EXPECT_EQ(found(tokens), 176);
}

TEST_F(WindowPrefixTest, AWindowGivesBackWhatWillNotLast) {
  const SequenceCache trunk = filled(tokens_from(0, 112), 32, kBriefScope);
  EXPECT_EQ(prefixes_.num_idle_blocks(), 0);
  EXPECT_EQ(prefixes_.num_blocks(), trunk.num_shared_blocks());
  EXPECT_EQ(pool_.num_used(), trunk.num_blocks());
}

TEST_F(WindowPrefixTest, AForkHoldsWhatItsTrunkHolds) {
  SequenceCache child = empty();
  {
    SequenceCache trunk = filled(tokens_from(0, 120), 32, kBriefScope);
    std::vector<SequenceCache::LayerShape> shapes;
    for (int i = 0; i < kLayers; ++i) shapes.push_back(trunk.shape(i));
    ASSERT_TRUE(child.try_fork(trunk, shapes));
    EXPECT_EQ(child.num_blocks_held_by_others(), trunk.num_shared_blocks());
    EXPECT_EQ(pool_.num_used(), trunk.num_blocks() + kLayers);
    for (int i = 0; i < kLayers; ++i) {
      EXPECT_EQ(child.layer(i).dropped_tiles(), trunk.layer(i).dropped_tiles());
      EXPECT_EQ(child.num_dropped(i), trunk.num_dropped(i));
    }
    ASSERT_TRUE(child.try_extend(60));
    child.drop_past_windows(0, 1);
    EXPECT_EQ(child.num_blocks_held_by_others(), 7);  // the windows have passed the prompt
  }
  EXPECT_TRUE(child.is_whole());
  EXPECT_EQ(pool_.num_used(), child.num_blocks());
}

TEST_F(WindowPrefixTest, ARewriteCopiesWhatIsStillShared) {
  SequenceCache cache = filled(tokens_from(0, 112));
  SequenceCache other = filled(tokens_from(0, 112));
  const std::vector<BlockId> before(cache.layer(2).blocks().begin(), cache.layer(2).blocks().end());
  std::vector<SequenceCache::LayerShape> shapes;
  for (int i = 0; i < kLayers; ++i) {
    shapes.push_back(
        {.num_packed = 0, .num_tail = 30, .num_evicted = cache.layer(i).num_cached_tokens() - 30});
    shapes.back().num_dropped = cache.num_dropped(i);
  }
  EXPECT_EQ(cache.spares_missing_for(shapes, cache.num_shared_entries()), 2 * kLayers);
  ASSERT_TRUE(cache.try_take_spares(2 * kLayers));
  auto targets = cache.rewrite_targets(shapes);
  for (const auto& layer : targets) EXPECT_EQ(layer.size(), 2U);
  EXPECT_EQ(cache.finish_rewrite(shapes, targets), 14 - 2 * kLayers);
  EXPECT_EQ(pool_.num_used(), 14 + 2 * kLayers);
  EXPECT_TRUE(std::ranges::equal(other.layer(2).blocks(), before));
  EXPECT_FALSE(cache.is_whole());
}

TEST_F(WindowPrefixTest, WhatNobodyElseHoldsIsItsOwnAndWhatWindowsPassedGoesBack) {
  SequenceCache cache = filled(tokens_from(0, 112));
  EXPECT_TRUE(cache.unshare_own());
  EXPECT_EQ(cache.num_shared_blocks(), 0);
  EXPECT_EQ(prefixes_.num_blocks(), 0);
  EXPECT_EQ(prefixes_.num_idle_blocks(), 0);
  EXPECT_EQ(pool_.num_used(), cache.num_blocks());
  // As if it had never shared: it may do so again.
  cache.share(prefixes_, kScope, tokens_from(0, 112));
  EXPECT_EQ(cache.num_shared_blocks(), 14);
}

TEST_F(WindowPrefixTest, WhatIsDistrustedGoesWithItsHolder) {
  SequenceCache cache = filled(tokens_from(0, 112));
  cache.distrust_shared();
  EXPECT_EQ(found(tokens_from(0, 112)), 0);
  cache.clear();
  EXPECT_EQ(prefixes_.num_blocks(), 0);
  EXPECT_EQ(pool_.num_free(), 60);
}

TEST_F(WindowPrefixTest, ASwappedCacheSharesAgain) {
  std::vector<SequenceCache::LayerShape> shapes;
  {
    const SequenceCache cache = filled(tokens_from(0, 112));
    for (int i = 0; i < kLayers; ++i) shapes.push_back(cache.shape(i));
  }
  SequenceCache back = empty();
  ASSERT_TRUE(back.try_assign(shapes));
  EXPECT_TRUE(back.is_whole());
  back.share(prefixes_, kScope, tokens_from(0, 112));
  EXPECT_EQ(back.num_shared_blocks(), 14);
  EXPECT_EQ(pool_.num_used(), 14);
}

class WindowsOnlyPrefixTest : public WindowPrefixTest {
 protected:
  static constexpr std::array<int, kLayers> kOnlyWindows = {kShort, kShort, kShort, kShort};
  WindowsOnlyPrefixTest() : WindowPrefixTest(60, kOnlyWindows) {}
};

TEST_F(WindowsOnlyPrefixTest, EntriesWithoutBlocksAreFoundThroughAndGo) {
  filled(tokens_from(0, 112));
  evict(5 * kLayers);
  EXPECT_EQ(prefixes_.num_blocks(), 2 * kLayers);
  EXPECT_EQ(found(tokens_from(0, 112)), 112);
  EXPECT_EQ(found(tokens_from(0, 64)), 0);
  evict(2 * kLayers);
  EXPECT_EQ(prefixes_.num_blocks(), 0);
  filled(tokens_from(0, 112));
  EXPECT_EQ(prefixes_.num_blocks(), 7 * kLayers);
}

}  // namespace
}  // namespace kvcrush
