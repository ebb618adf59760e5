// The --default-* options of KV compression.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "server/config.h"

namespace kvcrush {
namespace {

ConfigOutcome parse(std::vector<std::string> args) {
  args.insert(args.begin(), {"--model", "some.gguf"});
  return parse_config(args);
}

CompressionDefaults parse_good(const std::vector<std::string>& args) {
  const ConfigOutcome outcome = parse(args);
  EXPECT_TRUE(outcome.config.has_value()) << outcome.message;
  return outcome.config ? outcome.config->compression : CompressionDefaults();
}

void expect_refused(const std::vector<std::string>& args, const std::string& start) {
  const ConfigOutcome outcome = parse(args);
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_TRUE(outcome.message.starts_with(start)) << outcome.message;
}

TEST(ConfigCompression, EveryFieldCanBeSet) {
  const CompressionDefaults defaults = parse_good(
      {"--kv-dtype=int8", "--default-policy=h2o", "--default-budget=128",
       "--default-representative-share=0.5", "--default-anchor=random", "--default-pick=best",
       "--default-token-sets=per-kv-head", "--default-prune-when=during-prefill", "--default-sink-tokens=2",
       "--default-window-tokens=16", "--default-pool-kernel-tokens=5", "--default-value-norm=false",
       "--default-granularity=block", "--default-layer-budgets=pyramid", "--default-signature-heads=query",
       "--default-pool-shape=gaussian", "--default-layer-weight=0.5"});
  ASSERT_TRUE(defaults.policy.compression.has_value());
  const CompressionParams& params = *defaults.policy.compression;
  EXPECT_EQ(params.policy, BasePolicy::kH2o);
  EXPECT_EQ(params.budget_tokens, 128);
  EXPECT_FALSE(params.budget_fraction.has_value());
  EXPECT_EQ(params.representative_share, 0.5);
  EXPECT_EQ(params.anchor, AnchorKind::kRandom);
  EXPECT_EQ(params.pick, RepresentativePick::kBest);
  EXPECT_EQ(params.token_sets, TokenSets::kPerKvHead);
  EXPECT_EQ(params.when, PruneWhen::kDuringPrefill);
  EXPECT_EQ(params.num_sink_tokens, 2);
  EXPECT_EQ(params.window_tokens, 16);
  EXPECT_EQ(params.pool_kernel_tokens, 5);
  EXPECT_FALSE(params.value_norm);
  EXPECT_EQ(params.pool_shape, PoolShape::kGaussian);
  EXPECT_EQ(params.layer_weight, 0.5);
  EXPECT_EQ(params.granularity, Granularity::kBlock);
  EXPECT_EQ(params.layer_budgets, LayerBudgets::kPyramid);
  EXPECT_EQ(params.signature_heads, SignatureHeads::kQuery);
  EXPECT_EQ(defaults.engine_dtype, KvDtype::kInt8);
}

TEST(ConfigCompression, WhatIsNotNamedComesFromThePreset) {
  CompressionParams expected = preset_params(Preset::kPaper, BasePolicy::kSnapKv);
  const CompressionParams paper = parse_good({"--default-policy=snapkv", "--default-preset=paper"}).params;
  EXPECT_EQ(paper.pool_kernel_tokens, expected.pool_kernel_tokens);
  EXPECT_EQ(paper.representative_share, expected.representative_share);
  expected = preset_params(Preset::kDefault, BasePolicy::kKNorm);
  const CompressionParams knorm = parse_good({"--default-policy=knorm"}).params;
  EXPECT_EQ(knorm.pool_kernel_tokens, expected.pool_kernel_tokens);
  EXPECT_EQ(knorm.value_norm, expected.value_norm);
  EXPECT_EQ(knorm.budget_fraction, 0.25);
}

TEST(ConfigCompression, TargetPicksPolicyAndDtypeAndStandsAlone) {
  const CompressionDefaults two = parse_good({"--default-target-compression=2"});
  EXPECT_EQ(two.policy.kv_dtype, policy_for_target(2)->kv_dtype);
  const CompressionDefaults eight =
      parse_good({"--default-target-compression=8", "--default-prune-when=during-prefill"});
  ASSERT_TRUE(eight.policy.compression.has_value());
  EXPECT_EQ(eight.policy.compression->target_compression, 8);
  EXPECT_EQ(eight.policy.compression->when, PruneWhen::kDuringPrefill);
  expect_refused({"--default-target-compression=8", "--default-budget=0.5"}, "--default-budget is 0.5");
  expect_refused({"--default-target-compression=8", "--default-policy=off"}, "--default-policy is");
}

TEST(ConfigCompression, BudgetIsCheckedAgainstSinksAndWindow) {
  EXPECT_EQ(parse_good({"--default-budget=37"}).params.budget_tokens, 37);
  expect_refused({"--default-budget=37", "--default-window-tokens=64"}, "--default-budget is 37");
}

TEST(ConfigCompression, PolicyThatReadsNoAttentionRefusesWhatNeedsIt) {
  expect_refused({"--default-policy=knorm", "--default-pool-kernel-tokens=7"},
                 "--default-pool-kernel-tokens is 7");
  expect_refused({"--default-policy=streaming", "--default-value-norm=true"}, "--default-value-norm is true");
}

TEST(ConfigCompression, ObservedQueriesAreSnapKvsAndFitTheWindow) {
  EXPECT_EQ(parse_good({"--default-observed-queries=8"}).params.observed_queries, 8);
  EXPECT_EQ(parse_good({"--default-lookahead-tokens=0"}).params.lookahead_tokens, 0);
  EXPECT_EQ(parse_good({"--default-policy=snapkv", "--default-window-tokens=4"}).params.observed_queries, 4);
  expect_refused({"--default-policy=h2o", "--default-observed-queries=8"}, "--default-observed-queries is 8");
  expect_refused({"--default-observed-queries=33"}, "--default-observed-queries is 33");
  expect_refused({"--default-window-tokens=8", "--default-observed-queries=9"},
                 "--default-observed-queries is 9");
}

TEST(ConfigCompression, PoolShapeAndLayerWeightNeedWhatTheyWorkOn) {
  EXPECT_EQ(parse_good({"--default-pool-kernel-tokens=1"}).params.pool_shape, PoolShape::kMax);
  EXPECT_EQ(parse_good({"--default-token-sets=per-layer"}).params.layer_weight, 0.0);
  expect_refused({"--default-pool-kernel-tokens=1", "--default-pool-shape=gaussian"},
                 "--default-pool-shape is gaussian");
  expect_refused({"--default-token-sets=per-layer", "--default-layer-weight=1"},
                 "--default-layer-weight is 1");
  expect_refused({"--default-layer-weight=5"}, "--default-layer-weight is 5");
}

TEST(ConfigCompression, EnvironmentAndFileSetThemToo) {
  const std::string path = ::testing::TempDir() + "compression.toml";
  std::ofstream(path) << "default-policy = \"tova\"\ndefault-budget = \"0.5\"\n";
  setenv("KVCRUSH_DEFAULT_BUDGET", "99", 1);
  const CompressionDefaults defaults = parse_good({"--config", path});
  unsetenv("KVCRUSH_DEFAULT_BUDGET");
  EXPECT_EQ(defaults.params.policy, BasePolicy::kTova);
  EXPECT_EQ(defaults.params.budget_tokens, 99);
}

TEST(ConfigCompression, HelpNamesEveryOption) {
  const std::string help = parse_config({"--help"}).message;
  for (const char* name :
       {"--default-policy", "--default-preset", "--default-target-compression", "--default-budget",
        "--default-granularity", "--default-layer-budgets", "--default-signature-heads",
        "--default-value-norm", "--default-observed-queries", "--default-pool-shape",
        "--default-layer-weight", "int8 or int4", "keydiff", "KVCRUSH_DEFAULT_TARGET_COMPRESSION"}) {
    EXPECT_NE(help.find(name), std::string::npos) << name;
  }
}

}  // namespace
}  // namespace kvcrush
