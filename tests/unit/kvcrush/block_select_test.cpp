#include "engine/kvcrush/block_select.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <random>
#include <span>
#include <vector>

#include "tests/tools/allocation_counter.h"

namespace kvcrush {
namespace {

constexpr int kBlock = kSelectionBlockTokens;

// Sinks 0..3; units 1..4 are slots 16..79; window 80..83. `importance` [76] must outlive the input.
constexpr int kNumCandidates = 76;
SelectionInput input_of(std::span<const float> importance, int num_free_blocks, double share) {
  SelectionInput input;
  input.importance = importance;
  input.num_sink_tokens = 4;
  input.window_tokens = 4;
  input.num_tokens = 84;
  input.budget_tokens = 20 + num_free_blocks * kBlock;  // 16 slots before the first unit and the window
  input.representative_share = share;
  return input;
}

std::size_t candidate(int slot) {
  return static_cast<std::size_t>(slot - 4);
}

// Which of the units 1..4 stay; checks that all else does.
std::vector<int> kept_units(const SelectionInput& input) {
  BlockSelector selector;
  const std::span<const int> slots = selector.select(input);
  std::vector<int> expected;
  std::vector<int> units;
  for (int slot = 0; slot < kBlock; ++slot) expected.push_back(slot);
  for (std::size_t i = kBlock; i + 4 < slots.size(); i += kBlock) {
    units.push_back(slots[i] / kBlock);
    for (int offset = 0; offset < kBlock; ++offset) expected.push_back(units.back() * kBlock + offset);
  }
  for (int slot = 80; slot < 84; ++slot) expected.push_back(slot);
  EXPECT_EQ(std::vector<int>(slots.begin(), slots.end()), expected);
  return units;
}

TEST(BlockSelect, KeepsAllWithinBudget) {
  BlockSelector selector;
  SelectionInput input = input_of({}, 4, 0.5);
  EXPECT_EQ(selector.select(input).size(), 84U);
  input.num_tokens = 3;  // shorter than sinks and window together
  EXPECT_EQ(selector.select(input).size(), 3U);
}

TEST(BlockSelect, ShareZeroKeepsTheHeaviestBlocks) {
  std::vector<float> importance(kNumCandidates, 0.0f);
  importance[candidate(20)] = 5;            // one strong token of unit 1
  for (int slot = 32; slot < 48; ++slot) {  // unit 2 is better in sum
    importance[candidate(slot)] = 0.5f;
  }
  importance[candidate(4)] = 100;  // before the first unit: always kept, no matter here
  EXPECT_EQ(kept_units(input_of(importance, 1, 0.0)), (std::vector<int>{2}));
  EXPECT_EQ(kept_units(input_of(importance, 2, 0.0)), (std::vector<int>{1, 2}));
  // Units 3 and 4 tie: the lower stays.
  EXPECT_EQ(kept_units(input_of(importance, 3, 0.0)), (std::vector<int>{1, 2, 3}));
}

TEST(BlockSelect, ARestOfTheBudgetBelowABlockIsLeftOver) {
  const std::vector<float> importance(kNumCandidates, 1.0f);
  BlockSelector selector;
  SelectionInput input = input_of(importance, 1, 0.0);
  for (int extra = 0; extra < kBlock; ++extra) {
    input.budget_tokens = 36 + extra;
    EXPECT_EQ(selector.select(input).size(), 36U);
  }
  input.budget_tokens = 36 + kBlock;
  EXPECT_EQ(selector.select(input).size(), 52U);
}

TEST(BlockSelect, RepresentativesGoByWhichTokensOfTheBlockAreGood) {
  // 64 tokens in units, 32 bits: units 1 and 3 have their first halves, 2 and 4 their last ones, the odd
  // units weigh more.
  std::vector<float> importance(kNumCandidates, 0.0f);
  for (int offset = 0; offset < 8; ++offset) {
    importance[candidate(16 + offset)] = 4;
    importance[candidate(48 + offset)] = 3;
    importance[candidate(32 + 8 + offset)] = 1;
    importance[candidate(64 + 8 + offset)] = 2;
  }
  // I = 1: unit 1. Evicted 2 3 4 with bits last, first, last; mean anchor: last half. Order 2 4 | 3.
  SelectionInput input = input_of(importance, 2, 0.5);
  EXPECT_EQ(kept_units(input), (std::vector<int>{1, 2}));
  input.pick = RepresentativePick::kBest;
  EXPECT_EQ(kept_units(input), (std::vector<int>{1, 3}));
  // I = 1, R = 2: groups {2} {4 3}.
  input = input_of(importance, 3, 0.7);
  EXPECT_EQ(kept_units(input), (std::vector<int>{1, 2, 4}));
}

TEST(BlockSelect, ShareOneHasOnlyRepresentatives) {
  std::vector<float> importance(kNumCandidates, 0.0f);
  for (int slot = 64; slot < 80; ++slot) importance[candidate(slot)] = 9;  // unit 4 alone matters
  SelectionInput input = input_of(importance, 1, 1.0);
  input.anchor = AnchorKind::kZeros;
  // The half of the bits that is left over goes to unit 1 by ties; 2 and 3 are at 0, and 2 comes first.
  EXPECT_EQ(kept_units(input), (std::vector<int>{2}));
  input.pick = RepresentativePick::kBest;
  EXPECT_EQ(kept_units(input), (std::vector<int>{4}));
}

TEST(BlockSelect, EverySizeKeepsWhatTheCountsSay) {
  std::mt19937 generator(11);
  BlockSelector selector;
  for (int round = 0; round < 500; ++round) {
    SelectionInput input;
    input.num_sink_tokens = static_cast<int>(generator() % 40);
    input.window_tokens = 1 + static_cast<int>(generator() % 40);
    input.budget_tokens =
        input.num_sink_tokens + input.window_tokens + 46 + static_cast<int>(generator() % 60);
    input.num_tokens = input.budget_tokens + 1 + static_cast<int>(generator() % 100);
    const int num_candidates = input.num_tokens - input.num_sink_tokens - input.window_tokens;
    std::vector<float> importance(static_cast<std::size_t>(num_candidates));
    for (float& value : importance) value = static_cast<float>(generator() % 3);
    input.importance = importance;
    input.representative_share = static_cast<double>(generator() % 11) / 10.0;
    input.anchor = static_cast<AnchorKind>(round % 5);
    const std::span<const int> slots = selector.select(input);
    const int num_kept = static_cast<int>(slots.size());
    ASSERT_LE(num_kept, input.budget_tokens);
    ASSERT_GT(num_kept, input.budget_tokens - kBlock);
    ASSERT_EQ((input.num_tokens - num_kept) % kBlock, 0);
    for (std::size_t i = 1; i < slots.size(); ++i) ASSERT_LT(slots[i - 1], slots[i]);
    const auto num_sinks = static_cast<std::size_t>(input.num_sink_tokens);
    if (num_sinks > 0) {
      ASSERT_EQ(slots[num_sinks - 1], input.num_sink_tokens - 1);
    }
    ASSERT_EQ(slots[slots.size() - static_cast<std::size_t>(input.window_tokens)],
              input.num_tokens - input.window_tokens);
  }
}

TEST(BlockSelect, WarmSelectionAllocatesNothing) {
  std::mt19937 generator(2);
  std::vector<float> importance(500);
  for (float& value : importance) value = static_cast<float>(generator() % 1000);
  SelectionInput input = {.importance = importance,
                          .num_tokens = 508,
                          .budget_tokens = 120,
                          .num_sink_tokens = 4,
                          .window_tokens = 4,
                          .representative_share = 0.25};
  BlockSelector selector;
  selector.select(input);
  const int before = num_allocations();
  for (const double share : {0.25, 0.0, 1.0}) {
    input.representative_share = share;
    selector.select(input);
  }
  EXPECT_EQ(num_allocations() - before, 0);
}

}  // namespace
}  // namespace kvcrush
