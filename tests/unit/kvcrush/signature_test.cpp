#include "engine/kvcrush/signature.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "engine/core/splitmix64.h"

namespace kvcrush {
namespace {

// Heads that want the token, one row of 0/1 per head.
SignatureTable table_of(const std::vector<std::vector<float>>& wanted) {
  SignatureTable table;
  table.reset(static_cast<int>(wanted.size()), static_cast<int>(wanted.front().size()));
  TopSelection top;
  for (int bit = 0; bit < table.num_bits(); ++bit) {
    const auto& row = wanted[static_cast<std::size_t>(bit)];
    int count = 0;
    for (const float value : row) count += value > 0 ? 1 : 0;
    const TopCut cut = top.find(row, count);
    table.set_bit(bit, top.keys(), cut);
  }
  return table;
}

std::vector<std::uint64_t> anchor_of(const AnchorSpec& spec, const SignatureTable& table,
                                     const std::vector<int>& evicted = {}) {
  std::vector<std::uint64_t> anchor;
  make_anchor(spec, table, evicted, anchor);
  return anchor;
}

TEST(Splitmix64, MatchesPublishedFirstOutputs) {
  EXPECT_EQ(splitmix64(0), 0xE220A8397B1DCDAFU);  // the generator's first two outputs from state 0
  EXPECT_EQ(splitmix64(0x9E3779B97F4A7C15U), 0x6E789E6AA1B965F4U);
}

TEST(Signature, PacksHeadZeroIntoBitZeroAndSpillsIntoASecondPlane) {
  std::vector<std::vector<float>> wanted(66, {0, 0});
  wanted[0] = {1, 0};
  wanted[63] = {0, 1};
  wanted[65] = {1, 1};
  const SignatureTable table = table_of(wanted);
  ASSERT_EQ(table.num_planes(), 2);
  EXPECT_EQ(table.plane(0)[0], 1U);
  EXPECT_EQ(table.plane(0)[1], std::uint64_t{1} << 63);
  EXPECT_EQ(table.plane(1)[0], 2U);
  EXPECT_EQ(table.plane(1)[1], 2U);
}

TEST(Signature, ResetForgetsBits) {
  SignatureTable table = table_of({{1, 1}, {1, 1}});
  table.reset(1, 2);
  EXPECT_EQ(table.plane(0)[0], 0U);
  EXPECT_EQ(table.plane(0)[1], 0U);
}

TEST(Signature, HeadsThatShareABitAddTheirs) {
  SignatureTable table;
  table.reset(1, 3);
  TopSelection top;
  for (const std::vector<float>& row : {std::vector<float>{9, 0, 0}, std::vector<float>{0, 0, 9}}) {
    const TopCut cut = top.find(row, 1);
    table.set_bit(0, top.keys(), cut);
  }
  EXPECT_EQ(table.plane(0)[0], 1U);
  EXPECT_EQ(table.plane(0)[1], 0U);
  EXPECT_EQ(table.plane(0)[2], 1U);
}

TEST(Signature, MembersOfAUnitAreItsBits) {
  SignatureTable table;
  table.reset(3, 2);
  TopSelection top;
  const TopCut cut = top.find(std::vector<float>{5, 0, 4, 0, 0, 3}, 3);
  table.set_members(top.keys(), cut);
  EXPECT_EQ(table.plane(0)[0], 0b101U);
  EXPECT_EQ(table.plane(0)[1], 0b100U);
}

TEST(Anchor, FixedPatternsStopAtTheLastHead) {
  const SignatureTable table = table_of(std::vector<std::vector<float>>(66, {0}));
  EXPECT_EQ(anchor_of({AnchorKind::kZeros}, table), (std::vector<std::uint64_t>{0, 0}));
  EXPECT_EQ(anchor_of({AnchorKind::kOnes}, table), (std::vector<std::uint64_t>{~std::uint64_t{0}, 3}));
  EXPECT_EQ(anchor_of({AnchorKind::kAlternating}, table),
            (std::vector<std::uint64_t>{0xAAAAAAAAAAAAAAAAU, 2}));
}

TEST(Anchor, GoesByTheHeadOfTheLayer) {
  const SignatureTable group = table_of(std::vector<std::vector<float>>(3, {0}));
  EXPECT_EQ(anchor_of({AnchorKind::kAlternating, 3}, group), (std::vector<std::uint64_t>{0b101}));
  const SignatureTable layer = table_of(std::vector<std::vector<float>>(9, {0}));
  const auto whole = anchor_of({AnchorKind::kRandom, 0, 42, 7}, layer);
  const auto part = anchor_of({AnchorKind::kRandom, 3, 42, 7}, group);
  EXPECT_EQ(part[0], (whole[0] >> 3) & 7U);
  EXPECT_EQ(whole[0] & 1U, splitmix64(42 + (std::uint64_t{7} << 32)) & 1U);
}

TEST(Anchor, RandomDependsOnSeedAndLayer) {
  const SignatureTable table = table_of(std::vector<std::vector<float>>(64, {0}));
  EXPECT_NE(anchor_of({AnchorKind::kRandom, 0, 1, 0}, table),
            anchor_of({AnchorKind::kRandom, 0, 2, 0}, table));
  EXPECT_NE(anchor_of({AnchorKind::kRandom, 0, 1, 0}, table),
            anchor_of({AnchorKind::kRandom, 0, 1, 1}, table));
}

TEST(Anchor, MeanNeedsMoreThanHalfOfTheEvicted) {
  const SignatureTable table = table_of({{1, 1, 0, 0, 1}, {1, 1, 1, 0, 0}, {0, 0, 0, 1, 1}});
  // Of tokens 0..3 head 0 is set in exactly half, head 1 in three, head 2 in one; token 4 is not evicted.
  EXPECT_EQ(anchor_of({AnchorKind::kMean}, table, {0, 1, 2, 3}), (std::vector<std::uint64_t>{0b010}));
}

TEST(Hamming, CountsDifferingHeadsOverAllPlanes) {
  std::vector<std::vector<float>> wanted(70, {0, 0, 0});
  wanted[1] = {1, 0, 1};
  wanted[69] = {1, 0, 0};
  const SignatureTable table = table_of(wanted);
  std::vector<int> distances;
  hamming_distances(table, std::vector<std::uint64_t>{0b11, 0}, std::vector<int>{0, 1, 2}, distances);
  EXPECT_EQ(distances, (std::vector<int>{2, 2, 1}));
}

}  // namespace
}  // namespace kvcrush
