// Prefixes of layers with sliding windows under random load.
#include <list>
#include <map>
#include <random>
#include <set>

#include "tests/unit/kv_cache/window_prefix_fixture.h"

namespace kvcrush {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

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
