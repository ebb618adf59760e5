#include <gtest/gtest.h>

#include <functional>

#include "server/request_mapper.h"
#include "tests/unit/server/test_models.h"

namespace kvcrush {
namespace {

v1::ScoreRequest score_request(const std::string& prompt = "hello", const std::string& continuation = "abc") {
  v1::ScoreRequest request;
  request.set_text(prompt);
  request.set_continuation_text(continuation);
  return request;
}

// A context and a pool far larger than kMaxComparedTokens.
MapperContext large_context() {
  MapperContext context = test::mapper_context();
  context.limits.max_context_tokens = 2000;
  context.max_new_tokens = [](int num_prompt_tokens, const CachePolicy&) { return 2000 - num_prompt_tokens; };
  return context;
}

MappedRequest map_good(const v1::ScoreRequest& request,
                       const MapperContext& context = test::mapper_context()) {
  Result<MappedRequest> mapped = map_score_request(request, context);
  EXPECT_TRUE(mapped.ok()) << mapped.status().message();
  return mapped.ok() ? std::move(mapped).value() : MappedRequest();
}

TEST(ScoreMapper, DefaultsAreOneVariantAndAComparison) {
  const MappedRequest mapped = map_good(score_request());
  EXPECT_EQ(mapped.engine.prompt_token_ids, test::bytes_of("hello"));
  EXPECT_EQ(mapped.engine.continuation_token_ids, test::bytes_of("abc"));
  EXPECT_EQ(mapped.engine.num_samples, 1);
  ASSERT_EQ(mapped.engine.cache_policies.size(), 1u);
  EXPECT_FALSE(mapped.engine.cache_policies[0].compression.has_value());
  EXPECT_TRUE(mapped.engine.compare_to_full);
  EXPECT_EQ(mapped.engine.request_id.size(), 32u);
  EXPECT_EQ(mapped.applied.size(), 1u);
}

TEST(ScoreMapper, EveryFieldArrives) {
  v1::ScoreRequest request;
  request.set_request_id("r1");
  v1::ChatMessage& message = *request.mutable_chat()->add_messages();
  message.set_role("user");
  message.set_content("hi");
  request.mutable_continuation_token_ids()->add_ids(7);
  request.mutable_continuation_token_ids()->add_ids(test::kEndToken);
  request.add_variants()->set_kv_dtype(v1::KV_DTYPE_INT4);
  request.add_variants()->set_target_compression(16);
  request.set_compare_to_full(false);
  const MappedRequest mapped = map_good(request);
  EXPECT_EQ(mapped.engine.request_id, "r1");
  EXPECT_EQ(mapped.engine.prompt_token_ids, test::bytes_of("user: hi\n"));
  EXPECT_EQ(mapped.engine.continuation_token_ids, (std::vector<TokenId>{7, test::kEndToken}));
  EXPECT_EQ(mapped.engine.num_samples, 2);
  EXPECT_EQ(mapped.engine.cache_policies.at(0).kv_dtype, KvDtype::kInt4);
  EXPECT_TRUE(mapped.engine.cache_policies.at(1).compression.has_value());
  EXPECT_FALSE(mapped.engine.compare_to_full);
  EXPECT_EQ(mapped.applied.at(1).policy(), v1::BASE_POLICY_SNAPKV);
}

TEST(ScoreMapper, SpecialTokensSpelledInTheContinuationAreRecognised) {
  const MappedRequest mapped = map_good(score_request("hello", "a<|end|>"));
  EXPECT_EQ(mapped.engine.continuation_token_ids, (std::vector<TokenId>{'a', test::kEndToken}));
}

TEST(ScoreMapper, LongContinuationsAreNotComparedUnlessAskedFor) {
  const MapperContext context = large_context();
  const std::string most(kMaxComparedTokens, 'a');
  EXPECT_TRUE(map_good(score_request("hello", most), context).engine.compare_to_full);
  EXPECT_FALSE(map_good(score_request("hello", most + "a"), context).engine.compare_to_full);
  v1::ScoreRequest request = score_request("hello", most + "a");
  request.set_compare_to_full(true);
  const auto mapped = map_score_request(request, context);
  ASSERT_FALSE(mapped.ok());
  EXPECT_TRUE(mapped.status().message().starts_with("compare_to_full is true with a continuation of " +
                                                    std::to_string(kMaxComparedTokens + 1)))
      << mapped.status().message();
}

TEST(ScoreMapper, PromptAndContinuationFillTheContext) {
  MapperContext context = large_context();
  EXPECT_EQ(map_good(score_request("hello", std::string(1995, 'a')), context).engine.sampling.max_tokens,
            1995);
  const auto mapped = map_score_request(score_request("hello", std::string(1996, 'a')), context);
  ASSERT_FALSE(mapped.ok());
  EXPECT_TRUE(
      mapped.status().message().starts_with("continuation_text is 1996 tokens long, allowed: at most 1995"))
      << mapped.status().message();
}

TEST(ScoreMapper, WrongRequestsAreNamed) {
  using Request = v1::ScoreRequest;
  const std::vector<std::pair<std::string, std::function<void(Request&)>>> cases{
      {"request_id has a character", [](Request& r) { r.set_request_id("a b"); }},
      {"prompt is missing", [](Request& r) { r.clear_text(); }},
      {"text is empty", [](Request& r) { r.set_text(""); }},
      {"continuation is missing", [](Request& r) { r.clear_continuation_text(); }},
      {"continuation_text is 0 tokens long", [](Request& r) { r.set_continuation_text(""); }},
      {"continuation_text is 1 tokens long", [](Request& r) { r.set_continuation_text("a"); }},
      {"continuation_text: ", [](Request& r) { r.set_continuation_text("ab\xFF"); }},
      {"continuation_text is 46 tokens long, allowed: at most 45",
       [](Request& r) { r.set_continuation_text(std::string(46, 'a')); }},  // pool of 50, prompt of 5
      {"continuation_token_ids is 0 tokens", [](Request& r) { r.mutable_continuation_token_ids(); }},
      {"continuation_token_ids.ids[1] is 258",
       [](Request& r) {
         r.mutable_continuation_token_ids()->add_ids(1);
         r.mutable_continuation_token_ids()->add_ids(test::kVocabSize);
       }},
      {"variants[1].budget_fraction is 2",
       [](Request& r) {
         r.add_variants();
         r.add_variants()->set_policy(v1::BASE_POLICY_H2O);
         r.mutable_variants(1)->set_budget_fraction(2);
       }},
      {"variants has 257 entries",
       [](Request& r) {
         for (int i = 0; i < 257; ++i) r.add_variants();
       }},
  };
  for (const auto& [start, change] : cases) {
    v1::ScoreRequest request = score_request();
    change(request);
    const Result<MappedRequest> mapped = map_score_request(request, test::mapper_context());
    ASSERT_FALSE(mapped.ok()) << "expected: " << start;
    EXPECT_EQ(mapped.status().code(), StatusCode::kInvalidArgument);
    EXPECT_TRUE(mapped.status().message().starts_with(start)) << mapped.status().message();
  }
}

}  // namespace
}  // namespace kvcrush
