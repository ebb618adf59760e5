#include "engine/kvcrush/importance.h"

#include <gtest/gtest.h>

#include <vector>

namespace kvcrush {
namespace {

std::vector<float> importance_of(const std::vector<float>& scores, int num_heads, int num_sets,
                                 double layer_weight) {
  std::vector<float> layer_sums;
  std::vector<float> importance(scores.size() * static_cast<std::size_t>(num_sets) /
                                static_cast<std::size_t>(num_heads));
  weigh_tokens(scores, num_heads, num_sets, layer_weight, layer_sums, importance);
  return importance;
}

TEST(Importance, SumsHeadsInOrder) {
  // 1e8 swallows small numbers in float32, so the order of the sum shows: the first would be 0 backwards.
  const std::vector<float> scores = {1e8f, 1, 1, -1e8f, -1e8f, 1e8f, 1, 2, 3};
  std::vector<float> sums(3);
  sum_over_heads(scores, 3, sums);
  EXPECT_EQ(sums, (std::vector<float>{1, -1e8f, 1e8f}));
  EXPECT_EQ(importance_of(scores, 3, 1, 0.0), sums);
}

// Four heads, two tokens.
const std::vector<float> kScores = {1, 2, 3, 4, 10, 20, 30, 40};

TEST(Importance, WithoutAWeightASetGoesByItsOwnHeads) {
  EXPECT_EQ(importance_of(kScores, 4, 2, 0.0), (std::vector<float>{4, 6, 40, 60}));
  EXPECT_EQ(importance_of(kScores, 4, 4, 0.0), kScores);
}

TEST(Importance, TheWeightAddsTheLayersMean) {
  // Means of the two sets: 22 and 33.
  EXPECT_EQ(importance_of(kScores, 4, 2, 1.0), (std::vector<float>{26, 39, 62, 93}));
  EXPECT_EQ(importance_of(kScores, 4, 2, 0.5), (std::vector<float>{15, 22.5f, 51, 76.5f}));
  EXPECT_EQ(importance_of(kScores, 4, 1, 2.0), (std::vector<float>{132, 198}));
}

TEST(Importance, TheMeanSumsSetsInOrder) {
  // As sums of heads 1e8, -1e8, 3: 3 in order, 0 backwards.
  EXPECT_EQ(importance_of({1e8f, -1e8f, 3}, 3, 3, 1.0), (std::vector<float>{1e8f, -1e8f, 4}));
}

TEST(Importance, ScratchOfALargerLayerLeavesNoTrace) {
  std::vector<float> layer_sums(100, 7.0f);
  std::vector<float> importance(4);
  weigh_tokens(kScores, 4, 2, 1.0, layer_sums, importance);
  EXPECT_EQ(importance, (std::vector<float>{26, 39, 62, 93}));
}

}  // namespace
}  // namespace kvcrush
