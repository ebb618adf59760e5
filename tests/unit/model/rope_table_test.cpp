#include "engine/model/rope_table.h"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>

namespace kvcrush {
namespace {

TEST(RopeTableTest, PlainFrequencies) {
  const std::vector<float> f = rope_inverse_frequencies({.base = 10000.0}, 8);
  ASSERT_EQ(f.size(), 4U);
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(f[i], std::pow(10000.0, -i / 4.0), 1e-7);
}

TEST(RopeTableTest, LinearDividesByFactor) {
  const std::vector<float> plain = rope_inverse_frequencies({.base = 500.0}, 16);
  const std::vector<float> scaled =
      rope_inverse_frequencies({.base = 500.0, .type = RopeScalingType::kLinear, .factor = 4.0}, 16);
  for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_FLOAT_EQ(scaled[i], plain[i] / 4.0F);
}

TEST(RopeTableTest, DivisorsApply) {
  RopeConfig rope{.base = 10000.0};
  rope.frequency_divisors = {1.0F, 2.0F, 4.0F, 8.0F};
  const std::vector<float> f = rope_inverse_frequencies(rope, 8);
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(f[i], std::pow(10000.0, -i / 4.0) / (1 << i), 1e-7);
}

// Expected values: transformers 5.23, ROPE_INIT_FUNCTIONS["llama3"] with Llama 3.1's parameters, head_dim
// 128.
TEST(RopeTableTest, Llama3MatchesTransformers) {
  const RopeConfig rope{.base = 500000.0,
                        .type = RopeScalingType::kLlama3,
                        .factor = 8.0,
                        .original_max_position = 8192,
                        .low_freq_factor = 1.0,
                        .high_freq_factor = 4.0};
  const std::vector<float> f = rope_inverse_frequencies(rope, 128);
  const std::pair<int, double> expected[] = {{0, 1.0},
                                             {20, 0.0165604409},
                                             {28, 0.00321144611},
                                             {31, 0.00085675146},
                                             {35, 9.55621217e-05},
                                             {63, 3.06892588e-07}};
  for (const auto& [index, value] : expected) EXPECT_NEAR(f[index] / value, 1.0, 1e-5) << index;
}

// Expected values: transformers 5.23, ROPE_INIT_FUNCTIONS["yarn"], factor 4 over 4096 positions, head_dim 64.
TEST(RopeTableTest, YarnMatchesTransformers) {
  const RopeConfig rope{
      .base = 10000.0, .type = RopeScalingType::kYarn, .factor = 4.0, .original_max_position = 4096};
  const std::vector<float> f = rope_inverse_frequencies(rope, 64);
  const std::pair<int, double> expected[] = {{0, 1.0},
                                             {10, 0.0562341288},
                                             {15, 0.00948851742},
                                             {20, 0.00133788679},
                                             {24, 0.000250000012},
                                             {31, 3.33380376e-05}};
  for (const auto& [index, value] : expected) EXPECT_NEAR(f[index] / value, 1.0, 1e-5) << index;
  const std::vector<float> table = make_rope_table(rope, 64, 1);
  EXPECT_NEAR(table[0], 1.138629436111989, 1e-6);  // cos(0) times the attention factor
}

TEST(RopeTableTest, RowsAreCosinesThenSines) {
  const std::vector<float> table = make_rope_table({.base = 10000.0}, 8, 50);
  for (int position : {0, 1, 49}) {
    for (int i = 0; i < 4; ++i) {
      const double angle = position * std::pow(10000.0, -i / 4.0);
      EXPECT_NEAR(table[position * 8 + i], std::cos(angle), 1e-5);
      EXPECT_NEAR(table[position * 8 + 4 + i], std::sin(angle), 1e-5);
    }
  }
}

}  // namespace
}  // namespace kvcrush
