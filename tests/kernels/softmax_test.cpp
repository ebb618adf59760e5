// Passes over rows of logits against std::exp in double, for every length around the vectors' and with
// whatever a model may come up with.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "engine/kernels/cpu/cpu_kernels.h"

namespace kvcrush::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<float> random_logits(std::size_t count, unsigned seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0.0f, 5.0f);
  std::vector<float> logits(count);
  for (float& logit : logits) logit = normal(rng);
  return logits;
}

double exact_weight(float logit, float max_logit, float temperature) {
  if (std::isnan(logit)) return 0.0;
  if (logit == max_logit) return 1.0;
  return std::exp((static_cast<double>(logit) - max_logit) / temperature);
}

void expect_equals_definition(const std::vector<float>& logits, float temperature, float least_weight) {
  const KernelTable& kernels = cpu_kernels();
  const auto count = static_cast<std::int64_t>(logits.size());
  float largest = -kInfinity;
  for (const float logit : logits) largest = logit > largest ? logit : largest;
  ASSERT_EQ(kernels.largest_logit(logits.data(), count), largest);
  double total = 0.0;
  for (const float logit : logits) total += exact_weight(logit, largest, temperature);
  EXPECT_NEAR(kernels.sum_weights(logits.data(), count, largest, temperature), total, 1e-5 * total);

  std::vector<float> weights = logits;
  std::vector<double> sums((logits.size() + kWeightBlock - 1) / kWeightBlock, -1.0);
  const double sum =
      kernels.to_weights(weights.data(), count, largest, temperature, least_weight, sums.data());
  double of_weights = 0.0;
  std::vector<double> of_blocks(sums.size(), 0.0);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double exact = exact_weight(logits[i], largest, temperature);
    // (logit - max) / temperature is rounded before exp: relative to the exponent's size.
    const double allowed = 1e-5 * exact + 1e-37;
    if (exact < least_weight * (1 - 1e-5)) {
      EXPECT_EQ(weights[i], 0.0f) << i;
    } else if (exact > least_weight * (1 + 1e-5)) {
      EXPECT_NEAR(weights[i], exact, allowed) << i;
    }
    of_weights += weights[i];
    of_blocks[i / kWeightBlock] += weights[i];
  }
  EXPECT_NEAR(sum, of_weights, 1e-12 * of_weights);
  for (std::size_t b = 0; b < sums.size(); ++b) EXPECT_NEAR(sums[b], of_blocks[b], 1e-12 * of_weights) << b;
}

TEST(Softmax, EqualsItsDefinitionForAllLengths) {
  for (std::size_t count = 1; count < 150; ++count) {
    SCOPED_TRACE(std::to_string(count) + " logits");
    for (const float temperature : {0.1f, 1.0f, 7.0f}) {
      for (const float least_weight : {0.0f, 0.05f})
        expect_equals_definition(random_logits(count, static_cast<unsigned>(count)), temperature,
                                 least_weight);
    }
  }
}

TEST(Softmax, WhatIsNoNumber) {
  std::vector<float> logits = random_logits(100, 1);
  logits[3] = logits[99] = kNan;
  logits[40] = -kInfinity;
  expect_equals_definition(logits, 0.7f, 0.0f);
  logits[50] = logits[97] = kInfinity;  // certain, both of them
  expect_equals_definition(logits, 0.7f, 0.0f);
  EXPECT_EQ(cpu_kernels().sum_weights(logits.data(), 100, kInfinity, 0.7f), 2.0);
}

TEST(Softmax, NothingPossible) {
  const std::vector<float> logits(33, kNan);
  EXPECT_EQ(cpu_kernels().largest_logit(logits.data(), 33), -kInfinity);
}

}  // namespace
}  // namespace kvcrush::cpu
