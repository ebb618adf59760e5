#include "engine/kvcrush/prune_plan.h"

#include <gtest/gtest.h>

#include <vector>

namespace kvcrush {
namespace {

CompressionParams params_of(TokenSets token_sets) {
  CompressionParams params;
  params.budget_tokens = 4;
  params.num_sink_tokens = 1;
  params.window_tokens = 1;
  params.pool_kernel_tokens = 1;
  params.representative_share = 0.0;
  params.token_sets = token_sets;
  return params;
}

// Two query heads, six tokens: head 0 likes slots 1 and 2, head 1 slots 3 and 4 and more so.
const std::vector<float> kSums = {9, 2, 2, 0, 0, 9, 9, 0, 0, 3, 3, 9};

LayerPrunePlan plan_of(const CompressionParams& params, const std::vector<float>& sums, int num_heads,
                       int num_kv_heads, int num_tokens) {
  PruneScratch scratch;
  LayerPrunePlan plan;
  plan_layer(params, *params.budget_tokens, 0, sums, 2, num_heads, num_kv_heads, num_tokens, scratch, plan);
  return plan;
}

TEST(PlanLayer, OneSetForTheLayer) {
  const LayerPrunePlan plan = plan_of(params_of(TokenSets::kPerLayer), kSums, 2, 2, 6);
  EXPECT_EQ(plan.num_sets, 1);
  EXPECT_EQ(plan.num_tokens_before, 6);
  EXPECT_EQ(plan.num_tokens_after, 4);
  EXPECT_EQ(plan.kept_slots, (std::vector<int>{0, 3, 4, 5}));
}

TEST(PlanLayer, OneSetPerKvHead) {
  const LayerPrunePlan plan = plan_of(params_of(TokenSets::kPerKvHead), kSums, 2, 2, 6);
  EXPECT_EQ(plan.num_sets, 2);
  EXPECT_EQ(plan.kept_slots, (std::vector<int>{0, 1, 2, 5, 0, 3, 4, 5}));
}

TEST(PlanLayer, GroupedQueryHeadsVoteTogether) {
  const LayerPrunePlan plan = plan_of(params_of(TokenSets::kPerKvHead), kSums, 2, 1, 6);
  EXPECT_EQ(plan.num_sets, 1);
  EXPECT_EQ(plan.kept_slots, (std::vector<int>{0, 3, 4, 5}));
}

TEST(PlanLayer, WithinBudgetKeepsAllAndNeedsNoObservation) {
  const LayerPrunePlan plan = plan_of(params_of(TokenSets::kPerKvHead), {}, 2, 2, 3);
  EXPECT_EQ(plan.num_tokens_before, 3);
  EXPECT_EQ(plan.num_tokens_after, 3);
  EXPECT_EQ(plan.kept_slots, (std::vector<int>{0, 1, 2, 0, 1, 2}));
}

TEST(PlanLayer, PoolSpreadsAScoreOverItsNeighbours) {
  CompressionParams params = params_of(TokenSets::kPerLayer);
  const std::vector<float> sums = {0, 1, 0, 0, 0, 2, 0, 0};
  EXPECT_EQ(plan_of(params, sums, 1, 1, 8).kept_slots, (std::vector<int>{0, 1, 5, 7}));
  params.pool_kernel_tokens = 3;
  EXPECT_EQ(plan_of(params, sums, 1, 1, 8).kept_slots, (std::vector<int>{0, 4, 5, 7}));
}

TEST(PlanLayer, ReusedPlanForgetsTheLayerBefore) {
  PruneScratch scratch;
  LayerPrunePlan plan;
  plan_layer(params_of(TokenSets::kPerKvHead), 4, 0, kSums, 2, 2, 2, 6, scratch, plan);
  plan_layer(params_of(TokenSets::kPerLayer), 4, 1, kSums, 2, 2, 2, 6, scratch, plan);
  EXPECT_EQ(plan.kept_slots, (std::vector<int>{0, 3, 4, 5}));
}

}  // namespace
}  // namespace kvcrush
