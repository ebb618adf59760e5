// What the engine computes, on a tiny model: same tokens whatever else runs, and compression that holds its
// budget.
#include <gtest/gtest.h>

#include "tests/unit/engine/engine_fixture.h"

namespace kvcrush {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

TEST(EngineConfigTest, TheCpuRefusesWeightTypesItDoesNotComputeIn) {
  EngineObserver observer;
  EngineConfig config;
  config.kv_memory_bytes = 8 << 20;
  for (const char* type : {"bf16", "f16", "int3"}) {
    config.weight_dtype = type;
    const auto engine = Engine::create(make_tiny_model(), config, observer);
    ASSERT_FALSE(engine.ok());
    EXPECT_EQ(engine.status().code(), StatusCode::kInvalidArgument);
    EXPECT_NE(engine.status().message().find("weight_dtype is '" + std::string(type) + "'; allowed"),
              std::string::npos)
        << engine.status().message();
  }
}

TEST_F(EngineTest, GeneratesTheWantedNumberOfTokens) {
  auto engine = make_engine(512);
  const Outcome outcome = run(*engine, greedy_request("a", {5, 6, 7}, 20));
  EXPECT_EQ(outcome.tokens.size(), 20U);
  EXPECT_EQ(outcome.finish.reason, FinishReason::kLength);
  EXPECT_EQ(outcome.finish.prompt_tokens, 3);
  EXPECT_EQ(outcome.finish.completion_tokens, 20);
  EXPECT_FALSE(outcome.finish.compression.enabled);
  expect_no_blocks_used(*engine);
}

TEST_F(EngineTest, SameTokensAloneInABatchAndWithAnyChunkSize) {
  const std::vector<EngineRequest> requests = mixed_requests(14);
  auto large = make_engine(8192, 512);
  std::vector<Outcome> alone;
  for (const EngineRequest& request : requests) alone.push_back(run(*large, request));
  for (const int max_batch_tokens : {512, 37, 16}) {
    auto engine = make_engine(8192, max_batch_tokens);
    const std::vector<Outcome> together = run_together(*engine, requests);
    for (std::size_t i = 0; i < requests.size(); ++i) {
      EXPECT_EQ(together[i].tokens, alone[i].tokens)
          << "request " << i << ", " << max_batch_tokens << " tokens a step";
    }
    expect_no_blocks_used(*engine);
  }
}

TEST_F(EngineTest, SameTokensAfterPreemption) {
  const std::vector<EngineRequest> requests = mixed_requests(16, 120);
  auto large = make_engine(8192);
  const std::vector<Outcome> expected = run_together(*large, requests);
  EXPECT_EQ(observer_.num_preemptions, 0);
  auto small = make_engine(460);
  const std::vector<Outcome> outcomes = run_together(*small, requests);
  EXPECT_GT(observer_.num_preemptions, 1);
  int preempted = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(outcomes[i].tokens, expected[i].tokens) << "request " << i;
    preempted += outcomes[i].finish.preemptions;
  }
  EXPECT_EQ(preempted, observer_.num_preemptions);
  expect_no_blocks_used(*small);
}

TEST_F(EngineTest, CompressionHoldsItsBudgetAndReportsIt) {
  auto engine = make_engine(2048);
  EngineRequest request = greedy_request("a", random_prompt(800, kTinyVocab, 1), 40);
  request.cache_policies[0].compression = quarter();
  const CompressionOutcome outcome = run(*engine, request).finish.compression;
  EXPECT_TRUE(outcome.enabled);
  EXPECT_TRUE(outcome.pruned);
  EXPECT_EQ(outcome.budget_tokens, 200);
  EXPECT_EQ(outcome.tokens_kept.min, 200);
  EXPECT_EQ(outcome.tokens_kept.max, 200);
  EXPECT_EQ(outcome.prune_count, 3);  // after the prompt, then every 16 of 39 cached output tokens
  EXPECT_EQ(outcome.tokens_evicted.min, 632);
  EXPECT_EQ(outcome.kv_bytes_before,
            static_cast<std::int64_t>(53 * kLayers * kBlockBytes));  // 839 cached tokens
  EXPECT_EQ(outcome.kv_bytes_after, static_cast<std::int64_t>(13 * kLayers * kBlockBytes));
  EXPECT_EQ(outcome.blocks_freed, (50 - 13 + 2) * kLayers);
}

TEST_F(EngineTest, PromptWithinBudgetIsNotPruned) {
  auto engine = make_engine(1024);
  EngineRequest plain = greedy_request("a", random_prompt(100, kTinyVocab, 2), 10);
  EngineRequest compressed = plain;
  compressed.request_id = "b";
  compressed.cache_policies[0].compression = quarter();
  compressed.cache_policies[0].compression->budget_fraction.reset();
  compressed.cache_policies[0].compression->budget_tokens = 500;
  const Outcome expected = run(*engine, plain);
  const Outcome outcome = run(*engine, compressed);
  EXPECT_FALSE(outcome.finish.compression.pruned);
  EXPECT_EQ(outcome.finish.compression.kv_bytes_after, outcome.finish.compression.kv_bytes_before);
  EXPECT_EQ(outcome.tokens, expected.tokens);
}

TEST_F(EngineTest, PromptLongerThanThePoolIsServedWhenPrunedDuringPrefill) {
  auto engine = make_engine(800);
  EngineRequest request = greedy_request("a", random_prompt(1800, kTinyVocab, 3), 8);
  request.cache_policies[0].compression = quarter();
  request.cache_policies[0].compression->budget_fraction = 0.1;
  EXPECT_EQ(engine->submit(request, std::make_shared<TokenStream>()).code(), StatusCode::kInvalidArgument);
  request.cache_policies[0].compression->when = PruneWhen::kDuringPrefill;
  EXPECT_EQ(run(*engine, request).tokens.size(), 8U);
  expect_no_blocks_used(*engine);
}

TEST_F(EngineTest, SamplesDifferBySeedAndRepeatWithIt) {
  auto engine = make_engine(1024);
  EngineRequest request = greedy_request("a", {1, 2, 3}, 16);
  request.sampling.temperature = 1.5F;
  request.sampling.seed = 11;
  request.num_samples = 3;
  Collector first;
  ASSERT_TRUE(engine->submit(request, first.stream()).ok());
  ASSERT_TRUE(first.wait(3));
  EXPECT_NE(first.tokens(0), first.tokens(1));
  EngineRequest again = request;
  again.num_samples = 1;
  again.sampling.seed = 12;  // sample i uses seed + i
  EXPECT_EQ(run(*engine, again).tokens, first.tokens(1));
}

TEST_F(EngineTest, EndTokensEndUnlessIgnoredOrTooEarly) {
  auto engine = make_engine(512);
  EngineRequest request = greedy_request("a", {9, 8, 7}, 30);
  const std::vector<TokenId> free_run = run(*engine, request).tokens;
  request.sampling.stop_token_ids = {free_run[4]};
  const Outcome stopped = run(*engine, request);
  EXPECT_EQ(stopped.finish.reason, FinishReason::kStop);
  EXPECT_EQ(stopped.tokens.back(), free_run[4]);
  EXPECT_LE(stopped.tokens.size(), 5U);
  request.sampling.min_tokens = 12;
  const Outcome later = run(*engine, request);
  EXPECT_GE(later.tokens.size(), 12U);
  for (std::size_t i = 0; i + 1 < later.tokens.size(); ++i) EXPECT_NE(later.tokens[i], free_run[4]);
}

TEST_F(EngineTest, LogprobsAreSortedAndOfTheSampledToken) {
  auto engine = make_engine(512);
  EngineRequest request = greedy_request("a", {4, 4, 4}, 6);
  request.sampling.num_logprobs = 5;
  Collector collector;
  ASSERT_TRUE(engine->submit(request, collector.stream()).ok());
  ASSERT_TRUE(collector.wait());
  for (const TokenEvent& event : collector.events()) {
    ASSERT_EQ(event.top_logprobs.size(), 5U);
    ASSERT_TRUE(event.logprob.has_value());
    EXPECT_EQ(event.top_logprobs[0].token, event.token);  // greedy
    EXPECT_FLOAT_EQ(event.top_logprobs[0].logprob, event.logprob->logprob);
    for (int i = 1; i < 5; ++i) EXPECT_GE(event.top_logprobs[i - 1].logprob, event.top_logprobs[i].logprob);
  }
}

}  // namespace
}  // namespace kvcrush
