// Prompts with the same beginning: they take it from the prefix cache and say the same all the same.
#include "tests/unit/engine/engine_fixture.h"

namespace kvcrush {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

class EnginePrefixTest : public EngineTest {
 protected:
  static EngineConfig without_cache(int pool_tokens) {
    EngineConfig config = config_for(pool_tokens);
    config.prefix_cache = false;
    return config;
  }
  // Every base policy, packed dtypes, pruning in prefill, and none of it, over prompts of one beginning.
  static std::vector<EngineRequest> related_requests(int count) {
    std::vector<EngineRequest> requests = mixed_requests(count, 30);
    for (int i = 0; i < count; ++i)
      requests[static_cast<std::size_t>(i)].prompt_token_ids = prompt(100 + i % 3 * 50, 20 + i * 7 % 60, i);
    return requests;
  }
};

TEST_F(EnginePrefixTest, ALaterPromptStartsBehindTheSharedBlocks) {
  auto engine = make_engine(4096);
  EXPECT_EQ(run(*engine, greedy_request("a", prompt(100, 20, 1), 4)).finish.cached_prompt_tokens, 0);
  const int computed = observer_.num_prefill_tokens;
  EXPECT_EQ(run(*engine, greedy_request("b", prompt(100, 30, 2), 4)).finish.cached_prompt_tokens, 96);
  EXPECT_EQ(observer_.num_prefill_tokens - computed, 34);
  EXPECT_EQ(observer_.num_hit_tokens_total, 96);
  EXPECT_EQ(observer_.num_queried_tokens, 250);
  EXPECT_GT(engine->stats().prefix_cache_blocks, 0);
  expect_no_blocks_used(*engine);
}

TEST_F(EnginePrefixTest, SameTokensForTheSamePromptAgain) {
  auto engine = make_engine(4096);
  const Outcome first = run(*engine, greedy_request("a", prompt(96, 0, 0), 8));
  const Outcome second = run(*engine, greedy_request("b", prompt(96, 0, 0), 8));
  EXPECT_EQ(second.finish.cached_prompt_tokens, 80);
  EXPECT_EQ(second.tokens, first.tokens);
}

TEST_F(EnginePrefixTest, SameTokensInTheNextTurn) {
  auto engine = make_engine(4096);
  std::vector<TokenId> turn = prompt(40, 0, 0);
  const Outcome first = run(*engine, greedy_request("a", turn, 60));
  turn.insert(turn.end(), first.tokens.begin(), first.tokens.end());
  turn.push_back(3);
  const Outcome second = run(*engine, greedy_request("b", turn, 8));
  EXPECT_EQ(second.finish.cached_prompt_tokens, 96);  // 99 of 101 tokens were computed
  EXPECT_EQ(second.tokens, run(*make_engine(without_cache(4096)), greedy_request("b", turn, 8)).tokens);
}

TEST_F(EnginePrefixTest, SaltTenantAndBypassKeepPromptsApart) {
  auto engine = make_engine(4096);
  const auto ask = [&](const std::string& id, auto change) {
    EngineRequest request = greedy_request(id, prompt(100, 10, 1), 2);
    change(request);
    return run(*engine, request).finish.cached_prompt_tokens;
  };
  EXPECT_EQ(ask("a", [](EngineRequest& r) { r.bypass_prefix_cache = true; }), 0);
  EXPECT_EQ(ask("b", [](EngineRequest&) {}), 0);  // the one before left nothing
  EXPECT_EQ(ask("c", [](EngineRequest& r) { r.bypass_prefix_cache = true; }), 0);
  EXPECT_EQ(ask("d", [](EngineRequest& r) { r.cache_salt = "s"; }), 0);
  EXPECT_EQ(ask("e", [](EngineRequest& r) { r.tenant = "t"; }), 0);
  EXPECT_EQ(ask("f", [](EngineRequest& r) { r.tenant = "t", r.cache_salt = "s"; }), 0);
  EXPECT_EQ(ask("g", [](EngineRequest& r) { r.cache_salt = "s"; }), 96);
  EXPECT_EQ(ask("h", [](EngineRequest& r) { r.tenant = "t"; }), 96);
  EXPECT_EQ(ask("i", [](EngineRequest& r) { r.cache_policies[0].kv_dtype = KvDtype::kF16; }), 0);
  EXPECT_EQ(ask("j", [](EngineRequest& r) { r.cache_policies[0].kv_dtype = KvDtype::kInt4; }), 96);
}

// What others prune never shows, and who prunes takes hits and says what it would say without.
TEST_F(EnginePrefixTest, SameTokensWithAndWithoutTheCache) {
  const std::vector<EngineRequest> requests = related_requests(24);
  const std::vector<Outcome> expected = run_together(*make_engine(without_cache(8192)), requests);
  auto engine = make_engine(8192);
  for (int round = 0; round < 2; ++round) {
    const std::vector<Outcome> outcomes = run_together(*engine, requests);
    int hits = 0;
    for (std::size_t i = 0; i < requests.size(); ++i) {
      EXPECT_EQ(outcomes[i].tokens, expected[i].tokens) << "request " << i << ", round " << round;
      EXPECT_EQ(outcomes[i].finish.compression.pruned, expected[i].finish.compression.pruned) << i;
      hits += outcomes[i].finish.cached_prompt_tokens > 0 ? 1 : 0;
    }
    if (round == 1) {
      EXPECT_GT(hits, 16);  // all but h2o, which must see every query
    }
  }
  expect_no_blocks_used(*engine);
}

TEST_F(EnginePrefixTest, SameTokensWhereThePoolIsShort) {
  const std::vector<EngineRequest> requests = related_requests(24);
  const std::vector<Outcome> expected = run_together(*make_engine(without_cache(8192)), requests);
  for (const int pool_tokens : {340, 480, 800}) {
    auto engine = make_engine(pool_tokens);
    for (int round = 0; round < 2; ++round) {
      const std::vector<Outcome> outcomes = run_together(*engine, requests);
      for (std::size_t i = 0; i < requests.size(); ++i)
        EXPECT_EQ(outcomes[i].tokens, expected[i].tokens) << "request " << i << ", pool " << pool_tokens;
    }
    expect_no_blocks_used(*engine);
  }
}

// A prompt longer than the pool, pruned while it is computed, beside what is cached.
TEST_F(EnginePrefixTest, SameTokensWherePrefillPrunesItsOwnSharedBlocks) {
  EngineRequest request = greedy_request("a", random_prompt(1500, kTinyVocab, 5), 10);
  request.cache_policies[0].compression = quarter();
  request.cache_policies[0].compression->when = PruneWhen::kDuringPrefill;
  request.cache_policies[0].compression->budget_fraction = 0;
  request.cache_policies[0].compression->budget_tokens = 100;
  const std::vector<TokenId> expected = run(*make_engine(without_cache(4096)), request).tokens;
  auto engine = make_engine(700);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(run(*engine, request).tokens, expected);
  expect_no_blocks_used(*engine);
}

TEST_F(EnginePrefixTest, SameTokensOfSamplesThatHoldTheirPromptTogether) {
  for (const bool bypass : {false, true}) {
    auto engine = make_engine(1440, 256, 32);
    expect_samples_as_alone(*engine, bypass);
    EXPECT_EQ(observer_.num_preemptions, 0);  // 16 copies of 500 tokens would be over 5 pools
  }
}

TEST_F(EnginePrefixTest, AFullPoolOfCachedPromptsGivesWay) {
  auto engine = make_engine(512);
  for (int i = 0; i < 12; ++i) {
    EngineRequest request = greedy_request("r" + std::to_string(i), random_prompt(200, kTinyVocab, i), 10);
    EXPECT_EQ(run(*engine, request).tokens.size(), 10U);
    expect_no_blocks_used(*engine);
  }
  EXPECT_LE(engine->stats().prefix_cache_blocks, 32 * kLayers);
}

}  // namespace
}  // namespace kvcrush
