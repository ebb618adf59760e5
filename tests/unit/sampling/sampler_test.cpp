#include "engine/sampling/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <set>
#include <vector>

#include "tests/tools/allocation_counter.h"

namespace kvcrush {
namespace {

SamplingParams greedy() {
  SamplingParams params;
  params.temperature = 0.0f;
  return params;
}

SampleResult sample(Sampler& sampler, std::vector<float> logits, int step = 0,
                    const std::vector<TokenId>& banned = {}) {
  return sampler.sample(logits, step, banned);
}

std::vector<TokenId> sequence(const SamplingParams& params, std::uint64_t seed, int length) {
  Sampler sampler(params, 50, seed);
  std::vector<TokenId> tokens;
  tokens.reserve(static_cast<std::size_t>(length));
  for (int step = 0; step < length; ++step)
    tokens.push_back(sample(sampler, std::vector<float>(50, 0.0f), step).token);
  return tokens;
}

TEST(Sampler, GreedyTakesTheLowestOfTheLikeliest) {
  Sampler sampler(greedy(), 4, 0);
  const SampleResult result = sample(sampler, {0, 7, 7, 1});
  EXPECT_EQ(result.token, 1);
  EXPECT_FALSE(result.logprob.has_value());
  EXPECT_TRUE(result.top_logprobs.empty());
}

TEST(Sampler, GreedyAllocatesNothing) {
  Sampler sampler(greedy(), 1000, 0);
  std::vector<float> logits(1000, 0.5f);
  logits[700] = 1.0f;
  const std::vector<TokenId> banned = {3};
  const int before = num_allocations();
  const SampleResult result = sampler.sample(logits, 0, banned);
  EXPECT_EQ(num_allocations() - before, 0);
  EXPECT_EQ(result.token, 700);
}

TEST(Sampler, BannedTokensAreNeverChosen) {
  Sampler greedy_sampler(greedy(), 3, 0);
  EXPECT_EQ(sample(greedy_sampler, {9, 1, 5}, 0, {0}).token, 2);
  Sampler random_sampler(SamplingParams{}, 3, 1);
  for (int step = 0; step < 200; ++step) EXPECT_NE(sample(random_sampler, {9, 1, 5}, step, {0}).token, 0);
}

TEST(Sampler, SameSeedSameTokensOtherSeedOthers) {
  const auto tokens = sequence(SamplingParams{}, 5, 40);
  EXPECT_EQ(sequence(SamplingParams{}, 5, 40), tokens);
  EXPECT_NE(sequence(SamplingParams{}, 6, 40), tokens);
  EXPECT_GT(std::set<TokenId>(tokens.begin(), tokens.end()).size(), 15U);
}

TEST(Sampler, NeighbouringSeedsAreNotShiftedCopies) {
  const auto first = sequence(SamplingParams{}, 5, 40);
  const auto second = sequence(SamplingParams{}, 6, 40);
  EXPECT_NE(std::vector<TokenId>(first.begin() + 1, first.end()),
            std::vector<TokenId>(second.begin(), second.end() - 1));
}

TEST(Sampler, AStepDrawsTheSameWhateverCameBefore) {
  const auto tokens = sequence(SamplingParams{}, 9, 10);
  Sampler fresh(SamplingParams{}, 50, 9);
  EXPECT_EQ(sample(fresh, std::vector<float>(50, 0.0f), 7).token, tokens[7]);
  EXPECT_EQ(sample(fresh, std::vector<float>(50, 0.0f), 2).token, tokens[2]);
}

TEST(Sampler, RepetitionPenaltyCountsPromptAndOutput) {
  SamplingParams params = greedy();
  params.repetition_penalty = 2.0f;
  Sampler sampler(params, 3, 0);
  EXPECT_EQ(sample(sampler, {4, 3, 2.5f}).token, 0);
  sampler.observe_prompt(std::vector<TokenId>{0, 0});
  EXPECT_EQ(sample(sampler, {4, 3, 2.5f}).token, 1);
  sampler.observe_output(1);
  EXPECT_EQ(sample(sampler, {4, 3, 2.5f}).token, 2);
}

TEST(Sampler, PresenceAndFrequencyIgnoreThePrompt) {
  SamplingParams params = greedy();
  params.presence_penalty = 0.5f;
  params.frequency_penalty = 0.25f;
  params.repetition_penalty = 1.0001f;  // so that the prompt is remembered at all
  Sampler sampler(params, 2, 0);
  sampler.observe_prompt(std::vector<TokenId>{0});
  EXPECT_EQ(sample(sampler, {1.7f, 1}).token, 0);
  sampler.observe_output(0);  // -0.75
  EXPECT_EQ(sample(sampler, {1.7f, 1}).token, 1);
  EXPECT_EQ(sample(sampler, {1.8f, 1}).token, 0);
  sampler.observe_output(0);  // -1
  EXPECT_EQ(sample(sampler, {1.8f, 1}).token, 1);
}

TEST(Sampler, LogprobsAreOfTheRawLogits) {
  SamplingParams params = greedy();
  params.num_logprobs = 2;
  params.presence_penalty = 2.0f;
  Sampler sampler(params, 3, 0);
  sampler.observe_output(0);
  const SampleResult result = sample(sampler, {3, 2, 1}, 0, {1});
  const double log_sum = std::log(std::exp(3.0) + std::exp(2.0) + std::exp(1.0));
  EXPECT_EQ(result.token, 0);  // 3 - 2 ties with 1, lower id; 1 is banned
  ASSERT_TRUE(result.logprob.has_value());
  EXPECT_EQ(result.logprob->token, 0);
  EXPECT_NEAR(result.logprob->logprob, 3.0 - log_sum, 1e-6);
  ASSERT_EQ(result.top_logprobs.size(), 2U);
  EXPECT_EQ(result.top_logprobs[0].token, 0);
  EXPECT_EQ(result.top_logprobs[1].token, 1);
  EXPECT_NEAR(result.top_logprobs[1].logprob, 2.0 - log_sum, 1e-6);
}

TEST(Sampler, ZeroLogprobsReportsTheSampledTokenAlone) {
  SamplingParams params;
  params.num_logprobs = 0;
  Sampler sampler(params, 2, 0);
  const SampleResult result = sample(sampler, {0, 0});
  ASSERT_TRUE(result.logprob.has_value());
  EXPECT_EQ(result.logprob->token, result.token);
  EXPECT_NEAR(result.logprob->logprob, std::log(0.5), 1e-6);
  EXPECT_TRUE(result.top_logprobs.empty());
}

TEST(Sampler, AllNanGivesTheLowestAllowedToken) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float temperature : {0.0f, 1.0f}) {
    SamplingParams params;
    params.temperature = temperature;
    params.num_logprobs = 1;
    params.repetition_penalty = 1.5f;
    Sampler sampler(params, 3, 0);
    sampler.observe_output(2);
    const SampleResult result = sample(sampler, {nan, nan, nan}, 0, {0});
    EXPECT_EQ(result.token, 1);
    EXPECT_EQ(result.logprob->logprob, -std::numeric_limits<float>::infinity());
  }
}

}  // namespace
}  // namespace kvcrush
