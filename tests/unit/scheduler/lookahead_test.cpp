#include "engine/scheduler/lookahead.h"

#include <gtest/gtest.h>

namespace kvcrush {
namespace {

TEST(Lookahead, BranchesBeginWithTheLikeliestTokensAndGoOnWithTheLikeliest) {
  Lookahead lookahead;
  lookahead.shape = {.branches = 3, .tokens = 2};
  lookahead.choose_first(std::vector<float>{0.5F, 3.0F, -1.0F, 3.0F, 2.0F});
  EXPECT_EQ(lookahead.at(0, 0), 1);  // of two equal ones the lower id comes first
  EXPECT_EQ(lookahead.at(1, 0), 3);
  EXPECT_EQ(lookahead.at(2, 0), 4);
  lookahead.choose(0, 1, std::vector<float>{0.0F, 1.0F, 9.0F, 9.0F, 1.0F});
  lookahead.choose(1, 1, std::vector<float>{7.0F, 1.0F, 0.0F, 0.0F, 1.0F});
  lookahead.choose(2, 1, std::vector<float>{0.0F, 0.0F, 0.0F, 0.0F, 1.0F});
  EXPECT_EQ(lookahead.at(0, 1), 2);
  EXPECT_EQ(lookahead.continuation_of(1), std::vector<TokenId>{2});
  EXPECT_EQ(lookahead.continuation_of(3), std::vector<TokenId>{0});
  EXPECT_TRUE(lookahead.continuation_of(0).empty());
  const Lookahead part = lookahead.part({.branches = 2, .tokens = 1});
  EXPECT_TRUE(part.continuation_of(1).empty());
  EXPECT_EQ(part.shape.total(), 2);
}

TEST(Lookahead, StopsWhereTheContextEnds) {
  CompressionParams params;
  params.lookahead_tokens = 8;
  params.lookahead_branches = 2;
  EXPECT_EQ(lookahead_of(params, 100).total(), 16);
  EXPECT_EQ(lookahead_of(params, 3).total(), 6);
  EXPECT_EQ(lookahead_of(params, 0).total(), 0);
  EXPECT_EQ(lookahead_of(params, -5).branches, 0);
  params.lookahead_tokens = 0;
  EXPECT_EQ(lookahead_of(params, 100).branches, 0);
}

}  // namespace
}  // namespace kvcrush
