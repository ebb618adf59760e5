#include "engine/kvcrush/token_scores.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <random>
#include <vector>

namespace kvcrush {
namespace {

CompressionParams params_of(BasePolicy policy, int num_sink_tokens, int window_tokens, int kernel) {
  CompressionParams params;
  params.policy = policy;
  params.num_sink_tokens = num_sink_tokens;
  params.window_tokens = window_tokens;
  params.pool_kernel_tokens = kernel;
  return params;
}

std::vector<float> scores_of(const CompressionParams& params, const LayerObservation& observation) {
  const int num_candidates = observation.num_tokens - params.num_sink_tokens - params.window_tokens;
  std::vector<float> scores(static_cast<std::size_t>(observation.num_heads * num_candidates));
  ScoreScratch scratch;
  token_scores(params, observation, scratch, scores);
  return scores;
}

// Probability sums of `num_heads` query heads, each its own KV head.
std::vector<float> attention_scores_of(const CompressionParams& params, const std::vector<float>& sums,
                                       int num_heads, int num_queries) {
  return scores_of(params, {.num_heads = num_heads,
                            .num_kv_heads = num_heads,
                            .num_tokens = static_cast<int>(sums.size()) / num_heads,
                            .probability_sums = sums,
                            .num_queries = num_queries});
}

TEST(SnapKvScores, DividesByQueriesAndCutsToCandidates) {
  EXPECT_EQ(attention_scores_of(params_of(BasePolicy::kSnapKv, 1, 1, 1),
                                {100, 2, 4, 6, 100, 100, 8, 10, 12, 100}, 2, 2),
            (std::vector<float>{1, 2, 3, 4, 5, 6}));
}

TEST(SnapKvScores, PoolDoesNotReachIntoSinksWindowOrOtherHeads) {
  EXPECT_EQ(attention_scores_of(params_of(BasePolicy::kSnapKv, 1, 1, 3),
                                {100, 1, 2, 3, 100, 100, 9, 0, 0, 100}, 2, 1),
            (std::vector<float>{2, 3, 3, 9, 9, 0}));
}

TEST(SnapKvScores, MatchesPlainPoolForEveryKernel) {
  std::mt19937 generator(3);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  for (const int num_candidates : {1, 2, 5, 64, 131}) {
    std::vector<float> sums(static_cast<std::size_t>(num_candidates) + 1);
    for (float& value : sums) value = uniform(generator);
    for (int kernel = 1; kernel <= 63; kernel += 2) {
      std::vector<float> expected;
      for (int t = 0; t < num_candidates; ++t) {
        const int begin = std::max(0, t - kernel / 2);
        const int end = std::min(num_candidates, t + kernel / 2 + 1);
        expected.push_back(*std::max_element(sums.begin() + begin, sums.begin() + end));
      }
      EXPECT_EQ(attention_scores_of(params_of(BasePolicy::kSnapKv, 0, 1, kernel), sums, 1, 1), expected)
          << num_candidates << " kernel " << kernel;
    }
  }
}

TEST(TokenScores, H2oIsTheSumsAndTovaTheLastQuery) {
  const std::vector<float> sums = {100, 2, 4, 0, 100};
  EXPECT_EQ(attention_scores_of(params_of(BasePolicy::kH2o, 1, 1, 1), sums, 1, 8),
            (std::vector<float>{2, 4, 0}));
  EXPECT_EQ(attention_scores_of(params_of(BasePolicy::kH2o, 1, 1, 3), sums, 1, 8),
            (std::vector<float>{4, 4, 4}));
  EXPECT_EQ(attention_scores_of(params_of(BasePolicy::kTova, 1, 1, 1), sums, 1, 1),
            (std::vector<float>{2, 4, 0}));
}

TEST(TokenScores, StreamingIsTheSlotInEveryHead) {
  EXPECT_EQ(scores_of(params_of(BasePolicy::kStreaming, 2, 1, 1),
                      {.num_heads = 2, .num_kv_heads = 1, .num_tokens = 6}),
            (std::vector<float>{2, 3, 4, 2, 3, 4}));
}

TEST(TokenScores, KeyScoresAreSharedByTheGroup) {
  const std::vector<float> keys = {-9, -1, -2, -9, -9, -3, -4, -9};
  for (const BasePolicy policy : {BasePolicy::kKNorm, BasePolicy::kKeyDiff}) {
    EXPECT_EQ(scores_of(params_of(policy, 1, 1, 1),
                        {.num_heads = 4, .num_kv_heads = 2, .num_tokens = 4, .key_scores = keys}),
              (std::vector<float>{-1, -2, -1, -2, -3, -4, -3, -4}));
  }
}

TEST(TokenScores, ValueNormsMultiplyBeforePooling) {
  const std::vector<float> sums = {100, 1, 2, 0, 100, 100, 4, 0, 0, 100};
  const std::vector<float> norms = {7, 10, 1, 3, 7, 7, 1, 2, 5, 7};
  CompressionParams params = params_of(BasePolicy::kSnapKv, 1, 1, 3);
  params.value_norm = true;
  EXPECT_EQ(scores_of(params, {.num_heads = 2,
                               .num_kv_heads = 1,
                               .num_tokens = 5,
                               .probability_sums = sums,
                               .num_queries = 2,
                               .value_norms = norms}),
            (std::vector<float>{5, 5, 1, 2, 2, 0}));
}

TEST(GaussianPool, IsABellOfAQuarterOfTheKernel) {
  CompressionParams params = params_of(BasePolicy::kSnapKv, 1, 1, 3);
  params.pool_shape = PoolShape::kGaussian;
  // Standard deviation 0.75: e^(-8/9) of the middle on either side.
  const double side = std::exp(-8.0 / 9.0);
  const auto middle_weight = static_cast<float>(1.0 / (1.0 + 2.0 * side));
  const auto side_weight = static_cast<float>(side / (1.0 + 2.0 * side));
  EXPECT_EQ(attention_scores_of(params, {100, 0, 0, 1, 0, 0, 100}, 1, 1),
            (std::vector<float>{0, side_weight, middle_weight, side_weight, 0}));
  // At the rim the weight beyond is lost; neither sinks nor window leak in.
  EXPECT_EQ(attention_scores_of(params, {100, 4, 0, 0, 100}, 1, 2),
            (std::vector<float>{2 * middle_weight, 2 * side_weight, 0}));
}

TEST(GaussianPool, KeepsTheSumAwayFromTheRimsForEveryKernel) {
  for (int kernel = 3; kernel <= 63; kernel += 2) {
    CompressionParams params = params_of(BasePolicy::kTova, 0, 1, kernel);
    params.pool_shape = PoolShape::kGaussian;
    std::vector<float> sums(130, 0.0f);
    sums[64] = 1.0f;
    const std::vector<float> scores = attention_scores_of(params, sums, 1, 1);
    EXPECT_NEAR(std::accumulate(scores.begin(), scores.end(), 0.0), 1.0, 1e-6) << kernel;
    EXPECT_EQ(std::count_if(scores.begin(), scores.end(), [](float score) { return score > 0; }), kernel);
    EXPECT_EQ(std::max_element(scores.begin(), scores.end()) - scores.begin(), 64);
  }
}

TEST(GaussianPool, ScratchOfAWiderKernelLeavesNoTrace) {
  const std::vector<float> sums(200, 1.0f);
  CompressionParams params = params_of(BasePolicy::kSnapKv, 0, 1, 63);
  params.pool_shape = PoolShape::kGaussian;
  const LayerObservation observation{
      .num_heads = 1, .num_kv_heads = 1, .num_tokens = 200, .probability_sums = sums, .num_queries = 1};
  std::vector<float> scores(199);
  ScoreScratch scratch;
  token_scores(params, observation, scratch, scores);
  params.pool_kernel_tokens = 5;
  token_scores(params, observation, scratch, scores);
  EXPECT_EQ(scores, scores_of(params, observation));
}

}  // namespace
}  // namespace kvcrush
