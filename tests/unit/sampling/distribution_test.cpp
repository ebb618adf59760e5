// Draw frequencies against the distribution they claim, by chi-square. Seeds are fixed, so these pass always
// or never; the bounds are the 99.9 % quantiles, which a right sampler misses for one seed in a thousand.
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <vector>

#include "engine/sampling/sampler.h"

namespace kvcrush {
namespace {

constexpr int kNumDraws = 20000;
constexpr double kQuantile4 = 18.47;  // 4 degrees of freedom
constexpr double kQuantile2 = 13.82;  // 2 degrees of freedom
constexpr double kQuantile9 = 27.88;  // 9 degrees of freedom

std::vector<float> logits_of(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  logits.reserve(probabilities.size());
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

std::vector<int> count_draws(const SamplingParams& params, const std::vector<float>& logits,
                             bool step_varies) {
  std::vector<int> counts(logits.size(), 0);
  for (int i = 0; i < kNumDraws; ++i) {
    Sampler sampler(params, static_cast<int>(logits.size()),
                    step_varies ? 77 : static_cast<std::uint64_t>(i));
    std::vector<float> copy = logits;
    ++counts[static_cast<std::size_t>(sampler.sample(copy, step_varies ? i : 3, {}).token)];
  }
  return counts;
}

double chi_square(const std::vector<int>& counts, const std::vector<double>& probabilities) {
  double sum = 0.0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const double expected = probabilities[i] * kNumDraws;
    if (expected == 0.0) {
      EXPECT_EQ(counts[i], 0) << "token " << i;
      continue;
    }
    sum += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  return sum;
}

const std::vector<double> kSkewed = {0.05, 0.4, 0.1, 0.3, 0.15};

TEST(Distribution, OverSteps) {
  EXPECT_LT(chi_square(count_draws({}, logits_of(kSkewed), true), kSkewed), kQuantile4);
}

TEST(Distribution, OverSeeds) {
  EXPECT_LT(chi_square(count_draws({}, logits_of(kSkewed), false), kSkewed), kQuantile4);
}

TEST(Distribution, TemperatureRaisesToItsInverse) {
  SamplingParams params;
  params.temperature = 0.5f;
  std::vector<double> squared;
  squared.reserve(kSkewed.size());
  double total = 0.0;
  for (const double p : kSkewed) total += p * p;
  for (const double p : kSkewed) squared.push_back(p * p / total);
  EXPECT_LT(chi_square(count_draws(params, logits_of(kSkewed), true), squared), kQuantile4);
}

TEST(Distribution, TruncatedSetsKeepTheirProportions) {
  const std::vector<double> likeliest_three = {0.0, 0.4 / 0.85, 0.0, 0.3 / 0.85, 0.15 / 0.85};
  SamplingParams top_k;
  top_k.top_k = 3;
  SamplingParams top_p;
  top_p.top_p = 0.8f;
  SamplingParams min_p;
  min_p.min_p = 0.3f;
  for (const SamplingParams& params : {top_k, top_p, min_p}) {
    EXPECT_LT(chi_square(count_draws(params, logits_of(kSkewed), true), likeliest_three), kQuantile2);
  }
}

TEST(Distribution, ConsecutiveDrawsAreIndependent) {
  Sampler sampler({}, 2, 123);
  std::vector<int> pairs(4, 0);
  for (int i = 0; i < kNumDraws; ++i) {
    std::size_t pair = 0;
    for (const int step : {2 * i, 2 * i + 1}) {
      std::vector<float> coin = {0, 0};
      pair = pair * 2 + static_cast<std::size_t>(sampler.sample(coin, step, {}).token);
    }
    ++pairs[pair];
  }
  EXPECT_LT(chi_square(pairs, {0.25, 0.25, 0.25, 0.25}), kQuantile4);
}

TEST(Distribution, FlatOverALargeVocabulary) {
  SamplingParams params;
  params.top_p = 0.5f;
  std::vector<int> tenths(10, 0);
  Sampler sampler(params, 1000, 8);
  for (int step = 0; step < kNumDraws; ++step) {
    std::vector<float> logits(1000, 1.0f);
    ++tenths[static_cast<std::size_t>(sampler.sample(logits, step, {}).token /
                                      50)];  // ids 0..499 are the nucleus
  }
  EXPECT_LT(chi_square(tenths, std::vector<double>(10, 0.1)), kQuantile9);
}

}  // namespace
}  // namespace kvcrush
