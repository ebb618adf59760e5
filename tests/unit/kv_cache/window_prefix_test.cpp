// Prefixes of layers with sliding windows: what is held, what may go, and where a prompt can begin.
#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "engine/kv_cache/sequence_cache.h"

namespace kvcrush {
namespace {

constexpr int kLayers = 4;
constexpr int kBlockTokens = 16;
constexpr int kShort = 20;
constexpr int kLong = 40;
constexpr std::array<int, kLayers> kWindows = {kShort, 0, kLong, kShort};
constexpr cpu::KvFormat kFormat{
    .tail = KvDtype::kF32, .packed = KvDtype::kF32, .tail_tokens_per_block = kBlockTokens};
const PrefixScope kScope{.salt = "s", .dtype = KvDtype::kF32, .lasting = true};
const PrefixScope kBriefScope{.salt = "request", .dtype = KvDtype::kF32, .lasting = false};

std::vector<TokenId> tokens_from(TokenId first, int count) {
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

// Against a model that knows which tokens every block was filled for: no block is ever anything else while
// held, and the pool counts what is held.
class RandomWindowPrefixTest : public WindowPrefixTest {
 protected:
  struct Live {
    SequenceCache cache;
    std::vector<TokenId> tokens;
    bool lasting;
  };
  using Content = std::pair<int, std::vector<TokenId>>;  // layer, and tokens up to the block's end

  RandomWindowPrefixTest() : WindowPrefixTest(120) {}

  const PrefixScope& scope_of(const Live& live) const { return live.lasting ? kScope : kBriefScope; }
  std::vector<TokenId> random_tokens(int num_parts) {
    std::vector<TokenId> tokens;
    for (int part = 0; part < num_parts; ++part) {
      const auto more = tokens_from(static_cast<TokenId>(100 * (random_() % 2)), kBlockTokens);
      tokens.insert(tokens.end(), more.begin(), more.end());
    }
    return tokens;
  }
  // Grows by some tokens, as a prompt's chunk (shared at once) or as an answer.
  void grow(Live& live, bool as_prompt) {
    const std::vector<TokenId> more = random_tokens(1 + static_cast<int>(random_() % 3));
    if (!live.cache.try_extend(static_cast<int>(more.size()))) return;
    live.tokens.insert(live.tokens.end(), more.begin(), more.end());
    for (int i = 0; i < kLayers; ++i) {
      const BlockTable& table = live.cache.layer(i);
      const std::size_t gone = static_cast<std::size_t>(table.num_gone_tokens()) / kBlockTokens;
      for (auto b = static_cast<std::size_t>(table.num_shared_blocks()); b < table.blocks().size(); ++b)
        contents_[table.blocks()[b]] = content(i, live.tokens, gone + b);
    }
    if (as_prompt) live.cache.share(prefixes_, scope_of(live), live.tokens);
    live.cache.drop_past_windows(0, 1);
  }
  static Content content(int layer, const std::vector<TokenId>& tokens, std::size_t block) {
    return {layer,
            {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>((block + 1) * kBlockTokens)}};
  }
  void check() {
    std::set<BlockId> held;
    for (const Live& live : live_) {
      for (int i = 0; i < kLayers; ++i) {
        const BlockTable& table = live.cache.layer(i);
        const std::size_t gone = static_cast<std::size_t>(table.num_gone_tokens()) / kBlockTokens;
        for (std::size_t b = 0; b < table.blocks().size(); ++b) {
          held.insert(table.blocks()[b]);
          ASSERT_EQ(contents_.at(table.blocks()[b]), content(i, live.tokens, gone + b));
        }
      }
    }
    ASSERT_EQ(pool_.num_used(), static_cast<int>(held.size()));
    ASSERT_GE(prefixes_.num_blocks(), prefixes_.num_idle_blocks());
  }
  void begin() {
    Live live{empty(), random_tokens(1 + static_cast<int>(random_() % 12)), random_() % 4 > 0};
    const int hit = live.cache.hold_prefix(prefixes_, scope_of(live), live.tokens);
    num_hits_ += hit > 0 ? 1 : 0;
    live.tokens.resize(static_cast<std::size_t>(hit));
    live_.push_back(std::move(live));
  }
  void fork(const Live& trunk) {
    Live child{empty(), trunk.tokens, trunk.lasting};
    std::vector<SequenceCache::LayerShape> shapes;
    for (int i = 0; i < kLayers; ++i) shapes.push_back(trunk.cache.shape(i));
    if (trunk.cache.shares_with_fork(shapes) && trunk.cache.num_shared_blocks() == trunk.cache.num_blocks() &&
        child.cache.try_fork(trunk.cache, shapes))
      live_.push_back(std::move(child));
  }
  void end(std::list<Live>::iterator live) {
    if (random_() % 2 == 0) live->cache.share(prefixes_, scope_of(*live), live->tokens);
    live_.erase(live);
  }

  std::mt19937 random_{7};
  std::map<BlockId, Content> contents_;
  std::list<Live> live_;
  int num_hits_ = 0;
};

TEST_F(RandomWindowPrefixTest, NeverMixesContentsAndCountsWhatIsHeld) {
  for (int step = 0; step < 6000; ++step) {
    if (live_.empty() || (live_.size() < 6 && random_() % 3 == 0)) begin();
    const auto any = std::next(live_.begin(), static_cast<std::ptrdiff_t>(random_() % live_.size()));
    switch (random_() % 10) {
      case 0:
        any->cache.unshare_own();
        break;
      case 1:
        if (live_.size() < 6) fork(*any);
        break;
      case 2:
      case 3:
        end(any);
        break;
      case 4:
        if (step % 50 == 0) prefixes_.forget_all();
        break;
      default:
        grow(*any, random_() % 3 > 0);
    }
    ASSERT_NO_FATAL_FAILURE(check()) << "step " << step;
  }
  EXPECT_GT(num_hits_, 500);
  live_.clear();
  EXPECT_EQ(pool_.num_used(), 0);
  EXPECT_EQ(prefixes_.num_blocks(), prefixes_.num_idle_blocks());
}

}  // namespace
}  // namespace kvcrush
