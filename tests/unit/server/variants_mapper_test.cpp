// How a request's samples keep their caches: all alike, or each as a variant.
#include <gtest/gtest.h>

#include "tests/unit/server/request_mapper_harness.h"

namespace kvcrush {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

TEST(RequestMapper, CompressionHoldsForAllSamples) {
  v1::GenerateRequest request = text_request();
  request.mutable_sampling()->set_n(2);
  request.mutable_compression()->set_policy(v1::BASE_POLICY_H2O);
  const MappedRequest mapped = map_good(request);
  ASSERT_EQ(mapped.engine.cache_policies.size(), 1u);
  EXPECT_EQ(mapped.engine.cache_policies[0].compression->policy, BasePolicy::kH2o);
  ASSERT_EQ(mapped.applied.size(), 2u);
  EXPECT_EQ(mapped.applied[1].policy(), v1::BASE_POLICY_H2O);
  request.mutable_compression()->set_window_tokens(0);
  expect_refused(request, "compression.window_tokens is 0", "[1, 256]");
}

TEST(RequestMapper, VariantsAreSamples) {
  v1::GenerateRequest request = text_request();
  request.add_variants()->set_policy(v1::BASE_POLICY_OFF);
  request.add_variants()->set_kv_dtype(v1::KV_DTYPE_INT4);
  v1::KvCompression& pruned = *request.add_variants();
  pruned.set_policy(v1::BASE_POLICY_SNAPKV);
  pruned.set_budget_tokens(64);
  request.mutable_sampling()->set_n(1);
  const MappedRequest mapped = map_good(request);
  EXPECT_EQ(mapped.engine.num_samples, 3);
  ASSERT_EQ(mapped.engine.cache_policies.size(), 3u);
  EXPECT_FALSE(mapped.engine.cache_policies[0].compression.has_value());
  EXPECT_EQ(mapped.engine.cache_policies[1].kv_dtype, KvDtype::kInt4);
  EXPECT_EQ(mapped.engine.cache_policies[2].compression->budget_tokens, 64);
  ASSERT_EQ(mapped.applied.size(), 3u);
  EXPECT_EQ(mapped.applied[1].kv_dtype(), v1::KV_DTYPE_INT4);
  EXPECT_EQ(mapped.applied[2].kv_dtype(), v1::KV_DTYPE_F32);
  EXPECT_EQ(mapped.applied[2].budget_tokens(), 64);
  // The tightest variant decides what fits: the pool holds 50 tokens of a full cache.
  request.mutable_sampling()->set_max_tokens(46);
  expect_refused(request, "sampling.max_tokens is 46", "[1, 45]");
}

TEST(RequestMapper, WrongVariantsAreNamed) {
  v1::GenerateRequest request = text_request();
  for (int i = 0; i < 4; ++i) request.add_variants();
  request.mutable_variants(3)->set_policy(v1::BASE_POLICY_SNAPKV);
  request.mutable_variants(3)->set_window_tokens(0);
  expect_refused(request, "variants[3].window_tokens is 0", "[1, 256]");
  request.mutable_variants(3)->Clear();
  request.mutable_variants(3)->set_target_compression(3);
  expect_refused(request, "variants[3].target_compression is 3", "2, 4, 8, 16");
  request.mutable_variants(3)->Clear();
  request.mutable_sampling()->set_n(2);
  expect_refused(request, "variants has 4 entries and sampling.n is 2");
  request.mutable_sampling()->set_n(1);
  request.mutable_compression();
  expect_refused(request, "variants has 4 entries beside compression");
  request.clear_compression();
  while (request.variants_size() < 257) request.add_variants();
  expect_refused(request, "variants has 257 entries", "at most 256");
  request.mutable_variants()->RemoveLast();
  EXPECT_EQ(map_good(request).engine.num_samples, 256);
}

}  // namespace
}  // namespace kvcrush
