// Blocks of a model file under the scales that kernels want: how much is lost, and that everything fits.
#include "engine/kernels/cpu/quant_fit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace kvcrush::cpu {
namespace {

float weight(const CodeBlock& block, std::size_t i) {
  return block.d * static_cast<float>(block.codes[i]) + block.m;
}

int integer(const AffineGroup& fit, const CodeGroup& group, std::size_t half, std::size_t i) {
  return fit.multipliers[half] * group[half].codes[i] + fit.offsets[half];
}

// Fails where an integer leaves int8; the squared error otherwise.
double squared_error(const AffineGroup& fit, const CodeGroup& group) {
  double error = 0;
  for (std::size_t h = 0; h < 2; ++h) {
    for (std::size_t i = 0; i < kQuantHalf; ++i) {
      const int code = integer(fit, group, h, i);
      EXPECT_LE(std::abs(code), 127);
      error += std::pow(static_cast<double>(fit.scale) * code - weight(group[h], i), 2);
    }
  }
  return error;
}

// Normal weights in 4 bits as GGUF's quantisers make them: the extremes get codes 0 and 15 (Q4_1), or the
// largest magnitude gets code 0 (Q4_0).
CodeGroup quantized_normals(bool with_minimum, std::mt19937& rng) {
  CodeGroup group;
  std::uniform_real_distribution<float> width(0.5f, 2.0f);
  for (CodeBlock& block : group) {
    std::normal_distribution<float> normal(0.0f, 0.02f * width(rng));
    std::array<float, kQuantHalf> x;
    for (float& value : x) value = normal(rng);
    const auto [low, high] = std::minmax_element(x.begin(), x.end());
    if (with_minimum) {
      block.d = (*high - *low) / 15.0f;
      block.m = *low + kCodeZero * block.d;
    } else {
      block.d = (-*low > *high ? *low : *high) / -kCodeZero;
    }
    for (std::size_t i = 0; i < x.size(); ++i) {
      const float code = std::round((x[i] - block.m) / block.d);
      block.codes[i] = static_cast<std::int8_t>(std::clamp(code, -8.0f, 7.0f));
    }
  }
  return group;
}

// Rounding to 4 bits has made an error of d^2 / 12 a weight already.
double noise_of_source(const CodeGroup& group) {
  return kQuantHalf * (std::pow(group[0].d, 2) + std::pow(group[1].d, 2)) / 12.0;
}

// The best of all multiples of 1 / 500 of the smallest scale.
double best_error(const CodeGroup& group) {
  float top = 0.0f;
  for (const CodeBlock& block : group)
    for (std::size_t i = 0; i < kQuantHalf; ++i) top = std::max(top, std::abs(weight(block, i)));
  double best = std::numeric_limits<double>::infinity();
  for (int step = 0; step < 1000; ++step) {
    const float scale = top / 127.0f * (1.0f + static_cast<float>(step) / 500.0f);
    double error = 0;
    int largest = 0;
    for (const CodeBlock& block : group) {
      const float a = std::round(block.d / scale);
      const float c = std::round(block.m / scale);
      for (std::size_t i = 0; i < kQuantHalf; ++i) {
        const float code = a * static_cast<float>(block.codes[i]) + c;
        largest = std::max(largest, static_cast<int>(std::abs(code)));
        error += std::pow(scale * code - weight(block, i), 2);
      }
    }
    if (largest <= 127) best = std::min(best, error);
  }
  return best;
}

TEST(QuantFit, AddsLittleToTheErrorOfFourBits) {
  std::mt19937 rng(1);
  for (const bool with_minimum : {false, true}) {
    double error = 0;
    double noise = 0;
    double least = 0;
    for (int i = 0; i < 200; ++i) {
      const CodeGroup group = quantized_normals(with_minimum, rng);
      error += squared_error(fit_affine(group), group);
      noise += noise_of_source(group);
      least += best_error(group);
    }
    EXPECT_LT(error, 0.02 * noise);
    EXPECT_LT(error, 1.25 * least);
  }
}

TEST(QuantFit, AnyCodesFit) {
  std::mt19937 rng(2);
  std::uniform_int_distribution<int> code(-8, 7);
  std::uniform_real_distribution<float> exponent(-20.0f, 6.0f);
  std::uniform_int_distribution<int> coin(0, 1);
  for (int i = 0; i < 3000; ++i) {
    CodeGroup group;
    float top = 0.0f;
    for (CodeBlock& block : group) {
      block.d = std::exp2(exponent(rng)) * (coin(rng) == 1 ? 1.0f : -1.0f);
      block.m = coin(rng) == 1 ? 0.0f : std::exp2(exponent(rng));
      const auto constant = static_cast<std::int8_t>(code(rng));
      const bool is_constant = coin(rng) + coin(rng) == 2;
      for (std::int8_t& q : block.codes) q = is_constant ? constant : static_cast<std::int8_t>(code(rng));
      for (std::size_t e = 0; e < kQuantHalf; ++e) top = std::max(top, std::abs(weight(block, e)));
    }
    const AffineGroup fit = fit_affine(group);
    const double error = squared_error(fit, group);
    // Some scale below top / 61 always fits unless multipliers overflow, which takes cancelling minima.
    if (group[0].m == 0.0f && group[1].m == 0.0f) {
      EXPECT_LE(error, kQuantGroup * std::pow(4.5 * top / 110, 2));
    }
  }
}

TEST(QuantFit, KeepsWhatNeedsNoRounding) {
  CodeGroup group;
  group[0].d = 0.5f;
  group[1].d = -0.25f;
  for (std::size_t i = 0; i < kQuantHalf; ++i)
    group[0].codes[i] = group[1].codes[i] = static_cast<std::int8_t>(static_cast<int>(i) % 16 - 8);
  EXPECT_NEAR(squared_error(fit_affine(group), group), 0.0, 1e-12);
}

TEST(QuantFit, ZerosAndWhatIsNotFinite) {
  CodeGroup group;
  EXPECT_EQ(fit_affine(group).scale, 0.0f);
  for (const float poison :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    group[1].d = poison;
    EXPECT_TRUE(std::isnan(fit_affine(group).scale));
  }
}

TEST(QuantFit, Int8IsTheNearestUnderTheLargest) {
  std::mt19937 rng(3);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  std::array<float, kQuantGroup> weights;
  for (float& weight : weights) weight = normal(rng);
  weights[5] = -0.25f;
  const Int8Group fit = fit_int8(weights);
  EXPECT_EQ(fit.codes[5], -127);
  for (std::size_t i = 0; i < weights.size(); ++i)
    EXPECT_NEAR(fit.scale * static_cast<float>(fit.codes[i]), weights[i], 0.501f * fit.scale);

  weights.fill(0.0f);
  EXPECT_EQ(fit_int8(weights).scale, 0.0f);
  for (const float poison :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    weights[63] = poison;
    EXPECT_TRUE(std::isnan(fit_int8(weights).scale));
  }
}

}  // namespace
}  // namespace kvcrush::cpu
