#include "server/compression_mapper.h"

#include <gtest/gtest.h>

#include <functional>

#include "server/compression_fields.h"

namespace kvcrush {
namespace {

using Wire = v1::KvCompression;

Wire make(const std::function<void(Wire&)>& change) {
  Wire wire;
  change(wire);
  return wire;
}

CompressionDefaults defaults_of(const std::function<void(Wire&)>& change) {
  Result<CompressionDefaults> defaults = compression_defaults(make(change), KvDtype::kF16);
  EXPECT_TRUE(defaults.ok()) << defaults.status().message();
  return defaults.ok() ? std::move(defaults).value() : CompressionDefaults();
}

// Default off, budget 0.25 for requests that name a policy.
CompressionDefaults off() {
  return defaults_of([](Wire&) {});
}

CachePolicy map_good(const std::function<void(Wire&)>& change, const CompressionDefaults& defaults = off()) {
  const Result<CachePolicy> mapped = map_compression(make(change), defaults);
  EXPECT_TRUE(mapped.ok()) << mapped.status().message();
  return mapped.ok() ? *mapped : CachePolicy();
}

void expect_same(const CompressionParams& params, const CompressionParams& expected) {
  EXPECT_EQ(to_proto({params, {}}, KvDtype::kF32).DebugString(),
            to_proto({expected, {}}, KvDtype::kF32).DebugString());
}

CompressionParams preset_with_budget(Preset preset, BasePolicy policy, double fraction) {
  CompressionParams params = preset_params(preset, policy);
  params.budget_fraction = fraction;
  return params;
}

TEST(CompressionMapper, EveryFieldSurvivesTheRoundTrip) {
  CompressionParams params;
  params.policy = BasePolicy::kSnapKv;
  params.budget_tokens = 128;
  params.representative_share = 0.5;
  params.anchor = AnchorKind::kAlternating;
  params.granularity = Granularity::kBlock;
  params.token_sets = TokenSets::kPerKvHead;
  params.pick = RepresentativePick::kBest;
  params.num_sink_tokens = 2;
  params.window_tokens = 16;
  params.observed_queries = 12;
  params.lookahead_tokens = 6;
  params.lookahead_branches = 3;
  params.pool_kernel_tokens = 5;
  params.pool_shape = PoolShape::kGaussian;
  params.value_norm = true;
  params.layer_weight = 0.75;
  params.seed = 9;
  params.when = PruneWhen::kDuringPrefill;
  params.layer_budgets = LayerBudgets::kPyramid;
  params.signature_heads = SignatureHeads::kQuery;
  const Wire wire = to_proto({params, KvDtype::kInt4}, KvDtype::kF32);
  const Result<CachePolicy> mapped = map_compression(wire, off());
  ASSERT_TRUE(mapped.ok()) << mapped.status().message();
  EXPECT_EQ(mapped->kv_dtype, KvDtype::kInt4);
  EXPECT_EQ(to_proto(*mapped, KvDtype::kF32).SerializeAsString(), wire.SerializeAsString());
  // All but budget_fraction, preset and target_compression are set.
  EXPECT_EQ(Wire::descriptor()->field_count(), 24);
  EXPECT_EQ(mapped->compression->observed_queries, 12);
  EXPECT_EQ(mapped->compression->lookahead_tokens, 6);
  EXPECT_EQ(mapped->compression->pool_shape, PoolShape::kGaussian);
  EXPECT_EQ(mapped->compression->layer_weight, 0.75);
}

TEST(CompressionMapper, WhatIsShownCanBeAskedForWithEveryPolicy) {
  for (int number = v1::BASE_POLICY_SNAPKV; number <= v1::BASE_POLICY_KEYDIFF; ++number) {
    const CachePolicy policy = map_good([=](Wire& c) { c.set_policy(static_cast<v1::BasePolicy>(number)); });
    const Wire shown = to_proto(policy, KvDtype::kF16);
    EXPECT_EQ(shown.has_observed_queries(), number == v1::BASE_POLICY_SNAPKV);
    EXPECT_EQ(shown.has_lookahead_tokens(), number == v1::BASE_POLICY_SNAPKV);
    const Result<CachePolicy> again = map_compression(shown, off());
    ASSERT_TRUE(again.ok()) << again.status().message();
    EXPECT_EQ(to_proto(*again, KvDtype::kF16).SerializeAsString(), shown.SerializeAsString());
  }
}

TEST(CompressionMapper, DefaultsGiveWayToWhatARequestNames) {
  const auto snapkv = [](const std::function<void(Wire&)>& change,
                         const CompressionDefaults& defaults = off()) {
    const CachePolicy policy =
        map_good([&](Wire& c) { c.set_policy(v1::BASE_POLICY_SNAPKV), change(c); }, defaults);
    return policy.compression.value_or(CompressionParams());
  };
  EXPECT_EQ(snapkv([](Wire&) {}).observed_queries, 16);
  EXPECT_EQ(snapkv([](Wire& c) { c.set_window_tokens(8); }).observed_queries, 8);
  EXPECT_EQ(snapkv([](Wire& c) { c.set_window_tokens(64); }).observed_queries, 16);
  EXPECT_EQ(snapkv([](Wire& c) { c.set_window_tokens(64), c.set_observed_queries(64); }).observed_queries,
            64);
  EXPECT_EQ(snapkv([](Wire& c) { c.set_pool_kernel_tokens(1); }).pool_shape, PoolShape::kMax);
  EXPECT_EQ(snapkv([](Wire& c) { c.set_pool_kernel_tokens(3); }).pool_shape, PoolShape::kGaussian);
  EXPECT_EQ(snapkv([](Wire& c) { c.set_token_sets(v1::TOKEN_SETS_PER_LAYER); }).layer_weight, 0.0);
  EXPECT_EQ(snapkv([](Wire&) {}).layer_weight, 1.0);
  // The operator's words are defaults too.
  const CompressionDefaults defaults = defaults_of([](Wire& c) {
    c.set_observed_queries(24), c.set_layer_weight(2.0), c.set_pool_shape(v1::POOL_SHAPE_GAUSSIAN);
  });
  EXPECT_EQ(snapkv([](Wire& c) { c.set_window_tokens(20); }, defaults).observed_queries, 20);
  EXPECT_EQ(snapkv([](Wire& c) { c.set_pool_kernel_tokens(1); }, defaults).pool_shape, PoolShape::kMax);
  const CachePolicy streaming = map_good([](Wire& c) { c.set_policy(v1::BASE_POLICY_STREAMING); }, defaults);
  EXPECT_EQ(streaming.compression->layer_weight, 0.0);
  const CachePolicy tova = map_good([](Wire& c) { c.set_policy(v1::BASE_POLICY_TOVA); }, defaults);
  EXPECT_EQ(tova.compression->layer_weight, 2.0);
  EXPECT_EQ(tova.compression->pool_shape, PoolShape::kMax);
}

TEST(CompressionMapper, ShowsWhatAnUnsetDtypeAndNoPruningMean) {
  const Wire wire = to_proto(CachePolicy{}, KvDtype::kBF16);
  EXPECT_EQ(wire.policy(), v1::BASE_POLICY_OFF);
  EXPECT_EQ(wire.kv_dtype(), v1::KV_DTYPE_BF16);
  EXPECT_EQ(short_name(wire.policy()), "off");
  EXPECT_EQ(short_name(wire.kv_dtype()), "bf16");
}

TEST(CompressionMapper, PolicyAloneTakesTheServersFields) {
  expect_same(*map_good([](Wire& c) { c.set_policy(v1::BASE_POLICY_SNAPKV); }).compression, off().params);
  const CachePolicy overlaid = map_good([](Wire& c) {
    c.set_policy(v1::BASE_POLICY_SNAPKV);
    c.set_budget_tokens(64);
    c.set_anchor(v1::ANCHOR_ZEROS);
  });
  EXPECT_EQ(overlaid.compression->budget_tokens, 64);
  EXPECT_FALSE(overlaid.compression->budget_fraction.has_value());
  EXPECT_EQ(overlaid.compression->anchor, AnchorKind::kZeros);
  // Above any prompt: nothing is pruned, and that is no error.
  EXPECT_EQ(map_good([](Wire& c) {
              c.set_policy(v1::BASE_POLICY_SNAPKV);
              c.set_budget_tokens(1 << 30);
            }).compression->budget_tokens,
            1 << 30);
}

TEST(CompressionMapper, EveryPolicyIsValidByItself) {
  for (int number = v1::BASE_POLICY_SNAPKV; number <= v1::BASE_POLICY_KEYDIFF; ++number) {
    const auto policy = static_cast<v1::BasePolicy>(number);
    const CachePolicy mapped = map_good([=](Wire& c) { c.set_policy(policy); });
    ASSERT_TRUE(mapped.compression.has_value());
    BasePolicy ours = BasePolicy::kSnapKv;
    ASSERT_TRUE(map_policy(policy, ours).ok());
    expect_same(*mapped.compression, preset_with_budget(Preset::kDefault, ours, 0.25));
  }
}

TEST(CompressionMapper, OtherPoliciesKeepTheOperatorsFieldsThatMeanTheSame) {
  const CompressionDefaults defaults = defaults_of([](Wire& c) {
    c.set_policy(v1::BASE_POLICY_SNAPKV);
    c.set_window_tokens(16);
    c.set_budget_fraction(0.5);
    c.set_pool_kernel_tokens(9);
    c.set_value_norm(true);
  });
  const CachePolicy knorm = map_good([](Wire& c) { c.set_policy(v1::BASE_POLICY_KNORM); }, defaults);
  CompressionParams expected = preset_with_budget(Preset::kDefault, BasePolicy::kKNorm, 0.5);
  expected.window_tokens = 16;
  expect_same(*knorm.compression, expected);
  EXPECT_EQ(map_good([](Wire& c) { c.set_policy(v1::BASE_POLICY_SNAPKV); }, defaults)
                .compression->pool_kernel_tokens,
            9);
}

TEST(CompressionMapper, PresetGivesEverythingButTheBudget) {
  const CompressionDefaults defaults = defaults_of([](Wire& c) {
    c.set_policy(v1::BASE_POLICY_SNAPKV);
    c.set_window_tokens(16);
    c.set_budget_fraction(0.5);
  });
  const CachePolicy paper = map_good([](Wire& c) { c.set_preset(v1::PRESET_PAPER); }, defaults);
  expect_same(*paper.compression, preset_with_budget(Preset::kPaper, BasePolicy::kSnapKv, 0.5));
  const CachePolicy h2o = map_good(
      [](Wire& c) {
        c.set_preset(v1::PRESET_DEFAULT);
        c.set_policy(v1::BASE_POLICY_H2O);
        c.set_budget_fraction(0.75);
      },
      defaults);
  expect_same(*h2o.compression, preset_with_budget(Preset::kDefault, BasePolicy::kH2o, 0.75));
}

TEST(CompressionMapper, ServerThatIsOffNeedsAWordThatAsksForPruning) {
  EXPECT_FALSE(map_good([](Wire&) {}).compression.has_value());
  const CachePolicy quantised = map_good([](Wire& c) { c.set_kv_dtype(v1::KV_DTYPE_INT8); });
  EXPECT_FALSE(quantised.compression.has_value());
  EXPECT_EQ(quantised.kv_dtype, KvDtype::kInt8);
  const CachePolicy preset = map_good([](Wire& c) {
    c.set_preset(v1::PRESET_PAPER);
    c.set_budget_fraction(0.5);
  });
  expect_same(*preset.compression, preset_with_budget(Preset::kPaper, BasePolicy::kSnapKv, 0.5));
}

TEST(CompressionMapper, ServerThatPrunesTakesFieldsWithoutAPolicy) {
  const CompressionDefaults on = defaults_of([](Wire& c) { c.set_policy(v1::BASE_POLICY_SNAPKV); });
  EXPECT_EQ(map_good([](Wire& c) { c.set_budget_tokens(64); }, on).compression->budget_tokens, 64);
  const CachePolicy quantised = map_good([](Wire& c) { c.set_kv_dtype(v1::KV_DTYPE_INT4); }, on);
  EXPECT_TRUE(quantised.compression.has_value());
  EXPECT_EQ(quantised.kv_dtype, KvDtype::kInt4);
  const CachePolicy full = map_good(
      [](Wire& c) {
        c.set_policy(v1::BASE_POLICY_OFF);
        c.set_kv_dtype(v1::KV_DTYPE_BF16);
      },
      on);
  EXPECT_FALSE(full.compression.has_value());
  EXPECT_EQ(full.kv_dtype, KvDtype::kBF16);
}

TEST(CompressionMapper, TargetPicksAndKeepsSeedAndWhen) {
  for (const int target : {2, 4, 8, 16}) {
    const CachePolicy mapped = map_good([=](Wire& c) { c.set_target_compression(target); });
    const CachePolicy expected = policy_for_target(target).value();
    EXPECT_EQ(mapped.kv_dtype, expected.kv_dtype);
    EXPECT_EQ(mapped.compression.has_value(), expected.compression.has_value());
  }
  const CachePolicy mapped = map_good([](Wire& c) {
    c.set_target_compression(16);
    c.set_seed(7);
    c.set_when(v1::PRUNE_WHEN_DURING_PREFILL);
  });
  EXPECT_EQ(mapped.compression->seed, 7u);
  EXPECT_EQ(mapped.compression->when, PruneWhen::kDuringPrefill);
}

TEST(CompressionMapper, DefaultTargetGivesDtypeAndBudgetToRequests) {
  const CompressionDefaults defaults = defaults_of([](Wire& c) { c.set_target_compression(8); });
  const CachePolicy picked = policy_for_target(8).value();
  const CachePolicy other = map_good([](Wire& c) { c.set_policy(v1::BASE_POLICY_H2O); }, defaults);
  EXPECT_EQ(other.kv_dtype, picked.kv_dtype);
  EXPECT_EQ(other.compression->target_compression, picked.compression->target_compression);
  EXPECT_FALSE(map_good([](Wire& c) { c.set_policy(v1::BASE_POLICY_OFF); }, defaults).kv_dtype.has_value());
}

}  // namespace
}  // namespace kvcrush
