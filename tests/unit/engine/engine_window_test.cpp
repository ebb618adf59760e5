// Layers with sliding windows: they hold no more than the window, and nobody's tokens depend on when blocks
// are given back.
#include <gtest/gtest.h>

#include "tests/unit/engine/engine_fixture.h"

namespace kvcrush {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

class EngineWindowTest : public EngineTest {
 protected:
  EngineWindowTest() { model_ = make_window_model(); }

  static EngineRequest long_request(int num_prompt_tokens = 800) {
    return greedy_request("a", random_prompt(num_prompt_tokens, kTinyVocab, 1), 40);
  }
  static EngineRequest pruned_request(int budget_tokens) {
    EngineRequest request = long_request();
    request.cache_policies[0].compression = quarter();
    request.cache_policies[0].compression->budget_fraction.reset();
    request.cache_policies[0].compression->budget_tokens = budget_tokens;
    return request;
  }
};

TEST_F(EngineWindowTest, SameTokensAloneInABatchAndWithAnyChunkSize) {
  const std::vector<EngineRequest> requests = mixed_requests(24, 60);
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

TEST_F(EngineWindowTest, SameTokensAfterPreemption) {
  const std::vector<EngineRequest> requests = mixed_requests(16, 120);
  auto large = make_engine(8192);
  const std::vector<Outcome> expected = run_together(*large, requests);
  EXPECT_EQ(observer_.num_preemptions, 0);
  for (const std::uint64_t swap_memory_bytes : {std::uint64_t{0}, std::uint64_t{64} << 20}) {
    EngineConfig config = config_for(460);
    config.swap_memory_bytes = swap_memory_bytes;
    auto small = make_engine(config);
    const std::vector<Outcome> outcomes = run_together(*small, requests);
    for (std::size_t i = 0; i < requests.size(); ++i)
      EXPECT_EQ(outcomes[i].tokens, expected[i].tokens) << "request " << i;
    expect_no_blocks_used(*small);
  }
  EXPECT_GE(observer_.num_preemptions, 2);
}

TEST_F(EngineWindowTest, SameTokensOfSamplesThatForkAndOfDrafts) {
  auto engine = make_engine(8192);
  EngineRequest request = long_request(300);
  const std::vector<TokenId> alone = run(*engine, request).tokens;
  request.lookup_tokens = 8;
  EXPECT_EQ(run(*engine, request).tokens, alone);
  request.num_samples = 3;
  Collector together;
  ASSERT_TRUE(engine->submit(request, together.stream()).ok());
  ASSERT_TRUE(together.wait(3));
  for (int index = 0; index < 3; ++index) EXPECT_EQ(together.tokens(index), alone);
  expect_no_blocks_used(*engine);
}

TEST_F(EngineWindowTest, SameTokensOfSamplesThatForkPruned) {
  auto engine = make_engine(8192);
  EngineRequest request = long_request(300);
  request.cache_policies.clear();
  std::vector<std::vector<TokenId>> alone;
  for (const int budget : {30, 70, 150}) {
    EngineRequest single = pruned_request(budget);
    single.prompt_token_ids = request.prompt_token_ids;
    alone.push_back(run(*engine, single).tokens);
    request.cache_policies.push_back(single.cache_policies[0]);
  }
  request.num_samples = 3;
  Collector together;
  ASSERT_TRUE(engine->submit(request, together.stream()).ok());
  ASSERT_TRUE(together.wait(3));
  for (int index = 0; index < 3; ++index)
    EXPECT_EQ(together.tokens(index), alone[static_cast<std::size_t>(index)]) << index;
}

TEST_F(EngineWindowTest, WindowsHoldTheirTokensAndNoMore) {
  auto engine = make_engine(4096);
  const CompressionOutcome outcome = run(*engine, long_request()).finish.compression;
  EXPECT_FALSE(outcome.enabled);
  EXPECT_EQ(outcome.windows.num_layers, 2);
  // 839 tokens, before the last of them moved the windows: the oldest block stays while one of its 16 tokens
  // is seen.
  EXPECT_EQ(outcome.windows.tokens_cached.min, 839 - (838 - kShortWindow + 1) / 16 * 16);
  EXPECT_EQ(outcome.windows.tokens_cached.max, 839 - (838 - kLongWindow + 1) / 16 * 16);
  EXPECT_LE(outcome.windows.tokens_cached.max, kLongWindow + 16);
  EXPECT_EQ(outcome.windows.tokens_dropped.max, (838 - kShortWindow + 1) / 16 * 16);
  EXPECT_EQ(outcome.windows.tokens_evicted.max, 0);
  const std::int64_t blocks = 53 + 3 + 7;  // of 839, 40 and 100 tokens
  EXPECT_EQ(outcome.kv_bytes_before, blocks * static_cast<std::int64_t>(kBlockBytes));
  EXPECT_LE(outcome.kv_bytes_held, (blocks + 2) * static_cast<std::int64_t>(kBlockBytes));
}

TEST_F(EngineWindowTest, APromptFitsThatWouldNotWithoutWindows) {
  // Two layers of three hold 640 tokens at most: those of a chunk of 512 beside their windows.
  auto engine = make_engine(1800 * 2 / 3 + 64, 512);
  EXPECT_EQ(run(*engine, long_request(1700)).tokens.size(), 40U);
  expect_no_blocks_used(*engine);
}

TEST_F(EngineWindowTest, PruningAppliesWhereTheWindowIsLargerThanTheBudget) {
  auto engine = make_engine(4096);
  const CompressionOutcome between = run(*engine, pruned_request(64)).finish.compression;
  EXPECT_TRUE(between.pruned);
  EXPECT_EQ(between.windows.tokens_evicted.min, 0);   // a window of 40
  EXPECT_GT(between.windows.tokens_evicted.max, 30);  // of 100
  EXPECT_GT(between.windows.tokens_dropped.min, 600);
  EXPECT_EQ(between.tokens_kept.max, 64);

  const CompressionOutcome above = run(*engine, pruned_request(200)).finish.compression;
  EXPECT_TRUE(above.pruned);
  EXPECT_EQ(above.windows.tokens_evicted.max, 0);
  EXPECT_EQ(above.tokens_evicted.max, 839 - 207);  // of the layer that sees everything
  expect_no_blocks_used(*engine);
}

// Every policy, with per-head sets, packed: what leaves the window is never chosen again.
TEST_F(EngineWindowTest, EveryPolicyPrunesWindows) {
  auto engine = make_engine(4096);
  for (int policy = 0; policy < 6; ++policy) {
    for (const KvDtype dtype : {KvDtype::kF32, KvDtype::kInt8}) {
      EngineRequest request = pruned_request(60);
      request.request_id += std::to_string(policy) + std::string(to_string(dtype));
      const CompressionParams& paper = quarter(static_cast<BasePolicy>(policy));
      request.cache_policies[0].compression = paper;
      request.cache_policies[0].compression->budget_fraction.reset();
      request.cache_policies[0].compression->budget_tokens = 60;
      request.cache_policies[0].compression->token_sets = TokenSets::kPerKvHead;
      request.cache_policies[0].kv_dtype = dtype;
      const Outcome outcome = run(*engine, request);
      EXPECT_EQ(outcome.tokens.size(), 40U);
      EXPECT_EQ(outcome.finish.reason, FinishReason::kLength);
      EXPECT_GT(outcome.finish.compression.windows.tokens_evicted.max, 0);
    }
  }
  expect_no_blocks_used(*engine);
}

}  // namespace
}  // namespace kvcrush
