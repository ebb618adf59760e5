#include "engine/model/attention_sums.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace kvcrush {
namespace {

TEST(AttentionSumsTest, GrowsWithZerosAndKeepsWhatIsThere) {
  AttentionSums sums(2);
  sums.grow(3);
  for (int i = 0; i < 3; ++i) sums.row(1)[i] = static_cast<float>(i + 1);
  sums.grow(100);
  std::vector<float> all;
  sums.copy_to(all);
  ASSERT_EQ(all.size(), 200U);
  EXPECT_EQ(all[101], 2.0F);
  EXPECT_EQ(all[103], 0.0F);
  EXPECT_EQ(all[1], 0.0F);
}

TEST(AttentionSumsTest, SlotsFreedByKeepAreZeroWhenTheyComeBack) {
  AttentionSums sums(1);
  sums.grow(4);
  std::fill_n(sums.row(0), 4, 7.0F);
  const std::vector<int> kept = {1, 3};
  sums.keep(kept, 1, 2);
  sums.grow(4);
  std::vector<float> all;
  sums.copy_to(all);
  EXPECT_EQ(all, (std::vector<float>{7, 7, 0, 0}));
}

// One token at a time, pruned now and then, a set per pair of heads: the same as plain copies.
TEST(AttentionSumsTest, FollowsItsTokens) {
  constexpr int kHeads = 4;
  AttentionSums sums(kHeads);
  std::vector<std::vector<float>> expected(kHeads);
  std::mt19937 engine(3);
  int num_moves = 0;
  const float* row = nullptr;
  for (int step = 0; step < 500; ++step) {
    const int n = sums.num_slots() + 1;
    sums.grow(n);
    if (sums.row(0) != row) ++num_moves, row = sums.row(0);
    for (int h = 0; h < kHeads; ++h) {
      sums.row(h)[n - 1] += static_cast<float>(step * kHeads + h);
      expected[h].push_back(static_cast<float>(step * kHeads + h));
    }
    if (n < 60) continue;
    std::vector<int> kept;
    for (int set = 0; set < 2; ++set) {
      std::vector<int> slots(static_cast<std::size_t>(n));
      for (int i = 0; i < n; ++i) slots[i] = i;
      std::shuffle(slots.begin(), slots.end(), engine);
      std::sort(slots.begin(), slots.begin() + 40);
      kept.insert(kept.end(), slots.begin(), slots.begin() + 40);
    }
    sums.keep(kept, 2, 40);
    for (int h = 0; h < kHeads; ++h) {
      std::vector<float> moved;
      for (int i = 0; i < 40; ++i) moved.push_back(expected[h][kept[h / 2 * 40 + i]]);
      expected[h] = moved;
    }
  }
  std::vector<float> all;
  sums.copy_to(all);
  for (int h = 0; h < kHeads; ++h) {
    for (int i = 0; i < sums.num_slots(); ++i)
      ASSERT_EQ(all[h * sums.num_slots() + i], expected[h][i]) << h << " " << i;
  }
  EXPECT_LT(num_moves, 15);  // it allocates by half of its size, not by token
}

}  // namespace
}  // namespace kvcrush
