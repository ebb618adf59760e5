// Samples that fork from one prefill, and scores against the full cache.
#include <gtest/gtest.h>

#include <thread>

#include "tests/unit/engine/engine_fixture.h"

namespace kvcrush {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

class EngineForkTest : public EngineTest {
 protected:
  // The full cache first, then one of everything.
  static std::vector<CachePolicy> policies() {
    std::vector<CachePolicy> all(2);
    all[1].kv_dtype = KvDtype::kInt8;
    for (int i = 0; i < 6; ++i) {
      CachePolicy policy;
      policy.compression = quarter(static_cast<BasePolicy>(i));
      if (i == 0) policy.compression->lookahead_tokens = 5, policy.compression->lookahead_branches = 2;
      if (i % 2 == 1) policy.compression->token_sets = TokenSets::kPerKvHead;
      if (i == 2) policy.kv_dtype = KvDtype::kInt4;
      if (i == 3) policy.compression->when = PruneWhen::kDuringPrefill;
      if (i == 4) policy.compression->layer_budgets = LayerBudgets::kRising;
      all.push_back(policy);
    }
    CachePolicy nearer = all[2];  // sees a part of what its trunk looks ahead over
    nearer.compression->lookahead_tokens = 3, nearer.compression->lookahead_branches = 1;
    all.push_back(nearer);
    return all;
  }

  static EngineRequest many(const std::string& id, int prompt, int max_tokens) {
    EngineRequest request = greedy_request(id, random_prompt(prompt, kTinyVocab, 5), max_tokens);
    request.cache_policies = policies();
    request.num_samples = static_cast<int>(request.cache_policies.size());
    return request;
  }

  static EngineRequest scored(const std::string& id, int prompt, int continuation) {
    EngineRequest request = many(id, prompt, 1);
    request.continuation_token_ids = random_prompt(continuation, kTinyVocab, 77);
    request.compare_to_full = true;
    return request;
  }
};

TEST_F(EngineForkTest, SameTokensForkedAloneAndOnASmallPool) {
  auto engine = make_engine(16384);
  const EngineRequest together = many("all", 300, 50);
  Collector collector;
  ASSERT_TRUE(engine->submit(together, collector.stream()).ok());
  ASSERT_TRUE(collector.wait(together.num_samples));
  expect_no_blocks_used(*engine);
  auto small = make_engine(700);  // children wait for room, and give way to each other
  Collector crowded;
  ASSERT_TRUE(small->submit(together, crowded.stream()).ok());
  ASSERT_TRUE(crowded.wait(together.num_samples));
  expect_no_blocks_used(*small);
  for (int i = 0; i < together.num_samples; ++i) {
    EngineRequest alone = greedy_request("alone" + std::to_string(i), together.prompt_token_ids, 50);
    alone.cache_policies[0] = together.cache_policies[i];
    const Outcome expected = run(*engine, alone);
    EXPECT_EQ(collector.tokens(i), expected.tokens) << "policy " << i;
    EXPECT_EQ(crowded.tokens(i), expected.tokens) << "policy " << i << ", small pool";
    const CompressionOutcome& forked = collector.finish(i).compression;
    EXPECT_EQ(forked.pruned, expected.finish.compression.pruned) << "policy " << i;
    EXPECT_EQ(forked.prune_count, expected.finish.compression.prune_count) << "policy " << i;
    EXPECT_EQ(forked.lookahead_tokens, expected.finish.compression.lookahead_tokens) << "policy " << i;
    EXPECT_EQ(forked.kv_bytes_held, expected.finish.compression.kv_bytes_held) << "policy " << i;
    EXPECT_EQ(forked.tokens_kept.min, expected.finish.compression.tokens_kept.min) << "policy " << i;
  }
}

TEST_F(EngineForkTest, SameTokensWherePoolHasNoRoomForATrunk) {
  auto engine = make_engine(16384);
  EngineRequest request = greedy_request("n", random_prompt(200, kTinyVocab, 3), 20);
  request.num_samples = 3;
  request.sampling.temperature = 1.0F;
  request.sampling.seed = 4;
  Collector forked;
  ASSERT_TRUE(engine->submit(request, forked.stream()).ok());
  ASSERT_TRUE(forked.wait(3));
  auto small = make_engine(240);  // one at a time
  Collector one_by_one;
  ASSERT_TRUE(small->submit(request, one_by_one.stream()).ok());
  ASSERT_TRUE(one_by_one.wait(3));
  for (int i = 0; i < 3; ++i) EXPECT_EQ(one_by_one.tokens(i), forked.tokens(i));
  expect_no_blocks_used(*small);
}

TEST_F(EngineForkTest, ScoresComeWithAComparison) {
  auto engine = make_engine(16384);
  const EngineRequest request = scored("s", 300, 40);
  Collector collector;
  ASSERT_TRUE(engine->submit(request, collector.stream()).ok());
  ASSERT_TRUE(collector.wait(request.num_samples));
  const ScoreEvent full = collector.score(0);
  ASSERT_EQ(full.logprobs.size(), 40U);
  EXPECT_EQ(full.logprobs, full.full_logprobs);
  for (const float divergence : full.kl_divergences) EXPECT_LT(divergence, 1e-6F);
  for (int i = 1; i < request.num_samples; ++i) {
    const ScoreEvent score = collector.score(i);
    ASSERT_EQ(score.kl_divergences.size(), 40U);
    double sum = 0;
    for (const float divergence : score.kl_divergences) sum += divergence;
    EXPECT_GT(sum, 0) << "policy " << i;
    EXPECT_EQ(score.full_logprobs, full.full_logprobs);
    EXPECT_EQ(collector.finish(i).reason, FinishReason::kStop);
  }
  expect_no_blocks_used(*engine);
}

TEST_F(EngineForkTest, ScoresDoNotDependOnWhatElseRuns) {
  auto engine = make_engine(16384);
  EngineRequest request = scored("s", 300, 90);
  Collector forked;
  ASSERT_TRUE(engine->submit(request, forked.stream()).ok());
  ASSERT_TRUE(forked.wait(request.num_samples));
  auto small = make_engine(900, 48, 4);
  Collector crowded;
  std::vector<std::unique_ptr<Collector>> others;
  for (const EngineRequest& other : mixed_requests(6)) {
    others.push_back(std::make_unique<Collector>());
    ASSERT_TRUE(small->submit(other, others.back()->stream()).ok());
  }
  ASSERT_TRUE(small->submit(request, crowded.stream()).ok());
  ASSERT_TRUE(crowded.wait(request.num_samples));
  for (const auto& other : others) ASSERT_TRUE(other->wait());
  for (int i = 0; i < request.num_samples; ++i) {
    const ScoreEvent expected = forked.score(i);
    const ScoreEvent score = crowded.score(i);
    ASSERT_EQ(score.logprobs.size(), expected.logprobs.size());
    // The last bit of a float may turn a code of four bits over, where the operations are ATen's.
    const double tolerance = request.cache_policies[i].kv_dtype ? 2e-2 : 1e-4;
    for (std::size_t t = 0; t < score.logprobs.size(); ++t)
      EXPECT_NEAR(score.logprobs[t], expected.logprobs[t], tolerance) << "policy " << i << ", token " << t;
  }
  expect_no_blocks_used(*small);
}

TEST_F(EngineForkTest, ComparisonIsRefusedWherePoolCannotHoldBoth) {
  auto engine = make_engine(320);
  const Status status = engine->submit(scored("s", 250, 20), std::make_shared<TokenStream>());
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("compare_to_full"), std::string::npos) << status.message();
}

TEST_F(EngineForkTest, CancellingSamplesAtAnyTimeLeavesNothing) {
  for (int step = 0; step < 12; ++step) {
    auto engine = make_engine(1200);
    const EngineRequest request = many("c", 400, 200);
    Collector collector;
    ASSERT_TRUE(engine->submit(request, collector.stream()).ok());
    std::this_thread::sleep_for(std::chrono::milliseconds(3 * step));
    if (step % 2 == 0) {  // some of them first
      static_cast<void>(engine->finish("c", FinishReason::kAbort, step % request.num_samples));
      static_cast<void>(engine->finish("c", FinishReason::kAbort, 0));
    }
    static_cast<void>(engine->finish("c", FinishReason::kAbort));
    ASSERT_TRUE(collector.wait(request.num_samples));
    EXPECT_EQ(collector.num_finishes(), request.num_samples);
    expect_no_blocks_used(*engine);
  }
}

}  // namespace
}  // namespace kvcrush
