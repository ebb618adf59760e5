#include "server/compression_mapper.h"

#include <gtest/gtest.h>

#include <cmath>
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
  params.policy = BasePolicy::kTova;
  params.budget_tokens = 128;
  params.representative_share = 0.5;
  params.anchor = AnchorKind::kAlternating;
  params.granularity = Granularity::kBlock;
  params.token_sets = TokenSets::kPerKvHead;
  params.pick = RepresentativePick::kBest;
  params.num_sink_tokens = 2;
  params.window_tokens = 16;
  params.pool_kernel_tokens = 5;
  params.value_norm = true;
  params.seed = 9;
  params.when = PruneWhen::kDuringPrefill;
  params.layer_budgets = LayerBudgets::kPyramid;
  params.signature_heads = SignatureHeads::kKv;
  const Wire wire = to_proto({params, KvDtype::kInt4}, KvDtype::kF32);
  const Result<CachePolicy> mapped = map_compression(wire, off());
  ASSERT_TRUE(mapped.ok()) << mapped.status().message();
  EXPECT_EQ(mapped->kv_dtype, KvDtype::kInt4);
  EXPECT_EQ(to_proto(*mapped, KvDtype::kF32).SerializeAsString(), wire.SerializeAsString());
  // All but budget_fraction, preset and target_compression are set.
  EXPECT_EQ(Wire::descriptor()->field_count(), 19);
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
  EXPECT_EQ(other.compression->budget_fraction, picked.compression->budget_fraction);
  EXPECT_FALSE(map_good([](Wire& c) { c.set_policy(v1::BASE_POLICY_OFF); }, defaults).kv_dtype.has_value());
}

TEST(CompressionMapper, WrongFieldsAreNamedWithValueAndWhatIsAllowed) {
  struct Case {
    const char* start;
    const char* allowed;
    std::function<void(Wire&)> change;
  };
  const auto snapkv = [](Wire& c) { c.set_policy(v1::BASE_POLICY_SNAPKV); };
  const auto h2o = [](Wire& c) { c.set_policy(v1::BASE_POLICY_H2O); };
  const auto knorm = [](Wire& c) { c.set_policy(v1::BASE_POLICY_KNORM); };
  const auto no_cache = [](Wire& c) { c.set_policy(v1::BASE_POLICY_OFF); };
  const std::vector<Case> cases{
      {"policy is 9", "[0, 7]", [](Wire& c) { c.set_policy(static_cast<v1::BasePolicy>(9)); }},
      {"preset is 3", "[0, 2]", [=](Wire& c) { snapkv(c), c.set_preset(static_cast<v1::Preset>(3)); }},
      {"kv_dtype is 6", "[0, 5]", [](Wire& c) { c.set_kv_dtype(static_cast<v1::KvDtype>(6)); }},
      {"kv_dtype is 6", "[0, 5]", [=](Wire& c) { no_cache(c), c.set_kv_dtype(static_cast<v1::KvDtype>(6)); }},
      {"anchor is 6", "[0, 5]", [=](Wire& c) { snapkv(c), c.set_anchor(static_cast<v1::Anchor>(6)); }},
      {"granularity is 3", "[0, 2]",
       [=](Wire& c) { snapkv(c), c.set_granularity(static_cast<v1::Granularity>(3)); }},
      {"token_sets is -1", "[0, 2]",
       [=](Wire& c) { snapkv(c), c.set_token_sets(static_cast<v1::TokenSets>(-1)); }},
      {"pick is 3", "[0, 2]",
       [=](Wire& c) { snapkv(c), c.set_pick(static_cast<v1::RepresentativePick>(3)); }},
      {"when is 3", "[0, 2]", [=](Wire& c) { snapkv(c), c.set_when(static_cast<v1::PruneWhen>(3)); }},
      {"layer_budgets is 3", "[0, 2]",
       [=](Wire& c) { snapkv(c), c.set_layer_budgets(static_cast<v1::LayerBudgets>(3)); }},
      {"signature_heads is 3", "[0, 2]",
       [=](Wire& c) { snapkv(c), c.set_signature_heads(static_cast<v1::SignatureHeads>(3)); }},
      {"budget_tokens is 0", ">= 37", [=](Wire& c) { snapkv(c), c.set_budget_tokens(0); }},
      {"budget_tokens is 36", ">= 37", [=](Wire& c) { snapkv(c), c.set_budget_tokens(36); }},
      {"budget_tokens is 37", "block",
       [=](Wire& c) { snapkv(c), c.set_budget_tokens(37), c.set_granularity(v1::GRANULARITY_BLOCK); }},
      {"budget_fraction is 0", "(0, 1]", [=](Wire& c) { snapkv(c), c.set_budget_fraction(0); }},
      {"budget_fraction is 1.5", "(0, 1]", [=](Wire& c) { snapkv(c), c.set_budget_fraction(1.5); }},
      {"budget_fraction is nan", "(0, 1]", [=](Wire& c) { snapkv(c), c.set_budget_fraction(std::nan("")); }},
      {"representative_share is 2", "[0, 1]", [=](Wire& c) { snapkv(c), c.set_representative_share(2); }},
      {"num_sink_tokens is -1", "[0, 1024]", [=](Wire& c) { snapkv(c), c.set_num_sink_tokens(-1); }},
      {"window_tokens is 0", "[1, 256]", [=](Wire& c) { snapkv(c), c.set_window_tokens(0); }},
      {"pool_kernel_tokens is 2", "odd", [=](Wire& c) { snapkv(c), c.set_pool_kernel_tokens(2); }},
      {"pool_kernel_tokens is 65", "63", [=](Wire& c) { h2o(c), c.set_pool_kernel_tokens(65); }},
      {"pool_kernel_tokens is 3", "knorm", [=](Wire& c) { knorm(c), c.set_pool_kernel_tokens(3); }},
      {"value_norm is true", "knorm", [=](Wire& c) { knorm(c), c.set_value_norm(true); }},
      // Nothing is taken and ignored.
      {"budget_tokens is 64", "kv_dtype", [=](Wire& c) { no_cache(c), c.set_budget_tokens(64); }},
      {"seed is 0", "kv_dtype", [=](Wire& c) { no_cache(c), c.set_seed(0); }},
      {"value_norm is false", "kv_dtype", [=](Wire& c) { no_cache(c), c.set_value_norm(false); }},
      {"preset is PRESET_PAPER", "kv_dtype", [=](Wire& c) { no_cache(c), c.set_preset(v1::PRESET_PAPER); }},
      {"target_compression is 3", "2, 4, 8, 16", [](Wire& c) { c.set_target_compression(3); }},
      {"target_compression is 0", "2, 4, 8, 16", [](Wire& c) { c.set_target_compression(0); }},
      {"kv_dtype is KV_DTYPE_INT4", "target_compression 4: seed, when",
       [](Wire& c) { c.set_target_compression(4), c.set_kv_dtype(v1::KV_DTYPE_INT4); }},
      {"policy is BASE_POLICY_OFF", "target_compression 4: seed, when",
       [=](Wire& c) { no_cache(c), c.set_target_compression(4); }},
      {"when is 5", "[0, 2]",
       [](Wire& c) { c.set_target_compression(2), c.set_when(static_cast<v1::PruneWhen>(5)); }},
      {"policy is BASE_POLICY_UNSPECIFIED", "a policy that prunes", [](Wire& c) { c.set_budget_tokens(64); }},
      {"policy is BASE_POLICY_UNSPECIFIED", "a policy that prunes",
       [](Wire& c) { c.set_kv_dtype(v1::KV_DTYPE_INT4), c.set_seed(1); }},
      {"budget is missing", "PRESET_DEFAULT: budget_tokens or budget_fraction",
       [](Wire& c) { c.set_preset(v1::PRESET_DEFAULT); }},
  };
  for (const Case& c : cases) {
    const Result<CachePolicy> mapped = map_compression(make(c.change), off());
    ASSERT_FALSE(mapped.ok()) << "expected: " << c.start;
    EXPECT_EQ(mapped.status().code(), StatusCode::kInvalidArgument);
    const std::string message = mapped.status().message();
    EXPECT_TRUE(message.starts_with(std::string("compression.") + c.start)) << message;
    const std::size_t allowed = message.find("allowed");
    ASSERT_NE(allowed, std::string::npos) << message;
    EXPECT_NE(message.find(c.allowed, allowed), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace kvcrush
