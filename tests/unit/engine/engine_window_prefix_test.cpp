// Prompts with the same beginning where layers have sliding windows.
#include "tests/unit/engine/engine_fixture.h"

namespace kvcrush {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

class EngineWindowPrefixTest : public EngineTest {
 protected:
  EngineWindowPrefixTest() { model_ = make_window_model(); }

  static EngineConfig config_of(int pool_tokens, bool prefix_cache, int max_batch_tokens = 64) {
    EngineConfig config = config_for(pool_tokens);
    config.prefix_cache = prefix_cache;
    config.max_batch_tokens = max_batch_tokens;
    return config;
  }
  // Every base policy, packed dtypes, pruning in prefill, and none of it, over prompts of one beginning that
  // all windows have passed when it ends.
  static std::vector<EngineRequest> related_requests(int count, int max_tokens) {
    std::vector<EngineRequest> requests = mixed_requests(count, max_tokens);
    for (int i = 0; i < count; ++i)
      requests[static_cast<std::size_t>(i)].prompt_token_ids =
          prompt(150 + i % 3 * 50, 20 + i * 37 % 110, static_cast<unsigned>(i));
    return requests;
  }
  std::vector<Outcome> without_cache(const std::vector<EngineRequest>& requests) {
    return run_together(*make_engine(config_of(16384, false)), requests);
  }
  // All windows, none of them as long as the context.
  void close_all_layers() {
    auto model = std::make_shared<ModelFile>(*model_);
    model->config.windows = {kLongWindow, kShortWindow, kShortWindow};
    model_ = model;
  }
};

TEST_F(EngineWindowPrefixTest, ALaterPromptStartsWhereItBranchesOff) {
  auto engine = make_engine(4096);
  run(*engine, greedy_request("a", prompt(400, 150, 1), 60));
  const int computed = observer_.num_prefill_tokens;
  EXPECT_EQ(run(*engine, greedy_request("b", prompt(400, 30, 2), 4)).finish.cached_prompt_tokens, 400);
  EXPECT_EQ(observer_.num_prefill_tokens - computed, 30);
  EXPECT_EQ(observer_.num_hit_tokens_total, 400);
  EXPECT_EQ(run(*engine, greedy_request("c", prompt(250, 30, 3), 4)).finish.cached_prompt_tokens, 240);
  expect_no_blocks_used(*engine);
}

TEST_F(EngineWindowPrefixTest, SameTokensWithAndWithoutTheCache) {
  for (const bool all_windows : {false, true}) {
    if (all_windows) close_all_layers();
    const std::vector<EngineRequest> requests = related_requests(20, 40);
    const std::vector<Outcome> expected = without_cache(requests);
    for (const int max_batch_tokens : {512, 37}) {
      auto engine = make_engine(config_of(16384, true, max_batch_tokens));
      for (int round = 0; round < 2; ++round) {
        const std::vector<Outcome> outcomes = run_together(*engine, requests);
        int hits = 0;
        for (std::size_t i = 0; i < requests.size(); ++i) {
          EXPECT_EQ(outcomes[i].tokens, expected[i].tokens)
              << "request " << i << ", round " << round << ", " << max_batch_tokens << " tokens a step";
          hits += outcomes[i].finish.cached_prompt_tokens > 0 ? 1 : 0;
        }
        if (round == 1) {
          EXPECT_GT(hits, 14);  // all but h2o, which must see every query
        }
      }
      expect_no_blocks_used(*engine);
    }
  }
}

// Attention merges partitions of 512 tokens: the windows see the end of one and the beginning of the next.
TEST_F(EngineWindowPrefixTest, SameTokensToTheBitBehindAHit) {
  const auto logprobs = [](Engine& engine, const EngineRequest& request) {
    Collector collector;
    EXPECT_TRUE(engine.submit(request, collector.stream()).ok());
    EXPECT_TRUE(collector.wait());
    std::vector<float> all;
    for (const TokenEvent& event : collector.events()) all.push_back(event.logprob.value().logprob);
    return all;
  };
  EngineRequest request = greedy_request("b", prompt(500, 20, 2), 80);
  request.sampling.num_logprobs = 0;
  auto engine = make_engine(4096);
  run(*engine, greedy_request("a", prompt(500, 200, 1), 2));
  EXPECT_EQ(logprobs(*engine, request), logprobs(*make_engine(config_of(4096, false)), request));
  EXPECT_EQ(observer_.num_hit_tokens_total, 496);
}

// The answer's end is no multiple of a block, and the windows move past what the block before it sees.
TEST_F(EngineWindowPrefixTest, SameTokensInTheNextTurn) {
  auto engine = make_engine(4096);
  auto without = make_engine(config_of(4096, false));
  for (const int lookup_tokens : {0, 8}) {
    for (int answer = 180; answer < 196; answer += 5) {
      EngineRequest request = greedy_request("a", prompt(70, 0, 0), answer);
      request.cache_salt = std::to_string(lookup_tokens) + "-" + std::to_string(answer);
      request.lookup_tokens = lookup_tokens;
      const Outcome first = run(*engine, request);
      request.prompt_token_ids.insert(request.prompt_token_ids.end(), first.tokens.begin(),
                                      first.tokens.end());
      request.prompt_token_ids.push_back(3);
      const Outcome second = run(*engine, request);
      EXPECT_EQ(second.finish.cached_prompt_tokens, (70 + answer - 1) / 16 * 16);
      EXPECT_EQ(second.tokens, run(*without, request).tokens);
    }
  }
}

TEST_F(EngineWindowPrefixTest, SameTokensWhereThePoolIsShort) {
  std::vector<EngineRequest> requests = related_requests(16, 200);
  for (std::size_t i = 0; i < requests.size(); ++i)
    requests[i].prompt_token_ids = prompt(60 + static_cast<int>(i) % 3 * 30,
                                          10 + static_cast<int>(i) * 37 % 60, static_cast<unsigned>(i));
  const std::vector<Outcome> expected = without_cache(requests);
  for (const std::uint64_t swap_memory_bytes : {std::uint64_t{0}, std::uint64_t{64} << 20}) {
    for (const int pool_tokens : {420, 600}) {
      EngineConfig config = config_of(pool_tokens, true);
      config.swap_memory_bytes = swap_memory_bytes;
      auto engine = make_engine(config);
      for (int round = 0; round < 2; ++round) {
        const std::vector<Outcome> outcomes = run_together(*engine, requests);
        for (std::size_t i = 0; i < requests.size(); ++i)
          EXPECT_EQ(outcomes[i].tokens, expected[i].tokens) << "request " << i << ", pool " << pool_tokens;
      }
      expect_no_blocks_used(*engine);
    }
  }
  EXPECT_GE(observer_.num_preemptions, 2);
  EXPECT_GT(observer_.num_hit_tokens_total, 1000);
}

// A prompt longer than the pool, pruned while it is computed, beside what is cached.
TEST_F(EngineWindowPrefixTest, SameTokensWherePrefillPrunesItsOwnSharedBlocks) {
  EngineRequest request = greedy_request("a", random_prompt(1500, kTinyVocab, 5), 10);
  request.cache_policies[0].compression = quarter();
  request.cache_policies[0].compression->when = PruneWhen::kDuringPrefill;
  request.cache_policies[0].compression->budget_fraction = 0;
  request.cache_policies[0].compression->budget_tokens = 60;  // between the windows
  const std::vector<TokenId> expected = without_cache({request})[0].tokens;
  auto engine = make_engine(config_of(640, true));
  for (int i = 0; i < 3; ++i) EXPECT_EQ(run(*engine, request).tokens, expected);
  EXPECT_GT(observer_.num_hit_tokens_total, 0);
  expect_no_blocks_used(*engine);
}

TEST_F(EngineWindowPrefixTest, SameTokensOfSamplesThatHoldTheirPromptTogether) {
  for (const bool bypass : {false, true}) {
    auto engine = make_engine(1440, 256, 32);
    expect_samples_as_alone(*engine, bypass);
    // The layer that sees all would fill 2 pools by itself.
    EXPECT_GE(observer_.most_running.exchange(0), 16);
    EXPECT_EQ(engine->stats().prefix_cache_blocks > 0, !bypass);
  }
}

// What windows have passed takes no room from anyone: it goes as others need it.
TEST_F(EngineWindowPrefixTest, AFullPoolOfCachedPromptsGivesWay) {
  auto engine = make_engine(640);
  for (int i = 0; i < 12; ++i) {
    const EngineRequest request =
        greedy_request("r" + std::to_string(i), random_prompt(500, kTinyVocab, static_cast<unsigned>(i)), 10);
    EXPECT_EQ(run(*engine, request).tokens.size(), 10U);
    EXPECT_EQ(run(*engine, request).finish.cached_prompt_tokens, 496);
    expect_no_blocks_used(*engine);
  }
  EXPECT_EQ(observer_.num_preemptions, 0);
  EXPECT_LE(engine->stats().prefix_cache_blocks, 40 * kLayers);
}

}  // namespace
}  // namespace kvcrush
