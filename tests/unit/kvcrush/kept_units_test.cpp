#include "engine/kvcrush/kept_units.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace kvcrush {
namespace {

std::vector<int> kept(const KeptUnits& units) {
  std::vector<int> indices;
  for (std::size_t i = 0; i < units.flags().size(); ++i) {
    if (units.flags()[i] != 0) indices.push_back(static_cast<int>(i));
  }
  return indices;
}

// One bit per unit.
SignatureTable bits_of(const std::vector<float>& bits, int num_set) {
  SignatureTable table;
  table.reset(1, static_cast<int>(bits.size()));
  TopSelection top;
  const TopCut cut = top.find(bits, num_set);
  table.set_bit(0, top.keys(), cut);
  return table;
}

TEST(ShareOut, FloorsTheRepresentatives) {
  EXPECT_EQ(share_out(10, 0.0).num_important, 10);
  EXPECT_EQ(share_out(10, 0.0).num_representatives, 0);
  EXPECT_EQ(share_out(10, 0.29).num_representatives, 2);
  EXPECT_EQ(share_out(10, 0.29).num_important, 8);
  EXPECT_EQ(share_out(10, 1.0).num_important, 0);
  EXPECT_EQ(share_out(1, 0.99).num_representatives, 0);
}

TEST(KeptUnits, LowerUnitsWinTies) {
  KeptUnits units;
  units.keep_most_important(std::vector<float>{1, 2, 1, 2, 1}, 3);
  EXPECT_EQ(kept(units), (std::vector<int>{0, 1, 3}));
}

TEST(KeptUnits, OneRepresentativePerGroupInOrderOfDistance) {
  const std::vector<float> importance = {5, 1, 2, 3, 4};
  KeptUnits units;
  units.keep_most_important(importance, 1);
  // Distance 0: units 1 and 3; distance 1: 2 and 4. Groups {1 3} {2 4}.
  const SignatureTable table = bits_of({0, 0, 1, 0, 1}, 2);
  units.keep_representatives(importance, table, {AnchorKind::kZeros}, RepresentativePick::kFirst, 2);
  EXPECT_EQ(kept(units), (std::vector<int>{0, 1, 2}));
  units.keep_most_important(importance, 1);
  units.keep_representatives(importance, table, {AnchorKind::kZeros}, RepresentativePick::kBest, 2);
  EXPECT_EQ(kept(units), (std::vector<int>{0, 3, 4}));
}

TEST(KeptUnits, AsManyGroupsAsEvictedKeepsAll) {
  const std::vector<float> importance = {3, 1, 2};
  KeptUnits units;
  units.keep_most_important(importance, 1);
  units.keep_representatives(importance, bits_of({0, 0, 1}, 1), {AnchorKind::kOnes},
                             RepresentativePick::kFirst, 2);
  EXPECT_EQ(kept(units), (std::vector<int>{0, 1, 2}));
}

TEST(KeptUnits, ANewRowForgetsTheLast) {
  KeptUnits units;
  units.keep_most_important(std::vector<float>{9, 9, 9, 9}, 4);
  units.keep_most_important(std::vector<float>{1, 2}, 1);
  EXPECT_EQ(kept(units), (std::vector<int>{1}));
}

}  // namespace
}  // namespace kvcrush
