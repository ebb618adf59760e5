#include "engine/kvcrush/select.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "engine/kvcrush/importance.h"
#include "tests/tools/allocation_counter.h"

namespace kvcrush {
namespace {

// `scores` must outlive the input.
SelectionInput input_of(std::span<const float> scores, int num_heads, int budget_tokens, double share) {
  SelectionInput input;
  input.scores = scores;
  input.num_heads = num_heads;
  input.num_sink_tokens = 1;
  input.window_tokens = 1;
  input.num_tokens = static_cast<int>(scores.size()) / num_heads + 2;
  input.budget_tokens = budget_tokens;
  input.representative_share = share;
  return input;
}

std::vector<float> importance_of(const SelectionInput& input) {
  std::vector<float> importance(input.scores.size() / static_cast<std::size_t>(input.num_heads));
  sum_over_heads(input.scores, input.num_heads, importance);
  return importance;
}

std::vector<int> kept(SelectionInput input) {
  const std::vector<float> importance = importance_of(input);
  input.importance = importance;
  Selector selector;
  const auto slots = selector.select(input);
  return {slots.begin(), slots.end()};
}

TEST(Select, KeepsAllWithinBudget) {
  const std::vector<float> scores = {1, 2};
  SelectionInput input = input_of(scores, 1, 4, 0.5);
  EXPECT_EQ(kept(input), (std::vector<int>{0, 1, 2, 3}));
  input.scores = {};
  input.num_tokens = 1;  // shorter than sinks and window together
  EXPECT_EQ(kept(input), (std::vector<int>{0}));
}

TEST(Select, ShareZeroIsTheBasePolicy) {
  const std::vector<float> scores = {0.1f, 0.9f, 0.2f, 0.8f};
  EXPECT_EQ(kept(input_of(scores, 1, 4, 0.0)), (std::vector<int>{0, 2, 4, 5}));
}

TEST(Select, EquallyImportantTokensGoByTheirSlot) {
  // Sums: 5, 6, 5, 4; the tie for second place goes to the lower slot.
  const std::vector<float> scores = {5, 1, 0, 2, 0, 5, 5, 2};
  EXPECT_EQ(kept(input_of(scores, 2, 4, 0.0)), (std::vector<int>{0, 1, 2, 5}));
}

TEST(Select, ImportanceChoosesAndScoresSign) {
  // F = 4, R = 2. Important by their own: slots 7 and 8. By the one head's scores slots 1 2 3 4 have the bit.
  const std::vector<float> scores = {9, 8, 7, 6, 5, 4, 3, 2};
  const std::vector<float> importance = {1, 2, 3, 4, 5, 6, 7, 8};
  SelectionInput input = input_of(scores, 1, 6, 0.5);
  input.importance = importance;
  input.anchor = AnchorKind::kZeros;
  Selector selector;
  const auto slots = selector.select(input);  // order 5 6 | 1 2 3 4, groups {5 6 1} {2 3 4}
  EXPECT_EQ(std::vector<int>(slots.begin(), slots.end()), (std::vector<int>{0, 2, 5, 7, 8, 9}));
}

TEST(Select, RepresentativesSpreadOverDistances) {
  // F = 4, R = 2, I = 2. One head: slots 2 and 4 important; F largest are slots 1 2 4 6, so among the evicted
  // 1 3 5 6 7 8 slots 1 and 6 have the bit. Anchor ones: order 1 6 | 3 5 7 8, groups {1 6 3} {5 7 8}.
  const std::vector<float> scores = {6, 9, 3, 8, 2, 5, 1, 4};
  SelectionInput input = input_of(scores, 1, 6, 0.5);
  input.anchor = AnchorKind::kOnes;
  EXPECT_EQ(kept(input), (std::vector<int>{0, 1, 2, 4, 5, 9}));
  // Zeros: order 3 5 7 8 | 1 6, groups {3 5 7} {8 1 6}.
  input.anchor = AnchorKind::kZeros;
  EXPECT_EQ(kept(input), (std::vector<int>{0, 2, 3, 4, 8, 9}));
  // Best of {3 5 7} by score is 3, of {8 1 6} it is 1.
  input.pick = RepresentativePick::kBest;
  EXPECT_EQ(kept(input), (std::vector<int>{0, 1, 2, 3, 4, 9}));
}

TEST(Select, BestPickTiesGoToTheLowerSlotNotTheNearerOne) {
  // F = R = 1. Two heads; sums 3 3 1. Head 0 wants slot 1, head 1 wants slot 2. The anchor of head 1 alone
  // makes slot 2 the nearest, yet slot 1 ties with it.
  const std::vector<float> scores = {3, 0, 1, 0, 3, 0};
  SelectionInput input = input_of(scores, 2, 3, 1.0);
  input.anchor = AnchorKind::kAlternating;
  EXPECT_EQ(kept(input), (std::vector<int>{0, 2, 4}));
  input.pick = RepresentativePick::kBest;
  EXPECT_EQ(kept(input), (std::vector<int>{0, 1, 4}));
}

TEST(Select, KvHeadsShareABitWhereAnyQueryHeadWantsTheToken) {
  // F = R = 2, candidates are slots 1 2 3 4. Head 0 wants slots 1 2, head 1 slots 1 3: as one KV head the
  // evicted 1 2 3 have the bit, as two query heads 1 has both and 2 and 3 one each.
  const std::vector<float> scores = {9, 9, 0, 0, 9, 0, 9, 0};
  SelectionInput input = input_of(scores, 2, 4, 1.0);
  input.anchor = AnchorKind::kOnes;
  // Query: order 1 | 2 3 | 4, groups {1 2} {3 4}. KV: order 1 2 3 | 4, the same groups; zeros tell them
  // apart.
  EXPECT_EQ(kept(input), (std::vector<int>{0, 1, 3, 5}));
  input.heads_per_bit = 2;
  EXPECT_EQ(kept(input), (std::vector<int>{0, 1, 3, 5}));
  input.anchor = AnchorKind::kZeros;
  // KV: order 4 | 1 2 3, groups {4 1} {2 3}. Query: order 4 | 2 3 | 1, groups {4 2} {3 1}.
  EXPECT_EQ(kept(input), (std::vector<int>{0, 2, 4, 5}));
  input.heads_per_bit = 1;
  EXPECT_EQ(kept(input), (std::vector<int>{0, 3, 4, 5}));
}

TEST(Select, KvAnchorsGoByTheKvHead) {
  // Query heads 2 and 3 are KV head 1, an odd one: the alternating anchor has its bit, as ones do.
  const std::vector<float> scores = {9, 9, 0, 0, 9, 0, 9, 0};
  SelectionInput input = input_of(scores, 2, 4, 1.0);
  input.heads_per_bit = 2;
  input.first_head = 2;
  input.anchor = AnchorKind::kAlternating;
  EXPECT_EQ(kept(input), (std::vector<int>{0, 1, 3, 5}));
  input.first_head = 4;
  EXPECT_EQ(kept(input), (std::vector<int>{0, 2, 4, 5}));
}

TEST(Select, SameSeedSameTokensOtherSeedOthers) {
  std::mt19937 generator(4);
  std::vector<float> scores(32 * 200);
  for (float& score : scores) score = static_cast<float>(generator() % 1000);
  SelectionInput input = input_of(scores, 32, 60, 1.0);
  input.anchor = AnchorKind::kRandom;
  input.seed = 1;
  const std::vector<int> first = kept(input);
  EXPECT_EQ(kept(input), first);
  input.seed = 2;
  EXPECT_NE(kept(input), first);
}

TEST(Select, ShareOneHasOnlyRepresentatives) {
  const std::vector<float> scores = {1, 1, 1, 1, 1, 1};
  SelectionInput input = input_of(scores, 1, 5, 1.0);
  input.anchor = AnchorKind::kZeros;
  // All tie: slots 1 2 3 are the F largest; order 4 5 6 | 1 2 3, groups {4 5} {6 1} {2 3}.
  EXPECT_EQ(kept(input), (std::vector<int>{0, 2, 4, 6, 7}));
}

TEST(Select, EverySizeGivesExactlyTheBudgetInOrder) {
  std::mt19937 generator(11);
  Selector selector;
  for (int round = 0; round < 500; ++round) {
    const int num_heads = 1 + static_cast<int>(generator() % 70);
    const int num_candidates = 2 + static_cast<int>(generator() % 60);
    std::vector<float> scores(static_cast<std::size_t>(num_heads * num_candidates));
    for (float& score : scores) score = static_cast<float>(generator() % 3);
    const int num_free = 1 + static_cast<int>(generator() % static_cast<unsigned>(num_candidates - 1));
    SelectionInput input =
        input_of(scores, num_heads, num_free + 2, static_cast<double>(generator() % 11) / 10.0);
    input.anchor = static_cast<AnchorKind>(round % 5);
    const std::vector<float> importance = importance_of(input);
    input.importance = importance;
    const auto slots = selector.select(input);
    ASSERT_EQ(static_cast<int>(slots.size()), input.budget_tokens);
    EXPECT_EQ(slots.front(), 0);
    EXPECT_EQ(slots.back(), input.num_tokens - 1);
    for (std::size_t i = 1; i < slots.size(); ++i) ASSERT_LT(slots[i - 1], slots[i]);
  }
}

TEST(Select, WarmSelectionAllocatesNothing) {
  std::mt19937 generator(2);
  std::vector<float> scores(9 * 500);
  for (float& score : scores) score = static_cast<float>(generator() % 1000);
  SelectionInput input = input_of(scores, 9, 120, 0.25);
  const std::vector<float> importance = importance_of(input);
  input.importance = importance;
  Selector selector;
  selector.select(input);
  const int before = num_allocations();
  for (const double share : {0.25, 0.0, 1.0}) {
    input.representative_share = share;
    selector.select(input);
  }
  EXPECT_EQ(num_allocations() - before, 0);
}

TEST(Select, ScratchOfALargerCaseLeavesNoTrace) {
  std::vector<float> large(70 * 300, 1.0f);
  Selector selector;
  SelectionInput first = input_of(large, 70, 100, 0.5);
  first.importance = std::span<const float>(large).first(300);
  selector.select(first);
  const std::vector<float> small = {6, 9, 3, 8, 2, 5, 1, 4};
  SelectionInput second = input_of(small, 1, 6, 0.5);
  second.importance = small;
  const auto slots = selector.select(second);
  EXPECT_EQ(std::vector<int>(slots.begin(), slots.end()), kept(input_of(small, 1, 6, 0.5)));
}

}  // namespace
}  // namespace kvcrush
