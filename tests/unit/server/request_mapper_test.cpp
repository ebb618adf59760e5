#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <set>

#include "tests/unit/server/request_mapper_harness.h"

namespace kvcrush {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

TEST(RequestMapper, DefaultsFillWhatIsLeftOut) {
  const MappedRequest mapped = map_good(text_request());
  EXPECT_EQ(mapped.engine.prompt_token_ids, test::bytes_of("hello"));
  EXPECT_EQ(mapped.engine.sampling.temperature, 1.0f);
  EXPECT_EQ(mapped.engine.sampling.max_tokens, 20);
  EXPECT_EQ(mapped.engine.num_samples, 1);
  ASSERT_EQ(mapped.engine.cache_policies.size(), 1u);
  EXPECT_FALSE(mapped.engine.cache_policies[0].compression.has_value());
  EXPECT_TRUE(mapped.engine.continuation_token_ids.empty());
  EXPECT_FALSE(mapped.engine.sampling.num_logprobs.has_value());
  EXPECT_EQ(mapped.engine.request_id.size(), 32u);
}

TEST(RequestMapper, IdsAndSeedsAreRandomWhenLeftOut) {
  std::set<std::string> ids;
  std::set<std::uint64_t> seeds;
  for (int i = 0; i < 20; ++i) {
    const MappedRequest mapped = map_good(text_request());
    ids.insert(mapped.engine.request_id);
    seeds.insert(mapped.engine.sampling.seed);
  }
  EXPECT_EQ(ids.size(), 20u);
  EXPECT_EQ(seeds.size(), 20u);
}

TEST(RequestMapper, EveryFieldArrives) {
  v1::GenerateRequest request = text_request();
  request.set_request_id("Az09._:-");
  v1::SamplingParams& sampling = *request.mutable_sampling();
  sampling.set_temperature(0);
  sampling.set_top_k(5);
  sampling.set_top_p(0.5f);
  sampling.set_min_p(0.25f);
  sampling.set_repetition_penalty(1.5f);
  sampling.set_presence_penalty(-1);
  sampling.set_frequency_penalty(2);
  sampling.set_seed(0);
  sampling.set_max_tokens(45);
  sampling.set_min_tokens(2);
  sampling.add_stop("x");
  sampling.add_stop_token_ids(7);
  sampling.set_ignore_eos(true);
  sampling.set_logprobs(0);
  sampling.set_n(16);
  const MappedRequest mapped = map_good(request);
  const SamplingParams& params = mapped.engine.sampling;
  EXPECT_EQ(mapped.engine.request_id, "Az09._:-");
  EXPECT_EQ(params.temperature, 0.0f);
  EXPECT_EQ(params.top_k, 5);
  EXPECT_EQ(params.top_p, 0.5f);
  EXPECT_EQ(params.min_p, 0.25f);
  EXPECT_EQ(params.repetition_penalty, 1.5f);
  EXPECT_EQ(params.presence_penalty, -1.0f);
  EXPECT_EQ(params.frequency_penalty, 2.0f);
  EXPECT_EQ(params.seed, 0u);
  EXPECT_EQ(params.max_tokens, 45);
  EXPECT_EQ(params.min_tokens, 2);
  EXPECT_EQ(params.stop_token_ids, std::vector<TokenId>{7});
  EXPECT_TRUE(params.ignore_eos);
  EXPECT_EQ(params.num_logprobs, 0);
  EXPECT_EQ(mapped.engine.num_samples, 16);
  EXPECT_EQ(mapped.text.stop, std::vector<std::string>{"x"});
  EXPECT_EQ(mapped.text.min_tokens, 2);
}

TEST(RequestMapper, WrongSamplingNamesFieldValueAndRange) {
  using Sampling = v1::SamplingParams;
  const float nan = std::nanf("");
  const std::vector<std::pair<std::string, std::function<void(Sampling&)>>> cases{
      {"sampling.temperature is -1", [](Sampling& s) { s.set_temperature(-1); }},
      {"sampling.temperature is nan", [=](Sampling& s) { s.set_temperature(nan); }},
      {"sampling.top_k is -1", [](Sampling& s) { s.set_top_k(-1); }},
      {"sampling.top_p is 0", [](Sampling& s) { s.set_top_p(0); }},
      {"sampling.min_p is 2", [](Sampling& s) { s.set_min_p(2); }},
      {"sampling.repetition_penalty is 0", [](Sampling& s) { s.set_repetition_penalty(0); }},
      {"sampling.presence_penalty is 3", [](Sampling& s) { s.set_presence_penalty(3); }},
      {"sampling.frequency_penalty is -3", [](Sampling& s) { s.set_frequency_penalty(-3); }},
      {"sampling.max_tokens is 0", [](Sampling& s) { s.set_max_tokens(0); }},
      {"sampling.max_tokens is -5", [](Sampling& s) { s.set_max_tokens(-5); }},
      {"sampling.max_tokens is 46", [](Sampling& s) { s.set_max_tokens(46); }},  // pool of 50, prompt of 5
      {"sampling.min_tokens is 21", [](Sampling& s) { s.set_min_tokens(21); }},  // beyond the default of 20
      {"sampling.min_tokens is -1", [](Sampling& s) { s.set_min_tokens(-1); }},
      {"sampling.logprobs is 21", [](Sampling& s) { s.set_logprobs(21); }},
      {"sampling.logprobs is -1", [](Sampling& s) { s.set_logprobs(-1); }},
      {"sampling.n is 0", [](Sampling& s) { s.set_n(0); }},
      {"sampling.n is 17", [](Sampling& s) { s.set_n(17); }},
      {"sampling.stop_token_ids[0] is 258", [](Sampling& s) { s.add_stop_token_ids(test::kVocabSize); }},
      {"sampling.stop[1] is 0 bytes", [](Sampling& s) { s.add_stop("a"), s.add_stop(""); }},
      {"sampling.stop[0] is 257 bytes", [](Sampling& s) { s.add_stop(std::string(257, 'a')); }},
      {"sampling.stop has 17 strings",
       [](Sampling& s) {
         for (int i = 0; i < 17; ++i) s.add_stop("a");
       }},
      {"sampling.stop_token_ids has 65 ids",
       [](Sampling& s) {
         for (int i = 0; i < 65; ++i) s.add_stop_token_ids(1);
       }},
  };
  for (const auto& [start, change] : cases) {
    v1::GenerateRequest request = text_request();
    change(*request.mutable_sampling());
    expect_refused(request, start);
  }
}

TEST(RequestMapper, SpeculationArrivesAndIsChecked) {
  v1::GenerateRequest request = text_request();
  EXPECT_EQ(map_good(request).engine.lookup_tokens, 0);
  for (const int lookup_tokens : {0, 1, 64}) {
    request.mutable_speculation()->set_lookup_tokens(lookup_tokens);
    EXPECT_EQ(map_good(request).engine.lookup_tokens, lookup_tokens);
  }
  request.mutable_speculation()->set_lookup_tokens(65);
  expect_refused(request, "speculation.lookup_tokens is 65", "allowed: [0, 64]");
  request.mutable_speculation()->set_lookup_tokens(-1);
  expect_refused(request, "speculation.lookup_tokens is -1", "allowed: [0, 64]");
}

TEST(RequestMapper, SchedulingArrivesAndIsChecked) {
  v1::GenerateRequest request = text_request();
  EXPECT_EQ(map_good(request).engine.priority, 0);
  EXPECT_FALSE(map_good(request).engine.bypass_prefix_cache);
  request.set_priority(-4);
  request.mutable_prefix_cache()->set_bypass(true);
  request.mutable_prefix_cache()->set_salt(std::string(256, 's'));
  const MappedRequest mapped = map_good(request);
  EXPECT_EQ(mapped.engine.priority, -4);
  EXPECT_TRUE(mapped.engine.bypass_prefix_cache);
  EXPECT_EQ(mapped.engine.cache_salt.size(), 256U);
  request.mutable_prefix_cache()->set_salt(std::string(257, 's'));
  expect_refused(request, "prefix_cache.salt is 257 bytes long", "at most 256");
  request.clear_prefix_cache();
  request.set_priority(5);
  expect_refused(request, "priority is 5", "[-4, 4]");
}

TEST(RequestMapper, WrongPromptsAreNamed) {
  expect_refused(v1::GenerateRequest(), "prompt is missing");
  expect_refused(text_request(""), "text is empty");
  expect_refused(text_request("a\xFF"), "text: ", "byte 1");
  expect_refused(text_request(std::string(100, 'a')), "text is 100 tokens", "[1, 99]");
  expect_refused(text_request(std::string(50, 'a')), "text is 50 tokens", "KV pool can hold (50 tokens");
  v1::GenerateRequest request;
  request.mutable_token_ids();
  expect_refused(request, "token_ids is 0 tokens", "[1, 99]");
  request.mutable_token_ids()->add_ids(1);
  request.mutable_token_ids()->add_ids(test::kVocabSize);
  expect_refused(request, "token_ids.ids[1] is 258", "vocab_size = 258");
  request.mutable_token_ids()->set_ids(1, -1);
  expect_refused(request, "token_ids.ids[1] is -1");
}

TEST(RequestMapper, DefaultMaxTokensIsCutToWhatFits) {
  EXPECT_EQ(map_good(text_request(std::string(45, 'a'))).engine.sampling.max_tokens, 5);
  EXPECT_EQ(map_good(text_request(std::string(49, 'a'))).engine.sampling.max_tokens, 1);
}

TEST(RequestMapper, WrongRequestIdsAreNamed) {
  v1::GenerateRequest request = text_request();
  for (const char* id : {"a b", "a/b", "\xC3\xA9", "a\n"}) {
    request.set_request_id(id);
    expect_refused(request, "request_id has a character", "[A-Za-z0-9._:-]");
  }
  request.set_request_id(std::string(129, 'a'));
  expect_refused(request, "request_id is 129 characters");
  request.set_request_id(std::string(128, 'a'));
  EXPECT_EQ(map_good(request).engine.request_id.size(), 128u);
}

TEST(RequestMapper, ChatIsRenderedWithTheTemplate) {
  v1::GenerateRequest request;
  expect_refused((request.mutable_chat(), request), "chat.messages is empty");
  v1::ChatMessage& message = *request.mutable_chat()->add_messages();
  message.set_content("hi <|end|>");
  expect_refused(request, "chat.messages[0].role is empty");
  message.set_role("user");
  // A special token spelled by the user stays text.
  EXPECT_EQ(map_good(request).engine.prompt_token_ids, test::bytes_of("user: hi <|end|>\n"));
}

TEST(RequestMapper, ChatWithoutTemplateIsAPrecondition) {
  MapperContext context = test::mapper_context();
  context.chat_template = nullptr;
  context.no_chat_reason = "none in the model";
  v1::GenerateRequest request;
  request.mutable_chat()->add_messages()->set_role("user");
  const auto mapped = map_generate_request(request, context);
  ASSERT_FALSE(mapped.ok());
  EXPECT_EQ(mapped.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(mapped.status().message().find("none in the model"), std::string::npos);
}

TEST(RequestMapper, AnswersInAChatBeginAText) {
  v1::GenerateRequest request;
  v1::ChatMessage& message = *request.mutable_chat()->add_messages();
  message.set_role("user");
  message.set_content("a");
  EXPECT_TRUE(map_good(request).text.begins_text);
  EXPECT_FALSE(map_good(text_request("a")).text.begins_text);
}

TEST(RequestMapper, SpecialTokensSpelledInTextAreRecognised) {
  std::vector<TokenId> expected = test::bytes_of("a");
  expected.push_back(test::kEndToken);
  EXPECT_EQ(map_good(text_request("a<|end|>")).engine.prompt_token_ids, expected);
}

}  // namespace
}  // namespace kvcrush
