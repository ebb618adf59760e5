#include "engine/kvcrush/params.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

namespace kvcrush {
namespace {

CompressionParams valid_params() {
  CompressionParams params;
  params.budget_tokens = 256;
  return params;
}

void expect_refused(const std::function<void(CompressionParams&)>& change, const std::string& field,
                    const std::string& allowed) {
  CompressionParams params = valid_params();
  change(params);
  const Status status = validate(params);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << field;
  EXPECT_NE(status.message().find("compression." + field), std::string::npos) << status.message();
  EXPECT_NE(status.message().find(allowed), std::string::npos) << status.message();
}

void expect_accepted(const std::function<void(CompressionParams&)>& change) {
  CompressionParams params = valid_params();
  change(params);
  const Status status = validate(params);
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST(CompressionParams, AcceptsTheEndsOfEveryRange) {
  expect_accepted([](auto&) {});
  expect_accepted([](auto& p) {
    p.num_sink_tokens = 0, p.window_tokens = 1, p.observed_queries = 1, p.budget_tokens = 2;
  });
  expect_accepted([](auto& p) { p.window_tokens = p.observed_queries = 220; });
  expect_accepted([](auto& p) { p.token_sets = TokenSets::kPerKvHead, p.layer_weight = 4.0; });
  expect_accepted([](auto& p) { p.num_sink_tokens = 1024, p.window_tokens = 256, p.budget_tokens = 1281; });
  expect_accepted([](auto& p) { p.pool_kernel_tokens = 1, p.representative_share = 0.0; });
  expect_accepted([](auto& p) { p.pool_kernel_tokens = 63, p.representative_share = 1.0; });
  expect_accepted([](auto& p) { p.budget_tokens.reset(), p.budget_fraction = 1.0; });
  expect_accepted([](auto& p) { p.budget_tokens.reset(), p.budget_fraction = 1e-9; });
}

TEST(CompressionParams, NamesFieldValueAndRange) {
  expect_refused([](auto& p) { p.num_sink_tokens = -1; }, "num_sink_tokens is -1", "[0, 1024]");
  expect_refused([](auto& p) { p.num_sink_tokens = 1025; }, "num_sink_tokens is 1025", "[0, 1024]");
  expect_refused([](auto& p) { p.window_tokens = 0; }, "window_tokens is 0", "[1, 256]");
  expect_refused([](auto& p) { p.window_tokens = 257; }, "window_tokens is 257", "[1, 256]");
  expect_refused([](auto& p) { p.pool_kernel_tokens = 8; }, "pool_kernel_tokens is 8", "odd, [1, 63]");
  expect_refused([](auto& p) { p.pool_kernel_tokens = -1; }, "pool_kernel_tokens is -1", "odd, [1, 63]");
  expect_refused([](auto& p) { p.pool_kernel_tokens = 65; }, "pool_kernel_tokens is 65", "odd, [1, 63]");
  expect_refused([](auto& p) { p.representative_share = 1.5; }, "representative_share is 1.5, ", "[0, 1]");
  expect_refused([](auto& p) { p.representative_share = -1.0; }, "representative_share is -1, ", "[0, 1]");
  expect_refused([](auto& p) { p.representative_share = -0.1; }, "representative_share is -0.1, ", "[0, 1]");
  expect_accepted([](auto& p) { p.lookahead_tokens = 64; });
  expect_refused([](auto& p) { p.lookahead_tokens = 65; }, "lookahead_tokens is 65", "[0, 64]");
  expect_refused([](auto& p) { p.lookahead_tokens = -1; }, "lookahead_tokens is -1", "[0, 64]");
  expect_refused([](auto& p) { p.observed_queries = 0; }, "observed_queries is 0",
                 "[1, 32] with window_tokens 32");
  expect_refused([](auto& p) { p.window_tokens = 20; }, "observed_queries is 32",
                 "[1, 20] with window_tokens");
  expect_refused([](auto& p) { p.layer_weight = -0.5; }, "layer_weight is -0.5, ", "[0, 4]");
  expect_refused([](auto& p) { p.layer_weight = 4.5; }, "layer_weight is 4.5, ", "[0, 4]");
  expect_refused([](auto& p) { p.budget_tokens.reset(), p.budget_fraction = 0.0; }, "budget_fraction is 0, ",
                 "(0, 1]");
  expect_refused([](auto& p) { p.budget_tokens.reset(), p.budget_fraction = 1.01; },
                 "budget_fraction is 1.01, ", "(0, 1]");
}

TEST(CompressionParams, RefusesNan) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  expect_refused([=](auto& p) { p.layer_weight = nan; }, "layer_weight is nan", "[0, 4]");
  expect_refused([=](auto& p) { p.representative_share = nan; }, "representative_share is nan", "[0, 1]");
  expect_refused([=](auto& p) { p.budget_tokens.reset(), p.budget_fraction = nan; }, "budget_fraction is nan",
                 "(0, 1]");
}

TEST(CompressionParams, WantsExactlyOneBudget) {
  expect_refused([](auto& p) { p.budget_fraction = 0.5; }, "budget: both", "exactly one");
  expect_refused([](auto& p) { p.budget_tokens.reset(); }, "budget: none", "exactly one");
}

TEST(CompressionParams, BudgetTokensLeaveSomethingToChoose) {
  expect_refused([](auto& p) { p.budget_tokens = 36; }, "budget_tokens is 36",
                 ">= 37 = num_sink_tokens + window_tokens + 1 = 4 + 32 + 1");
  expect_refused([](auto& p) { p.budget_tokens = -5; }, "budget_tokens is -5", ">= 37");
  expect_accepted([](auto& p) { p.budget_tokens = 37; });
}

TEST(CompressionParams, BlockBudgetsHoldABlockWhereverItLies) {
  const auto with_budget = [](int tokens) {
    return [=](CompressionParams& p) { p.granularity = Granularity::kBlock, p.budget_tokens = tokens; };
  };
  expect_refused(with_budget(81), "budget_tokens is 81",
                 ">= 82 = num_sink_tokens + window_tokens + one block");
  expect_refused(with_budget(37), "budget_tokens is 37", "= 4 + 32 + 46");
  expect_accepted(with_budget(82));
}

TEST(CompressionParams, WhatNeedsAttentionNeedsAPolicyThatReadsIt) {
  for (const BasePolicy policy : {BasePolicy::kStreaming, BasePolicy::kKNorm, BasePolicy::kKeyDiff}) {
    expect_refused([=](auto& p) { p.policy = policy; }, "pool_kernel_tokens is 7", "1 with policy");
    expect_refused([=](auto& p) { p.policy = policy, p.pool_kernel_tokens = 1, p.value_norm = true; },
                   "value_norm is true", "which reads no attention");
    expect_refused(
        [=](auto& p) { p.policy = policy, p.pool_kernel_tokens = 1, p.pool_shape = PoolShape::kGaussian; },
        "pool_shape is gaussian", "which reads no attention");
    expect_accepted([=](auto& p) { p.policy = policy, p.pool_kernel_tokens = 1; });
  }
  expect_refused([](auto& p) { p.policy = BasePolicy::kKNorm; }, "pool_kernel_tokens", "policy knorm,");
  for (const BasePolicy policy : {BasePolicy::kSnapKv, BasePolicy::kH2o, BasePolicy::kTova}) {
    expect_accepted([=](auto& p) { p.policy = policy, p.pool_kernel_tokens = 15, p.value_norm = true; });
  }
}

TEST(CompressionParams, OnlySnapKvCountsItsQueries) {
  for (const BasePolicy policy : {BasePolicy::kH2o, BasePolicy::kTova}) {
    expect_accepted([=](auto& p) { p.policy = policy, p.window_tokens = 8; });
  }
}

TEST(CompressionParams, AGaussianNeedsAPoolAndALayerWeightNeedsSets) {
  expect_refused([](auto& p) { p.pool_kernel_tokens = 1, p.pool_shape = PoolShape::kGaussian; },
                 "pool_shape is gaussian", "max with pool_kernel_tokens 1");
  expect_accepted([](auto& p) { p.pool_kernel_tokens = 3, p.pool_shape = PoolShape::kGaussian; });
  expect_refused([](auto& p) { p.layer_weight = 1.0; }, "layer_weight is 1", "0 with token_sets per_layer");
}

TEST(CompressionParams, ResolvesBudgets) {
  CompressionParams params = valid_params();
  EXPECT_EQ(resolve_budget_tokens(params, 10), 256);
  params.budget_tokens.reset();
  params.budget_fraction = 0.25;
  EXPECT_EQ(resolve_budget_tokens(params, 1000), 250);
  EXPECT_EQ(resolve_budget_tokens(params, 1001), 251);
  EXPECT_EQ(resolve_budget_tokens(params, 10), 37);  // 4 sinks + 32 window + 1
  params.budget_fraction = 1.0;
  EXPECT_EQ(resolve_budget_tokens(params, 8192), 8192);
  params.granularity = Granularity::kBlock;
  EXPECT_EQ(resolve_budget_tokens(params, 10), 82);
  EXPECT_EQ(min_budget_tokens(params), 82);
}

std::vector<int> layer_budgets(const CompressionParams& params, int budget_tokens, int num_layers) {
  std::vector<int> budgets;
  for (int layer = 0; layer < num_layers; ++layer) {
    budgets.push_back(layer_budget_tokens(params, budget_tokens, layer, num_layers));
  }
  return budgets;
}

TEST(LayerBudgets, UniformIsTheMeanEverywhere) {
  EXPECT_EQ(layer_budgets(valid_params(), 256, 3), (std::vector<int>{256, 256, 256}));
}

TEST(LayerBudgets, PyramidFallsFromThreeHalvesOfTheFreePartToHalfOfIt) {
  CompressionParams params = valid_params();
  params.layer_budgets = LayerBudgets::kPyramid;
  EXPECT_EQ(layer_budgets(params, 136, 5), (std::vector<int>{186, 161, 136, 111, 86}));
  EXPECT_EQ(layer_budgets(params, 136, 1), (std::vector<int>{136}));
  EXPECT_EQ(layer_budgets(params, 136, 2), (std::vector<int>{186, 86}));
  // 6 free: 9, 7, 5, 3 with no rounding where the binary fraction 1/3 would have some.
  EXPECT_EQ(layer_budgets(params, 42, 4), (std::vector<int>{45, 43, 41, 39}));
}

TEST(Validate, BlockSignaturesHaveNoBitsOfHeads) {
  CompressionParams params = valid_params();
  params.signature_heads = SignatureHeads::kKv;
  EXPECT_TRUE(validate(params).ok());
  params.granularity = Granularity::kBlock;
  params.budget_tokens = 200;
  EXPECT_NE(validate(params).message().find("signature_heads is kv"), std::string::npos);
}

TEST(LayerBudgets, RisingIsThePyramidTurnedAround) {
  CompressionParams params = valid_params();
  params.layer_budgets = LayerBudgets::kRising;
  EXPECT_EQ(layer_budgets(params, 136, 5), (std::vector<int>{86, 111, 136, 161, 186}));
  EXPECT_EQ(layer_budgets(params, 136, 1), (std::vector<int>{136}));
}

TEST(Validate, ExactlyOneKindOfBudget) {
  CompressionParams params = valid_params();
  params.budget_tokens.reset();
  params.budget_fraction.reset();
  EXPECT_FALSE(validate(params).ok());
  params.target_compression = 8;
  EXPECT_TRUE(validate(params).ok());
  params.budget_fraction = 0.5;
  EXPECT_FALSE(validate(params).ok());
  params.budget_fraction.reset();
  params.target_compression = 1;
  EXPECT_NE(validate(params).message().find("target_compression is 1"), std::string::npos);
}

TEST(LayerBudgets, PyramidNeverGoesBelowTheLeastBudget) {
  CompressionParams params = valid_params();
  params.layer_budgets = LayerBudgets::kPyramid;
  EXPECT_EQ(layer_budgets(params, 37, 2), (std::vector<int>{37, 37}));
  params.granularity = Granularity::kBlock;
  EXPECT_EQ(layer_budgets(params, 96, 2), (std::vector<int>{126, 82}));
}

}  // namespace
}  // namespace kvcrush
