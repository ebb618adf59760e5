#include "engine/kvcrush/prune_plan.h"

#include <gtest/gtest.h>

#include <span>
#include <vector>

#include "tests/tools/allocation_counter.h"

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

LayerObservation observation_of(const std::vector<float>& sums, int num_heads, int num_kv_heads,
                                int num_tokens) {
  return {.num_heads = num_heads,
          .num_kv_heads = num_kv_heads,
          .num_tokens = num_tokens,
          .probability_sums = sums,
          .num_queries = 2};
}

LayerPrunePlan plan_of(const CompressionParams& params, const LayerObservation& observation) {
  PruneScratch scratch;
  LayerPrunePlan plan;
  plan_layer(params, *params.budget_tokens, 0, observation, scratch, plan);
  return plan;
}

LayerPrunePlan plan_of(const CompressionParams& params, const std::vector<float>& sums, int num_heads,
                       int num_kv_heads, int num_tokens) {
  return plan_of(params, observation_of(sums, num_heads, num_kv_heads, num_tokens));
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

TEST(PlanLayer, LayerWeightLetsHeadsSpeakForEachOther) {
  CompressionParams params = params_of(TokenSets::kPerKvHead);
  // kSums with head 1 louder: by two queries its slots 3 and 4 have 2 and the means are 0.5 0.5 1 1.
  const std::vector<float> sums = {9, 2, 2, 0, 0, 9, 9, 0, 0, 4, 4, 9};
  params.layer_weight = 4.0;
  EXPECT_EQ(plan_of(params, sums, 2, 2, 6).kept_slots, (std::vector<int>{0, 3, 4, 5, 0, 3, 4, 5}));
  params.layer_weight = 0.5;
  EXPECT_EQ(plan_of(params, sums, 2, 2, 6).kept_slots, (std::vector<int>{0, 1, 2, 5, 0, 3, 4, 5}));
}

TEST(PlanLayer, LayerWeightWorksOnBlocks) {
  CompressionParams params = params_of(TokenSets::kPerKvHead);
  params.granularity = Granularity::kBlock;
  params.budget_tokens = 48;
  std::vector<float> sums(2 * 100, 0.0f);
  sums[40] = 1;        // head 0: unit 2
  sums[100 + 90] = 3;  // head 1: unit 5
  EXPECT_EQ(plan_of(params, sums, 2, 2, 100).kept_slots[16], 32);
  params.layer_weight = 1.5;  // unit 2 has 0.5 + 0.375, unit 5 has 1.125
  EXPECT_EQ(plan_of(params, sums, 2, 2, 100).kept_slots[16], 80);
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
  plan_layer(params_of(TokenSets::kPerKvHead), 4, 0, observation_of(kSums, 2, 2, 6), scratch, plan);
  plan_layer(params_of(TokenSets::kPerLayer), 4, 1, observation_of(kSums, 2, 2, 6), scratch, plan);
  EXPECT_EQ(plan.kept_slots, (std::vector<int>{0, 3, 4, 5}));
}

TEST(PlanLayer, StreamingKeepsTheNewestAndReadsNothing) {
  CompressionParams params = params_of(TokenSets::kPerKvHead);
  params.policy = BasePolicy::kStreaming;
  EXPECT_EQ(plan_of(params, {.num_heads = 4, .num_kv_heads = 2, .num_tokens = 9}).kept_slots,
            (std::vector<int>{0, 6, 7, 8, 0, 6, 7, 8}));
}

TEST(PlanLayer, KeyPoliciesChoosePerKvHead) {
  CompressionParams params = params_of(TokenSets::kPerKvHead);
  params.policy = BasePolicy::kKNorm;
  const std::vector<float> keys = {0, -1, -1, -9, -9, 0, 0, -9, -9, -1, -1, 0};
  EXPECT_EQ(
      plan_of(params, {.num_heads = 6, .num_kv_heads = 2, .num_tokens = 6, .key_scores = keys}).kept_slots,
      (std::vector<int>{0, 1, 2, 5, 0, 3, 4, 5}));
}

TEST(PlanLayer, ValueNormsDecideBetweenEqualAttention) {
  CompressionParams params = params_of(TokenSets::kPerLayer);
  params.value_norm = true;
  const std::vector<float> sums(6, 1.0f);
  const std::vector<float> norms = {9, 1, 5, 2, 4, 9};
  LayerObservation observation = observation_of(sums, 1, 1, 6);
  observation.value_norms = norms;
  EXPECT_EQ(plan_of(params, observation).kept_slots, (std::vector<int>{0, 2, 4, 5}));
}

TEST(PlanLayer, KvSignaturesWorkWithSetsPerKvHead) {
  CompressionParams params = params_of(TokenSets::kPerKvHead);
  params.signature_heads = SignatureHeads::kKv;
  params.representative_share = 1.0;
  params.anchor = AnchorKind::kAlternating;
  // Both KV heads have one bit: set on slots 1 2 3 of candidates 1 2 3 4. Head 0's anchor is 0, head 1's
  // is 1.
  const std::vector<float> sums = {0, 9, 9, 0, 0, 0, 0, 9, 0, 9, 0, 0, 0, 9, 9, 0, 0, 0, 0, 9, 0, 9, 0, 0};
  EXPECT_EQ(plan_of(params, sums, 4, 2, 6).kept_slots, (std::vector<int>{0, 2, 4, 5, 0, 1, 3, 5}));
}

TEST(PlanLayer, BlocksKeepEquallyManyInEveryHead) {
  CompressionParams params = params_of(TokenSets::kPerKvHead);
  params.granularity = Granularity::kBlock;
  params.budget_tokens = 60;
  std::vector<float> sums(2 * 100, 0.0f);
  sums[40] = 1;        // head 0: unit 2
  sums[100 + 90] = 1;  // head 1: unit 5
  const LayerPrunePlan plan = plan_of(params, sums, 2, 2, 100);
  EXPECT_EQ(plan.num_tokens_before, 100);
  // Five units in slots 16..95, 20 slots outside; two fit into 60: unit 1 by a tie beside the wanted one.
  ASSERT_EQ(plan.num_tokens_after, 52);
  ASSERT_EQ(plan.kept_slots.size(), 2U * 52U);
  EXPECT_EQ(plan.kept_slots[16], 16);
  EXPECT_EQ(plan.kept_slots[32], 32);
  EXPECT_EQ(plan.kept_slots[52 + 16], 16);
  EXPECT_EQ(plan.kept_slots[52 + 32], 80);
  EXPECT_EQ(plan.kept_slots[51], 99);
}

TEST(PlanLayer, WarmPlanAllocatesNothingInAnyMode) {
  constexpr int kNumTokens = 300;
  const std::vector<float> rows(6 * kNumTokens, 0.5f);
  LayerObservation observation = observation_of(rows, 6, 3, kNumTokens);
  observation.key_scores = std::span<const float>(rows).first(3 * kNumTokens);
  observation.value_norms = rows;
  CompressionParams params = preset_params(Preset::kPaper, BasePolicy::kSnapKv);
  params.budget_tokens = 150;
  PruneScratch scratch;
  LayerPrunePlan plan;
  int before = 0;
  for (const bool is_warm : {false, true}) {
    if (is_warm) before = num_allocations();
    for (int mode = 0; mode < 24; ++mode) {
      params.policy = static_cast<BasePolicy>(mode % 6);
      params.pool_kernel_tokens = reads_attention(params.policy) ? 15 : 1;
      params.pool_shape = params.policy == BasePolicy::kH2o ? PoolShape::kGaussian : PoolShape::kMax;
      params.value_norm = reads_attention(params.policy);
      params.granularity = mode / 6 % 2 == 0 ? Granularity::kToken : Granularity::kBlock;
      params.token_sets = mode / 12 == 0 ? TokenSets::kPerLayer : TokenSets::kPerKvHead;
      params.layer_weight = mode / 12;
      plan_layer(params, 150, 0, observation, scratch, plan);
    }
  }
  EXPECT_EQ(num_allocations() - before, 0);
}

}  // namespace
}  // namespace kvcrush
