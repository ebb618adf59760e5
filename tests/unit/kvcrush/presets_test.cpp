#include <gtest/gtest.h>

#include <string>

#include "engine/kvcrush/params.h"

namespace kvcrush {
namespace {

constexpr BasePolicy kPolicies[] = {BasePolicy::kSnapKv,    BasePolicy::kH2o,   BasePolicy::kTova,
                                    BasePolicy::kStreaming, BasePolicy::kKNorm, BasePolicy::kKeyDiff};

TEST(Presets, AreValidForEveryPolicyOnceABudgetIsThere) {
  for (const Preset preset : {Preset::kDefault, Preset::kPaper}) {
    for (const BasePolicy policy : kPolicies) {
      CompressionParams params = preset_params(preset, policy);
      EXPECT_EQ(params.policy, policy);
      EXPECT_FALSE(params.budget_tokens.has_value() || params.budget_fraction.has_value());
      params.budget_fraction = 0.25;
      const Status status = validate(params);
      EXPECT_TRUE(status.ok()) << status.message();
    }
  }
}

TEST(Presets, PaperIsThePublishedRecipe) {
  for (const BasePolicy policy : kPolicies) {
    const CompressionParams params = preset_params(Preset::kPaper, policy);
    EXPECT_EQ(params.representative_share, 0.25);
    EXPECT_EQ(params.anchor, AnchorKind::kMean);
    EXPECT_EQ(params.pick, RepresentativePick::kFirst);
    EXPECT_EQ(params.token_sets, TokenSets::kPerLayer);
    EXPECT_EQ(params.layer_budgets, LayerBudgets::kUniform);
    EXPECT_EQ(params.signature_heads, SignatureHeads::kQuery);
    EXPECT_FALSE(params.value_norm);
    EXPECT_EQ(params.pool_kernel_tokens, policy == BasePolicy::kSnapKv ? 7 : 1);
    EXPECT_EQ(params.pool_shape, PoolShape::kMax);
    EXPECT_EQ(params.window_tokens, 32);
    EXPECT_EQ(params.observed_queries, 32);
    EXPECT_EQ(params.layer_weight, 0.0);
  }
}

TEST(Presets, DefaultTakesWhatThePolicyCanUse) {
  for (const BasePolicy policy : kPolicies) {
    const CompressionParams params = preset_params(Preset::kDefault, policy);
    EXPECT_EQ(params.value_norm, reads_attention(policy));
    EXPECT_EQ(params.layer_weight, reads_attention(policy) ? 1.0 : 0.0);
    EXPECT_EQ(params.pool_kernel_tokens, policy == BasePolicy::kSnapKv ? 21 : 1);
    EXPECT_EQ(params.pool_shape, policy == BasePolicy::kSnapKv ? PoolShape::kGaussian : PoolShape::kMax);
    EXPECT_EQ(params.token_sets,
              policy == BasePolicy::kStreaming ? TokenSets::kPerLayer : TokenSets::kPerKvHead);
    EXPECT_EQ(params.representative_share, 0.0);
  }
}

TEST(Presets, DefaultAsksTheNewestHalfOfTheWindowAndTwiceEightTokensAhead) {
  const CompressionParams params = preset_params(Preset::kDefault, BasePolicy::kSnapKv);
  EXPECT_EQ(params.window_tokens, 32);
  EXPECT_EQ(params.observed_queries, 16);
  EXPECT_EQ(params.lookahead_tokens, 8);
  EXPECT_EQ(params.lookahead_branches, 2);
  EXPECT_EQ(preset_params(Preset::kDefault, BasePolicy::kH2o).lookahead_tokens, 0);
  EXPECT_EQ(preset_params(Preset::kPaper, BasePolicy::kSnapKv).lookahead_tokens, 0);
}

TEST(Presets, AttentionIsReadByThreePolicies) {
  EXPECT_TRUE(reads_attention(BasePolicy::kSnapKv));
  EXPECT_TRUE(reads_attention(BasePolicy::kH2o));
  EXPECT_TRUE(reads_attention(BasePolicy::kTova));
  EXPECT_FALSE(reads_attention(BasePolicy::kStreaming));
  EXPECT_FALSE(reads_attention(BasePolicy::kKNorm));
  EXPECT_FALSE(reads_attention(BasePolicy::kKeyDiff));
}

TEST(Targets, EachGivesAValidPolicyInInt4) {
  for (const int target : {2, 4, 8, 16}) {
    const Result<CachePolicy> policy = policy_for_target(target);
    ASSERT_TRUE(policy.ok()) << target;
    EXPECT_EQ(policy.value().kv_dtype, KvDtype::kInt4);
    if (target == 2) continue;
    EXPECT_TRUE(validate(*policy.value().compression).ok());
    EXPECT_EQ(policy.value().compression->target_compression, target);
  }
}

TEST(Targets, OthersAreRefusedByName) {
  for (const int target : {-2, 0, 1, 3, 5, 32}) {
    const Status status = policy_for_target(target).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message(),
              "compression.target_compression is " + std::to_string(target) + ", allowed: 2, 4, 8, 16");
  }
}

}  // namespace
}  // namespace kvcrush
