// Queries of tokens that the cache would go on with, asked before the first prune.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/engine/engine_fixture.h"

namespace kvcrush {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

constexpr int kLookahead = 6;

class EngineLookaheadTest : public EngineTest {
 protected:
  static EngineRequest looking_ahead(const std::string& id, std::vector<TokenId> prompt, int max_tokens,
                                     double budget = 0.25) {
    EngineRequest request = greedy_request(id, std::move(prompt), max_tokens);
    request.cache_policies[0].compression = quarter();
    request.cache_policies[0].compression->budget_fraction = budget;
    request.cache_policies[0].compression->lookahead_tokens = kLookahead;
    return request;
  }
  // Room in a step for one token a sequence: drafts are never checked.
  std::unique_ptr<Engine> make_engine_without_drafts() { return make_engine(16384, 1, 1); }

  static std::vector<float> scores(Engine& engine, const EngineRequest& request) {
    Collector collector;
    EXPECT_TRUE(engine.submit(request, collector.stream()).ok());
    EXPECT_TRUE(collector.wait());
    return collector.score(0).logprobs;
  }
};

// In a model of one layer a token's K and V do not depend on what it attends to. So looking ahead over tokens
// g must choose as a prompt that ends in g does, whose window takes g in as well.
TEST_F(EngineLookaheadTest, ChoosesAsIfThePromptHadGoneOn) {
  model_ = make_tiny_model(/*num_layers=*/1);
  auto engine = make_engine(16384);
  const std::vector<TokenId> prompt = random_prompt(300, kTinyVocab, 11);
  const std::vector<TokenId> ahead = run(*engine, greedy_request("g", prompt, kLookahead)).tokens;
  const std::vector<TokenId> after = random_prompt(8, kTinyVocab, 12);

  EngineRequest looking = looking_ahead("a", prompt, 1);
  CompressionParams& params = *looking.cache_policies[0].compression;
  params.budget_fraction.reset();
  params.budget_tokens = 60;
  looking.continuation_token_ids = ahead;
  looking.continuation_token_ids.insert(looking.continuation_token_ids.end(), after.begin(), after.end());

  EngineRequest longer = looking;
  longer.request_id = "b";
  longer.prompt_token_ids.insert(longer.prompt_token_ids.end(), ahead.begin(), ahead.end());
  longer.continuation_token_ids = after;
  CompressionParams& wider = *longer.cache_policies[0].compression;
  wider.lookahead_tokens = 0;
  wider.window_tokens += kLookahead;
  wider.observed_queries += kLookahead;
  *wider.budget_tokens += kLookahead;

  EngineRequest blind = looking;
  blind.request_id = "c";
  blind.cache_policies[0].compression->lookahead_tokens = 0;

  const std::vector<float> expected = scores(*engine, longer);
  const std::vector<float> actual = scores(*engine, looking);
  const std::vector<float> without = scores(*engine, blind);
  ASSERT_EQ(actual.size(), expected.size() + kLookahead);
  float most = 0;
  // The first of `expected` comes from a cache that is not pruned yet.
  for (std::size_t i = 1; i < expected.size(); ++i) {
    EXPECT_NEAR(actual[i + kLookahead], expected[i], 2e-5) << "token " << i;
    most = std::max(most, std::abs(without[i + kLookahead] - expected[i]));
  }
  EXPECT_GT(most, 1e-3) << "the lookahead made no difference: the test shows nothing";
}

TEST_F(EngineLookaheadTest, DraftsOnlySaveSteps) {
  auto engine = make_engine(16384);
  auto slow = make_engine_without_drafts();
  int used = 0;
  for (int i = 0; i < 12; ++i) {
    EngineRequest request =
        looking_ahead("r" + std::to_string(i), random_prompt(60 + 31 * i, kTinyVocab, i), 1 + 2 * i, 0.9);
    request.cache_policies[0].compression->lookahead_branches = 1 + i % 3;
    if (i % 3 == 1) {
      request.sampling.temperature = 0.7F;
      request.sampling.seed = i;
    }
    if (i % 4 == 2) request.sampling.repetition_penalty = 1.3F;
    if (i % 5 == 3) request.cache_policies[0].kv_dtype = KvDtype::kInt4;
    if (i % 6 == 5) request.cache_policies[0].compression->when = PruneWhen::kDuringPrefill;
    const Outcome fast = run(*engine, request);
    const Outcome plain = run(*slow, request);
    EXPECT_EQ(fast.tokens, plain.tokens) << "request " << i;
    EXPECT_EQ(fast.tokens.size(), 1U + 2 * i);
    EXPECT_EQ(plain.finish.compression.lookahead_tokens_used, 0);
    EXPECT_EQ(fast.finish.compression.lookahead_tokens, i == 0 ? 0 : kLookahead * (1 + i % 3))
        << "one token needs no prune";
    EXPECT_EQ(fast.finish.compression.kv_bytes_held, plain.finish.compression.kv_bytes_held)
        << "request " << i;
    used += fast.finish.compression.lookahead_tokens_used;
  }
  EXPECT_GT(used, 10);
  expect_no_blocks_used(*engine);
}

// Branches run in one step on one cache. If one saw another's tokens, the drafts of the first, which is what
// the full cache writes, would hardly ever be right. (More branches choose other tokens to keep, so single
// outputs may differ.)
TEST_F(EngineLookaheadTest, BranchesDoNotSeeEachOther) {
  auto engine = make_engine(16384);
  int alone = 0;
  int beside = 0;
  for (int i = 0; i < 32; ++i) {
    EngineRequest request = looking_ahead("r", random_prompt(100 + 17 * i, kTinyVocab, 70 + i), 12, 0.99);
    CompressionParams& params = *request.cache_policies[0].compression;
    params.lookahead_branches = 1;
    alone += run(*engine, request).finish.compression.lookahead_tokens_used;
    params.lookahead_branches = kMaxLookaheadBranches;
    beside += run(*engine, request).finish.compression.lookahead_tokens_used;
  }
  EXPECT_GT(alone, 64);
  EXPECT_GT(beside, alone * 8 / 10);
}

TEST_F(EngineLookaheadTest, SameTokensUnderPreemption) {
  auto engine = make_engine(16384);
  std::vector<EngineRequest> requests;
  for (int i = 0; i < 10; ++i) {
    requests.push_back(
        looking_ahead("r" + std::to_string(i), random_prompt(60 + 9 * i, kTinyVocab, 40 + i), 140, 0.9));
    requests.back().cache_policies[0].compression->lookahead_branches = 1 + i % 4;
    if (i % 2 == 1) requests.back().cache_policies[0].compression.reset();
  }
  std::vector<std::vector<TokenId>> expected;
  for (const EngineRequest& request : requests) expected.push_back(run(*engine, request).tokens);
  auto small = make_engine(600, 48, 12);
  const int before = observer_.num_preemptions;
  std::vector<std::unique_ptr<Collector>> collectors;
  for (const EngineRequest& request : requests) {
    collectors.push_back(std::make_unique<Collector>());
    ASSERT_TRUE(small->submit(request, collectors.back()->stream()).ok());
  }
  for (std::size_t i = 0; i < requests.size(); ++i) {
    ASSERT_TRUE(collectors[i]->wait());
    EXPECT_EQ(collectors[i]->tokens(), expected[i]) << "request " << i;
  }
  EXPECT_GT(observer_.num_preemptions, before);
  expect_no_blocks_used(*small);
}

TEST_F(EngineLookaheadTest, EndsWhereTheContextDoes) {
  auto engine = make_engine(4096);
  for (const int left : {1, 2, 5}) {
    const EngineRequest request = looking_ahead("r", random_prompt(2048 - left, kTinyVocab, 3), left);
    const Outcome outcome = run(*engine, request);
    EXPECT_EQ(static_cast<int>(outcome.tokens.size()), left);
    EXPECT_EQ(outcome.finish.compression.lookahead_tokens, left == 1 ? 0 : left);
  }
  expect_no_blocks_used(*engine);
}

// What the prune wants beside the cache is given up for the lookahead's own tokens where the pool holds no
// more.
TEST_F(EngineLookaheadTest, SameTokensWhereThePoolHoldsJustTheLookahead) {
  EngineRequest request = looking_ahead("r", random_prompt(1440, kTinyVocab, 3), 8);
  CompressionParams& params = *request.cache_policies[0].compression;
  params.budget_fraction.reset();
  params.budget_tokens = 100;
  params.lookahead_tokens = 64;
  params.lookahead_branches = 1;
  const std::vector<TokenId> expected = run(*make_engine(8192), request).tokens;
  auto engine = make_engine(1600);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(run(*engine, request).tokens, expected);
  expect_no_blocks_used(*engine);
}

TEST_F(EngineLookaheadTest, NothingToPruneMeansNoLookahead) {
  auto engine = make_engine(4096);
  EngineRequest request = looking_ahead("r", random_prompt(50, kTinyVocab, 3), 8);
  request.cache_policies[0].compression->budget_fraction.reset();
  request.cache_policies[0].compression->budget_tokens = 100;
  const Outcome outcome = run(*engine, request);
  EXPECT_FALSE(outcome.finish.compression.pruned);
  EXPECT_EQ(outcome.finish.compression.lookahead_tokens, 0);
}

}  // namespace
}  // namespace kvcrush
