#include "engine/sampling/logits_ops.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <random>
#include <set>
#include <vector>

namespace kvcrush {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TokenId draw(std::vector<float> logits, const Truncation& truncation, double uniform,
             float temperature = 1.0f, const std::vector<TokenId>& banned = {}) {
  return draw_token(logits, temperature, truncation, uniform, banned);
}

// All tokens that some draw gives.
std::set<TokenId> support(const std::vector<float>& logits, const Truncation& truncation,
                          float temperature = 1.0f) {
  std::set<TokenId> tokens;
  for (int i = 0; i < 2000; ++i) tokens.insert(draw(logits, truncation, i / 2000.0, temperature));
  tokens.insert(draw(logits, truncation, std::nextafter(1.0, 0.0), temperature));
  return tokens;
}

std::vector<float> logits_of(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  logits.reserve(probabilities.size());
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)) + 3.0f);
  return logits;
}

TEST(Argmax, LowestIdOnTiesAndNanIsNothing) {
  EXPECT_EQ(argmax(std::vector<float>{1, 3, 3, 2}, {}), 1);
  EXPECT_EQ(argmax(std::vector<float>{kNan, -5, kNan, -4}, {}), 3);
  EXPECT_EQ(argmax(std::vector<float>{1, kInf, kInf}, {}), 1);
}

TEST(Argmax, NothingPossibleGivesLowestAllowed) {
  const std::vector<TokenId> banned = {0, 1};
  EXPECT_EQ(argmax(std::vector<float>{-kInf, -kInf, kNan, -kInf}, banned), 2);
  EXPECT_EQ(argmax(std::vector<float>{-kInf, -kInf}, banned), 0);
}

TEST(Penalties, RepetitionDividesPositiveAndMultipliesNegative) {
  std::vector<float> logits = {4, -4, 0, 4};
  apply_penalties({2.0f, 0.0f, 0.0f}, {{0, 0}, {1, 3}, {2, 1}}, logits);
  EXPECT_EQ(logits, (std::vector<float>{2, -8, 0, 4}));
}

TEST(Penalties, PresenceOncePerTokenFrequencyPerOccurrenceOutputOnly) {
  std::vector<float> logits = {1, 1, 1, 1};
  apply_penalties({1.0f, 0.5f, 0.25f}, {{0, 0}, {1, 1}, {2, 4}}, logits);
  EXPECT_EQ(logits, (std::vector<float>{1, 0.25f, -0.5f, 1}));
}

TEST(Penalties, RepetitionComesBeforePresence) {
  std::vector<float> logits = {4};
  apply_penalties({2.0f, 1.0f, 0.0f}, {{0, 1}}, logits);
  EXPECT_EQ(logits[0], 1.0f);
}

TEST(Ban, IgnoresIdsOutsideTheVocabulary) {
  std::vector<float> logits = {1, 2};
  ban_tokens(std::vector<TokenId>{1, 2, -1, 1 << 30}, logits);
  EXPECT_EQ(logits, (std::vector<float>{1, -kInf}));
}

TEST(Logprobs, MatchPlainDoubleReference) {
  std::mt19937 generator(4);
  std::normal_distribution<float> normal(0.0f, 5.0f);
  std::vector<float> logits(5000);
  for (float& logit : logits) logit = normal(generator);
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
  // Float exponentials are good to about 1e-7 of the sum, float log-probabilities of size 20 to 1e-6.
  EXPECT_NEAR(log_sum_exp(logits), std::log(sum), 1e-6);
  const auto top = top_logprobs(logits, log_sum_exp(logits), 3);
  ASSERT_EQ(top.size(), 3U);
  for (const LogprobEntry& entry : top) {
    EXPECT_NEAR(entry.logprob,
                static_cast<double>(logits[static_cast<std::size_t>(entry.token)]) - std::log(sum), 2e-6);
  }
  EXPECT_EQ(top[0].token, argmax(logits, {}));
}

TEST(Logprobs, TopIsOrderedTiesByIdAndShortForSmallVocabularies) {
  const auto top = top_logprobs(std::vector<float>{1, 2, 2, kNan}, 0.0, 20);
  ASSERT_EQ(top.size(), 4U);
  EXPECT_EQ(top[0].token, 1);
  EXPECT_EQ(top[1].token, 2);
  EXPECT_EQ(top[2].token, 0);
  EXPECT_EQ(top[3].logprob, -kInf);
}

TEST(Logprobs, NeverNan) {
  EXPECT_EQ(log_sum_exp(std::vector<float>{-kInf, kNan}), -static_cast<double>(kInf));
  EXPECT_EQ(log_probability(-kInf, -static_cast<double>(kInf)), -kInf);
  EXPECT_EQ(log_probability(kInf, static_cast<double>(kInf)), 0.0f);
  EXPECT_EQ(log_probability(kNan, 1.0), -kInf);
  EXPECT_NEAR(log_sum_exp(std::vector<float>{1e30f, kNan, 0}), 1e30, 1e24);
}

TEST(Draw, UniformWalksTheDistributionById) {
  const auto logits = logits_of({0.25, 0.5, 0.25});
  EXPECT_EQ(draw(logits, {}, 0.0), 0);
  EXPECT_EQ(draw(logits, {}, 0.24), 0);
  EXPECT_EQ(draw(logits, {}, 0.26), 1);
  EXPECT_EQ(draw(logits, {}, 0.74), 1);
  EXPECT_EQ(draw(logits, {}, 0.76), 2);
  EXPECT_EQ(draw(logits, {}, std::nextafter(1.0, 0.0)), 2);
}

TEST(Draw, TopKKeepsTheLikeliestLowerIdOnTies) {
  const std::vector<float> logits = {1, 2, 1, 2, 1};
  EXPECT_EQ(support(logits, {.top_k = 1}), (std::set<TokenId>{1}));
  EXPECT_EQ(support(logits, {.top_k = 3}), (std::set<TokenId>{0, 1, 3}));
  EXPECT_EQ(support(logits, {.top_k = 1000}), (std::set<TokenId>{0, 1, 2, 3, 4}));
}

TEST(Draw, TopPKeepsTheSmallestSetThatReachesIt) {
  const auto logits = logits_of({0.1, 0.4, 0.2, 0.3});
  EXPECT_EQ(support(logits, {.top_p = 1e-6f}), (std::set<TokenId>{1}));
  EXPECT_EQ(support(logits, {.top_p = 0.39f}), (std::set<TokenId>{1}));
  EXPECT_EQ(support(logits, {.top_p = 0.41f}), (std::set<TokenId>{1, 3}));
  EXPECT_EQ(support(logits, {.top_p = 0.75f}), (std::set<TokenId>{1, 2, 3}));
  EXPECT_EQ(support(logits, {.top_p = 0.95f}), (std::set<TokenId>{0, 1, 2, 3}));
}

TEST(Draw, TopPReachedExactlyTakesNoMore) {
  EXPECT_EQ(support({0, 0, 0, 0}, {.top_p = 0.5f}), (std::set<TokenId>{0, 1}));
  EXPECT_EQ(support({0, 0, 0, 0}, {.top_k = 3, .top_p = 0.25f}), (std::set<TokenId>{0}));
}

TEST(Draw, TopPCountsMassWithinTopK) {
  // Of the two likeliest the first has 4/7 = 0.57 of their mass but only 0.4 of the whole.
  const auto logits = logits_of({0.1, 0.4, 0.2, 0.3});
  EXPECT_EQ(support(logits, {.top_k = 2, .top_p = 0.5f}), (std::set<TokenId>{1}));
  EXPECT_EQ(support(logits, {.top_k = 2, .top_p = 0.6f}), (std::set<TokenId>{1, 3}));
}

TEST(Draw, MinPIsRelativeToTheLikeliest) {
  const auto logits = logits_of({0.1, 0.4, 0.2, 0.3});
  for (const Truncation& others : {Truncation{}, Truncation{.top_k = 4},
                                   Truncation{.top_k = 3, .top_p = 0.99f}, Truncation{.top_p = 0.99f}}) {
    Truncation truncation = others;
    truncation.min_p = 0.6f;  // at least 0.24
    EXPECT_EQ(support(logits, truncation), (std::set<TokenId>{1, 3}));
    truncation.min_p = 1.0f;
    EXPECT_EQ(support(logits, truncation), (std::set<TokenId>{1}));
  }
}

TEST(Draw, TruncationFollowsTemperature) {
  const auto logits = logits_of({0.8, 0.2});
  EXPECT_EQ(support(logits, {.top_p = 0.75f}), (std::set<TokenId>{0}));
  EXPECT_EQ(support(logits, {.top_p = 0.75f}, 4.0f), (std::set<TokenId>{0, 1}));
  EXPECT_EQ(support(logits, {.min_p = 0.5f}), (std::set<TokenId>{0}));
  EXPECT_EQ(support(logits, {.min_p = 0.5f}, 4.0f), (std::set<TokenId>{0, 1}));
}

TEST(Draw, TopPAgreesWithASortOverALargeVocabulary) {
  std::mt19937 generator(6);
  std::normal_distribution<float> normal(0.0f, 2.0f);
  std::vector<float> logits(3000);
  for (float& logit : logits) logit = normal(generator);
  std::multiset<double, std::greater<>> weights;
  double total = 0.0;
  for (const float logit : logits) {
    weights.insert(std::exp(static_cast<double>(logit)));
    total += std::exp(static_cast<double>(logit));
  }
  for (const float top_p : {0.1f, 0.5f, 0.9f, 0.999f}) {
    double mass = 0.0;
    double last = 0.0;
    for (const double weight : weights) {
      if (mass >= static_cast<double>(top_p) * total) break;
      mass += weight;
      last = weight;
    }
    // A draw near 1 is the least likely token of the set.
    const TokenId token = draw(logits, {.top_p = top_p}, std::nextafter(1.0, 0.0));
    EXPECT_NEAR(std::exp(static_cast<double>(logits[static_cast<std::size_t>(token)])), last, 1e-9) << top_p;
  }
}

TEST(Draw, SurvivesNanInfinityAndExtremeTemperatures) {
  for (const Truncation& truncation : {Truncation{}, Truncation{.top_k = 2}, Truncation{.top_p = 0.9f}}) {
    EXPECT_EQ(support({kNan, 1, kNan}, truncation), (std::set<TokenId>{1}));
    EXPECT_EQ(support({kNan, kInf, 1, kInf}, truncation), (std::set<TokenId>{1, 3}));
    EXPECT_EQ(support({-kInf, 2, -kInf, 2}, truncation), (std::set<TokenId>{1, 3}));
    EXPECT_EQ(support({1, 2, 1}, truncation, 1e-40f), (std::set<TokenId>{1}));
    EXPECT_EQ(draw({-kInf, -kInf, kNan}, truncation, 0.5, 1.0f, {0}), 1);
  }
  EXPECT_EQ(support({-1e30f, 1e30f}, {.top_p = 0.999f}, 100.0f), (std::set<TokenId>{1}));
}

}  // namespace
}  // namespace kvcrush
