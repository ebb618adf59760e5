#include "client/cli/compression_options.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace kvcrush::cli {
namespace {

class CompressionOptionsTest : public ::testing::Test {
 protected:
  CompressionOptionsTest() {
    add_compression_options(app_, request_);
    add_variant_option(app_, variants_, "a variant");
  }

  void parse(std::vector<std::string> words) {
    std::reverse(words.begin(), words.end());  // CLI11 takes the words last first
    app_.parse(words);
  }

  CLI::App app_;
  v1::GenerateRequest request_;
  Variants variants_;
};

TEST_F(CompressionOptionsTest, SetsNothingThatWasNotGiven) {
  parse({});
  EXPECT_FALSE(request_.has_compression());
}

TEST_F(CompressionOptionsTest, FillsEveryField) {
  parse({"--policy=tova",
         "--budget=0.5",
         "--share=0.1",
         "--anchor=alternating",
         "--token-sets=per-kv-head",
         "--pick=best",
         "--sinks=2",
         "--window=16",
         "--pool-kernel=15",
         "--prune-seed=8",
         "--when=during-prefill",
         "--granularity=block",
         "--preset=paper",
         "--kv-dtype=int4",
         "--target-compression=8",
         "--layer-budgets=pyramid",
         "--value-norm",
         "--signature-heads=kv",
         "--observed-queries=12",
         "--lookahead=6",
         "--lookahead-branches=3",
         "--pool-shape=gaussian",
         "--layer-weight=0.5"});
  const auto& c = request_.compression();
  EXPECT_EQ(c.policy(), v1::BASE_POLICY_TOVA);
  EXPECT_EQ(c.budget_fraction(), 0.5);
  EXPECT_EQ(c.representative_share(), 0.1);
  EXPECT_EQ(c.anchor(), v1::ANCHOR_ALTERNATING);
  EXPECT_EQ(c.granularity(), v1::GRANULARITY_BLOCK);
  EXPECT_EQ(c.token_sets(), v1::TOKEN_SETS_PER_KV_HEAD);
  EXPECT_EQ(c.pick(), v1::REPRESENTATIVE_PICK_BEST);
  EXPECT_EQ(c.num_sink_tokens(), 2);
  EXPECT_EQ(c.window_tokens(), 16);
  EXPECT_EQ(c.pool_kernel_tokens(), 15);
  EXPECT_EQ(c.seed(), 8U);
  EXPECT_EQ(c.when(), v1::PRUNE_WHEN_DURING_PREFILL);
  EXPECT_EQ(c.preset(), v1::PRESET_PAPER);
  EXPECT_EQ(c.kv_dtype(), v1::KV_DTYPE_INT4);
  EXPECT_EQ(c.target_compression(), 8);
  EXPECT_EQ(c.layer_budgets(), v1::LAYER_BUDGETS_PYRAMID);
  EXPECT_TRUE(c.value_norm());
  EXPECT_EQ(c.signature_heads(), v1::SIGNATURE_HEADS_KV);
  EXPECT_EQ(c.observed_queries(), 12);
  EXPECT_EQ(c.lookahead_tokens(), 6);
  EXPECT_EQ(c.lookahead_branches(), 3);
  EXPECT_EQ(c.pool_shape(), v1::POOL_SHAPE_GAUSSIAN);
  EXPECT_EQ(c.layer_weight(), 0.5);
  // A field added to the message needs an option too.
  EXPECT_EQ(v1::KvCompression::descriptor()->field_count(), 24);
}

TEST_F(CompressionOptionsTest, EveryPolicyAndDtypeHasItsWord) {
  const std::vector<std::string> policies = {"off", "snapkv", "h2o", "tova", "streaming", "knorm", "keydiff"};
  for (std::size_t i = 0; i < policies.size(); ++i) {
    parse({"--policy", policies[i]});
    EXPECT_EQ(request_.compression().policy(), static_cast<int>(i) + 1) << policies[i];
  }
  const std::vector<std::string> dtypes = {"f32", "bf16", "f16", "int8", "int4"};
  for (std::size_t i = 0; i < dtypes.size(); ++i) {
    parse({"--kv-dtype", dtypes[i]});
    EXPECT_EQ(request_.compression().kv_dtype(), static_cast<int>(i) + 1) << dtypes[i];
  }
}

TEST_F(CompressionOptionsTest, ValueNormCanBeTurnedOff) {
  parse({"--no-value-norm"});
  EXPECT_TRUE(request_.compression().has_value_norm());
  EXPECT_FALSE(request_.compression().value_norm());
}

TEST_F(CompressionOptionsTest, RefusesUnknownWordsAndBudgets) {
  EXPECT_THROW(parse({"--policy", "magic"}), CLI::ValidationError);
  EXPECT_THROW(parse({"--anchor", "2"}), CLI::ValidationError);
  EXPECT_THROW(parse({"--kv-dtype", "int2"}), CLI::ValidationError);
  EXPECT_THROW(parse({"--pool-shape", "box"}), CLI::ValidationError);
  EXPECT_THROW(parse({"--layer-weight", "much"}), CLI::ConversionError);
  EXPECT_THROW(parse({"--budget", "half"}), CLI::ValidationError);
  EXPECT_THROW(parse({"--target-compression", "much"}), CLI::ConversionError);
}

TEST_F(CompressionOptionsTest, VariantsAreKeptInOrderWithTheirSpelling) {
  parse({"--variant", "policy=off", "--variant", "kv_dtype=int8,budget=64"});
  EXPECT_EQ(variants_.labels, (std::vector<std::string>{"policy=off", "kv_dtype=int8,budget=64"}));
  ASSERT_EQ(variants_.parsed.size(), 2U);
  EXPECT_EQ(variants_.parsed[0].policy(), v1::BASE_POLICY_OFF);
  EXPECT_EQ(variants_.parsed[1].budget_tokens(), 64);
  EXPECT_FALSE(request_.has_compression());
  EXPECT_THROW(parse({"--variant", "policy=magic"}), CLI::ValidationError);
}

TEST(ParseVariant, TakesTheNamesOfTheOptions) {
  const auto variant =
      parse_variant("policy=snapkv,budget=25%,kv_dtype=int4,no-value-norm,token_sets=per-kv-head,sinks=0");
  ASSERT_TRUE(variant.ok()) << variant.status().message;
  EXPECT_EQ(variant->policy(), v1::BASE_POLICY_SNAPKV);
  EXPECT_EQ(variant->budget_fraction(), 0.25);
  EXPECT_EQ(variant->kv_dtype(), v1::KV_DTYPE_INT4);
  EXPECT_TRUE(variant->has_value_norm());
  EXPECT_FALSE(variant->value_norm());
  EXPECT_EQ(variant->token_sets(), v1::TOKEN_SETS_PER_KV_HEAD);
  EXPECT_TRUE(variant->has_num_sink_tokens());
  const auto pooled = parse_variant("observed_queries=16,pool_kernel=21,pool_shape=gaussian,layer_weight=0");
  ASSERT_TRUE(pooled.ok()) << pooled.status().message;
  EXPECT_EQ(pooled->observed_queries(), 16);
  EXPECT_EQ(pooled->pool_kernel_tokens(), 21);
  EXPECT_EQ(pooled->pool_shape(), v1::POOL_SHAPE_GAUSSIAN);
  EXPECT_TRUE(pooled->has_layer_weight());
  EXPECT_FALSE(parse_variant("value_norm=false")->value_norm());
  EXPECT_TRUE(parse_variant("value_norm=true")->value_norm());
  // Nothing named: the server's default compression.
  EXPECT_EQ(parse_variant("")->ByteSizeLong(), 0U);
}

TEST(ParseVariant, SaysWhichVariantIsWrong) {
  for (const char* text : {"policy", "policy=", "magic=1", "policy=magic", "=1", "policy=off,,budget=1",
                           "--policy=off", "budget=half", "policy=off budget=1", "help", "variant=x"}) {
    const auto variant = parse_variant(text);
    ASSERT_FALSE(variant.ok()) << text;
    EXPECT_EQ(variant.status().code, client::Code::kInvalidArgument);
    EXPECT_NE(variant.status().message.find("'" + std::string(text) + "'"), std::string::npos)
        << variant.status().message;
  }
}

TEST(ParseBudget, TellsFractionsFromTokens) {
  v1::KvCompression c;
  ASSERT_TRUE(parse_budget("0.25", c));
  EXPECT_EQ(c.budget_fraction(), 0.25);
  ASSERT_TRUE(parse_budget("25%", c));
  EXPECT_EQ(c.budget_fraction(), 0.25);
  ASSERT_TRUE(parse_budget("1.0", c));
  EXPECT_EQ(c.budget_fraction(), 1.0);
  ASSERT_TRUE(parse_budget("1", c));
  EXPECT_EQ(c.budget_tokens(), 1);
  EXPECT_FALSE(c.has_budget_fraction());
  ASSERT_TRUE(parse_budget("-3", c)) << "ranges are the server's to check";
  EXPECT_EQ(c.budget_tokens(), -3);
  for (const char* bad : {"", "%", ".", "x", "12x", "0.5x", "99999999999", "nan", " 5"})
    EXPECT_FALSE(parse_budget(bad, c)) << bad;
}

}  // namespace
}  // namespace kvcrush::cli
