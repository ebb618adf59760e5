#include "engine/sampling/params.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>

namespace kvcrush {
namespace {

constexpr int kVocabSize = 100;

Status validate_changed(const std::function<void(SamplingParams&)>& change) {
  SamplingParams params;
  params.max_tokens = 16;
  change(params);
  return validate(params, kVocabSize);
}

void expect_refused(const std::function<void(SamplingParams&)>& change, const std::string& field,
                    const std::string& allowed) {
  const Status status = validate_changed(change);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << field;
  EXPECT_NE(status.message().find("sampling." + field), std::string::npos) << status.message();
  EXPECT_NE(status.message().find(allowed), std::string::npos) << status.message();
}

TEST(SamplingParams, AcceptsDefaultsAndTheEndsOfRanges) {
  EXPECT_TRUE(validate_changed([](auto&) {}).ok());
  EXPECT_TRUE(validate_changed([](auto& p) {
                p.temperature = 0.0f, p.top_p = 1e-6f, p.min_p = 0.0f, p.repetition_penalty = 1e-6f;
                p.presence_penalty = p.frequency_penalty = -2.0f;
                p.min_tokens = 0, p.max_tokens = 1, p.num_logprobs = 0, p.stop_token_ids = {0};
              }).ok());
  EXPECT_TRUE(validate_changed([](auto& p) {
                p.temperature = 100.0f, p.top_p = 1.0f, p.min_p = 1.0f, p.repetition_penalty = 10.0f;
                p.presence_penalty = p.frequency_penalty = 2.0f;
                p.min_tokens = 16, p.num_logprobs = 20, p.stop_token_ids.assign(64, kVocabSize - 1);
              }).ok());
}

TEST(SamplingParams, NamesFieldValueAndRange) {
  expect_refused([](auto& p) { p.temperature = -0.5f; }, "temperature is -0.5", "[0, 100]");
  expect_refused([](auto& p) { p.temperature = 101.0f; }, "temperature is 101", "[0, 100]");
  expect_refused([](auto& p) { p.top_k = -1; }, "top_k is -1", ">= 0");
  expect_refused([](auto& p) { p.top_p = 0.0f; }, "top_p is 0", "(0, 1]");
  expect_refused([](auto& p) { p.top_p = 1.5f; }, "top_p is 1.5", "(0, 1]");
  expect_refused([](auto& p) { p.min_p = 1.5f; }, "min_p is 1.5", "[0, 1]");
  expect_refused([](auto& p) { p.repetition_penalty = 0.0f; }, "repetition_penalty is 0", "(0, 10]");
  expect_refused([](auto& p) { p.repetition_penalty = 11.0f; }, "repetition_penalty is 11", "(0, 10]");
  expect_refused([](auto& p) { p.presence_penalty = 2.5f; }, "presence_penalty is 2.5", "[-2, 2]");
  expect_refused([](auto& p) { p.frequency_penalty = -2.5f; }, "frequency_penalty is -2.5", "[-2, 2]");
  expect_refused([](auto& p) { p.max_tokens = 0; }, "max_tokens is 0", ">= 1");
  expect_refused([](auto& p) { p.min_tokens = 17; }, "min_tokens is 17", "[0, max_tokens = 16]");
  expect_refused([](auto& p) { p.min_tokens = -1; }, "min_tokens is -1", "[0, max_tokens = 16]");
  expect_refused([](auto& p) { p.num_logprobs = 21; }, "num_logprobs is 21", "[0, 20]");
  expect_refused(
      [](auto& p) {
        p.stop_token_ids = {5, 100};
      },
      "stop_token_ids[1] is 100", "[0, vocab_size = 100)");
  expect_refused([](auto& p) { p.stop_token_ids = {-1}; }, "stop_token_ids[0] is -1",
                 "[0, vocab_size = 100)");
  expect_refused([](auto& p) { p.stop_token_ids.assign(65, 1); }, "stop_token_ids has 65", "at most 64");
}

TEST(SamplingParams, RefusesNanAndInfinity) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    expect_refused([=](auto& p) { p.temperature = bad; }, "temperature", "[0, 100]");
    expect_refused([=](auto& p) { p.top_p = bad; }, "top_p", "(0, 1]");
    expect_refused([=](auto& p) { p.min_p = bad; }, "min_p", "[0, 1]");
    expect_refused([=](auto& p) { p.repetition_penalty = bad; }, "repetition_penalty", "(0, 10]");
    expect_refused([=](auto& p) { p.presence_penalty = bad; }, "presence_penalty", "[-2, 2]");
    expect_refused([=](auto& p) { p.frequency_penalty = bad; }, "frequency_penalty", "[-2, 2]");
  }
}

}  // namespace
}  // namespace kvcrush
