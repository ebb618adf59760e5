#include "engine/kvcrush/top_selection.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

namespace kvcrush {
namespace {

std::vector<int> taken(TopSelection& top, const std::vector<float>& values, int count) {
  const TopCut cut = top.find(values, count);
  std::vector<int> indices;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (cut.takes(top.keys()[i], static_cast<int>(i))) indices.push_back(static_cast<int>(i));
  }
  return indices;
}

std::vector<int> sorted_reference(const std::vector<float>& values, int count) {
  std::vector<int> indices(values.size());
  std::iota(indices.begin(), indices.end(), 0);
  std::stable_sort(indices.begin(), indices.end(), [&](int a, int b) {
    return values[static_cast<std::size_t>(a)] > values[static_cast<std::size_t>(b)];
  });
  indices.resize(static_cast<std::size_t>(count));
  std::sort(indices.begin(), indices.end());
  return indices;
}

TEST(TopSelection, LowerIndexWinsTies) {
  TopSelection top;
  EXPECT_EQ(taken(top, {1, 2, 1, 2, 1}, 3), (std::vector<int>{0, 1, 3}));
  EXPECT_EQ(taken(top, {5, 5, 5}, 2), (std::vector<int>{0, 1}));
}

TEST(TopSelection, NoneAndAll) {
  TopSelection top;
  const float largest = std::numeric_limits<float>::max();
  EXPECT_TRUE(taken(top, {largest, -largest}, 0).empty());
  EXPECT_EQ(taken(top, {largest, -largest}, 2), (std::vector<int>{0, 1}));
  EXPECT_TRUE(taken(top, {}, 0).empty());
}

TEST(TopSelection, NegativeZeroEqualsZero) {
  TopSelection top;
  EXPECT_EQ(taken(top, {-0.0f, 0.0f, -0.0f}, 2), (std::vector<int>{0, 1}));
}

TEST(TopSelection, TellsNeighbouringFloatsApart) {
  TopSelection top;
  for (const float base : {1.0f, -1.0f, 1e-40f, -1e-40f, 3e38f}) {
    const float above = std::nextafter(base, std::numeric_limits<float>::infinity());
    EXPECT_EQ(taken(top, {base, above, base}, 1), (std::vector<int>{1})) << base;
    EXPECT_EQ(taken(top, {base, above, base}, 2), (std::vector<int>{0, 1})) << base;
  }
}

TEST(TopSelection, MatchesStableSort) {
  std::mt19937 generator(5);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  TopSelection top;
  for (int round = 0; round < 300; ++round) {
    std::vector<float> values(1 + generator() % 200);
    const bool has_ties = round % 2 == 0;
    for (float& value : values)
      value = has_ties ? std::round(normal(generator) * 2) : std::exp(9 * normal(generator));
    const int count = static_cast<int>(generator() % (values.size() + 1));
    EXPECT_EQ(taken(top, values, count), sorted_reference(values, count)) << "round " << round;
  }
}

}  // namespace
}  // namespace kvcrush
