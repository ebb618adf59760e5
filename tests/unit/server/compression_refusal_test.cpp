// What map_compression refuses, and in which words.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "server/compression_mapper.h"

namespace kvcrush {
namespace {

using Wire = v1::KvCompression;

TEST(CompressionRefusal, WrongFieldsAreNamedWithValueAndWhatIsAllowed) {
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
      {"layer_budgets is 4", "[0, 3]",
       [=](Wire& c) { snapkv(c), c.set_layer_budgets(static_cast<v1::LayerBudgets>(4)); }},
      {"pool_shape is 3", "[0, 2]",
       [=](Wire& c) { snapkv(c), c.set_pool_shape(static_cast<v1::PoolShape>(3)); }},
      {"pool_shape is gaussian", "max with pool_kernel_tokens 1",
       [=](Wire& c) { h2o(c), c.set_pool_shape(v1::POOL_SHAPE_GAUSSIAN); }},
      {"pool_shape is gaussian", "max with policy knorm",
       [=](Wire& c) { knorm(c), c.set_pool_shape(v1::POOL_SHAPE_GAUSSIAN); }},
      {"observed_queries is 33", "[1, 32] with window_tokens 32",
       [=](Wire& c) { snapkv(c), c.set_observed_queries(33); }},
      {"observed_queries is 9", "[1, 8] with window_tokens 8",
       [=](Wire& c) { snapkv(c), c.set_observed_queries(9), c.set_window_tokens(8); }},
      {"observed_queries is 0", "[1, 32]", [=](Wire& c) { snapkv(c), c.set_observed_queries(0); }},
      {"observed_queries is 16", "snapkv", [=](Wire& c) { h2o(c), c.set_observed_queries(16); }},
      {"observed_queries is 32", "snapkv", [=](Wire& c) { knorm(c), c.set_observed_queries(32); }},
      {"lookahead_tokens is 65", "[0, 64]", [=](Wire& c) { snapkv(c), c.set_lookahead_tokens(65); }},
      {"lookahead_branches is 5", "[1, 4]", [=](Wire& c) { snapkv(c), c.set_lookahead_branches(5); }},
      {"lookahead_tokens is 8", "0 with policy h2o", [=](Wire& c) { h2o(c), c.set_lookahead_tokens(8); }},
      {"layer_weight is 5", "[0, 4]", [=](Wire& c) { snapkv(c), c.set_layer_weight(5); }},
      {"layer_weight is nan", "[0, 4]", [=](Wire& c) { snapkv(c), c.set_layer_weight(std::nan("")); }},
      {"layer_weight is 1", "0 with token_sets per_layer",
       [=](Wire& c) { snapkv(c), c.set_token_sets(v1::TOKEN_SETS_PER_LAYER), c.set_layer_weight(1); }},
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
       [](Wire& c) { c.set_target_compression(4), c.set_when(static_cast<v1::PruneWhen>(5)); }},
      {"seed is 3", "drops no token: nothing", [](Wire& c) { c.set_target_compression(2), c.set_seed(3); }},
      {"signature_heads is kv", "query with granularity block",
       [=](Wire& c) {
         snapkv(c), c.set_budget_tokens(200), c.set_granularity(v1::GRANULARITY_BLOCK);
         c.set_signature_heads(v1::SIGNATURE_HEADS_KV);
       }},
      {"policy is BASE_POLICY_UNSPECIFIED", "a policy that prunes", [](Wire& c) { c.set_budget_tokens(64); }},
      {"policy is BASE_POLICY_UNSPECIFIED", "a policy that prunes",
       [](Wire& c) { c.set_kv_dtype(v1::KV_DTYPE_INT4), c.set_seed(1); }},
      {"budget is missing", "PRESET_DEFAULT: budget_tokens or budget_fraction",
       [](Wire& c) { c.set_preset(v1::PRESET_DEFAULT); }},
  };
  // Default off, budget 0.25 for requests that name a policy.
  const Result<CompressionDefaults> defaults = compression_defaults({}, KvDtype::kF16);
  ASSERT_TRUE(defaults.ok());
  for (const Case& c : cases) {
    Wire wire;
    c.change(wire);
    const Result<CachePolicy> mapped = map_compression(wire, *defaults);
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
