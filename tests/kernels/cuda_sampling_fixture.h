// Rows of logits that the GPU's sampler, run by the simulator, and the CPU's both sample.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "engine/core/splitmix64.h"
#include "engine/kernels/cuda/sampling.h"
#include "engine/sampling/sampler.h"

namespace kvcrush::testing {

inline constexpr float kInf = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct SampledRow {
  std::vector<float> logits;
  SamplingParams params;
  std::uint64_t seed = 0;
  int step = 0;
  std::vector<TokenId> banned = {};
  std::vector<TokenId> prompt = {};
  std::vector<TokenId> output = {};
};

inline std::size_t to_size(int n) {
  return static_cast<std::size_t>(n);
}

inline SampleResult sample_on_cpu(const SampledRow& row) {
  Sampler sampler(row.params, static_cast<int>(row.logits.size()), row.seed);
  sampler.observe_prompt(row.prompt);
  for (const TokenId token : row.output) sampler.observe_output(token);
  std::vector<float> logits = row.logits;
  return sampler.sample(logits, row.step, row.banned);
}

// The table of what a row has seen, filled on the device; `spare`: as large as it should be, or just enough.
inline std::vector<cuda::SeenToken> see(const SampledRow& row, bool spare) {
  std::set<TokenId> distinct(row.prompt.begin(), row.prompt.end());
  distinct.insert(row.output.begin(), row.output.end());
  distinct.erase(distinct.begin(), distinct.lower_bound(0));
  const auto num_distinct = static_cast<int>(distinct.size());
  std::vector<cuda::SeenToken> slots(
      to_size(spare ? cuda::seen_tokens_capacity(num_distinct) : num_distinct));
  const cuda::SeenTokens table{slots.data(), static_cast<int>(slots.size())};
  const cuda::SeenUpdate updates[] = {{table, row.prompt.data(), static_cast<int>(row.prompt.size()), false},
                                      {table, row.output.data(), static_cast<int>(row.output.size()), true}};
  cuda::observe_tokens(updates, 2, static_cast<int>(std::max(row.prompt.size(), row.output.size())), nullptr);
  return slots;
}

// Rows of one vocabulary, `gap` elements apart: any alignment.
inline std::vector<SampleResult> sample_on_gpu(const std::vector<SampledRow>& batch, int gap = 0) {
  const std::size_t vocab_size = batch.front().logits.size();
  const std::size_t stride = vocab_size + to_size(gap);
  std::vector<float> logits(batch.size() * stride, 1e30F);
  std::vector<std::vector<cuda::SeenToken>> tables;
  std::vector<cuda::SampleRow> rows;
  for (std::size_t i = 0; i < batch.size(); ++i) {
    const SampledRow& row = batch[i];
    std::copy(row.logits.begin(), row.logits.end(), logits.begin() + static_cast<std::ptrdiff_t>(i * stride));
    tables.push_back(see(row, i % 2 == 0));
    rows.push_back({.temperature = row.params.temperature,
                    .top_k = row.params.top_k,
                    .top_p = row.params.top_p,
                    .min_p = row.params.min_p,
                    .repetition_penalty = row.params.repetition_penalty,
                    .presence_penalty = row.params.presence_penalty,
                    .frequency_penalty = row.params.frequency_penalty,
                    .num_logprobs = row.params.num_logprobs.value_or(-1),
                    .stream_key = splitmix64(row.seed),
                    .step = row.step,
                    .num_banned = static_cast<int>(row.banned.size()),
                    .banned = row.banned.data(),
                    .seen = {tables.back().data(), static_cast<int>(tables.back().size())}});
  }
  std::vector<TokenId> tokens(batch.size(), -1);
  std::vector<float> logprobs(batch.size(), kNan);
  std::vector<TokenId> top_tokens(batch.size() * cuda::kMaxTopLogprobs, -1);
  std::vector<float> top_logprobs(batch.size() * cuda::kMaxTopLogprobs, kNan);
  cuda::sample_tokens({.logits = logits.data(),
                       .logits_stride = static_cast<std::int64_t>(stride),
                       .vocab_size = static_cast<int>(vocab_size),
                       .num_rows = static_cast<int>(batch.size()),
                       .rows = rows.data(),
                       .tokens = tokens.data(),
                       .logprobs = logprobs.data(),
                       .top_tokens = top_tokens.data(),
                       .top_logprobs = top_logprobs.data()},
                      nullptr);
  std::vector<SampleResult> results(batch.size());
  for (std::size_t i = 0; i < batch.size(); ++i) {
    results[i].valid = tokens[i] >= 0;
    results[i].token = results[i].valid ? tokens[i] : cuda::no_number(tokens[i]);
    if (rows[i].num_logprobs >= 0) results[i].logprob = LogprobEntry{results[i].token, logprobs[i]};
    for (std::size_t j = i * cuda::kMaxTopLogprobs; j < (i + 1) * cuda::kMaxTopLogprobs; ++j) {
      if (top_tokens[j] >= 0) results[i].top_logprobs.push_back({top_tokens[j], top_logprobs[j]});
    }
    for (std::size_t j = i * stride + vocab_size; j < (i + 1) * stride; ++j) EXPECT_EQ(logits[j], 1e30F);
  }
  return results;
}

// Exponentials in float and logits' own rounding: some 1e-7 of the sum, and half a unit of a float of the
// log-probability's size.
inline void expect_logprob(float actual, float expected) {
  if (std::isinf(expected)) {
    EXPECT_EQ(actual, expected);
  } else {
    EXPECT_NEAR(actual, expected, 1e-6F + std::fabs(expected) * 1.2e-7F);
  }
}

inline void expect_same_logprobs(const SampleResult& actual, const SampleResult& expected) {
  ASSERT_EQ(actual.logprob.has_value(), expected.logprob.has_value());
  if (expected.logprob && actual.token == expected.token)
    expect_logprob(actual.logprob->logprob, expected.logprob->logprob);
  ASSERT_EQ(actual.top_logprobs.size(), expected.top_logprobs.size());
  for (std::size_t i = 0; i < expected.top_logprobs.size(); ++i) {
    EXPECT_EQ(actual.top_logprobs[i].token, expected.top_logprobs[i].token) << "place " << i;
    expect_logprob(actual.top_logprobs[i].logprob, expected.top_logprobs[i].logprob);
  }
}

// Number of rows whose tokens differ; all else must be the same.
inline int count_differences(const std::vector<SampledRow>& batch, int gap = 0) {
  const std::vector<SampleResult> actual = sample_on_gpu(batch, gap);
  int differences = 0;
  for (std::size_t i = 0; i < batch.size(); ++i) {
    SCOPED_TRACE("row " + std::to_string(i));
    const SampleResult expected = sample_on_cpu(batch[i]);
    differences += actual[i].token != expected.token ? 1 : 0;
    expect_same_logprobs(actual[i], expected);
  }
  return differences;
}

inline std::vector<float> random_logits(int vocab_size, float spread, std::uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<float> normal(0.0F, spread);
  std::vector<float> logits(to_size(vocab_size));
  for (float& logit : logits) logit = normal(engine);
  return logits;
}

// As a model in bfloat16 gives them: with many ties.
inline std::vector<float> coarse_logits(int vocab_size, float spread, std::uint64_t seed) {
  std::vector<float> logits = random_logits(vocab_size, spread, seed);
  for (float& logit : logits) logit = std::round(logit * 8) / 8;
  return logits;
}

inline std::vector<TokenId> some_tokens(int vocab_size, int count, std::uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::uniform_int_distribution<TokenId> uniform(0, vocab_size - 1);
  std::vector<TokenId> tokens(to_size(count));
  for (TokenId& token : tokens) token = uniform(engine);
  return tokens;
}

inline SamplingParams params_of(float temperature, const Truncation& truncation,
                                std::optional<int> num_logprobs = {}) {
  SamplingParams params;
  params.temperature = temperature;
  params.top_k = truncation.top_k;
  params.top_p = truncation.top_p;
  params.min_p = truncation.min_p;
  params.num_logprobs = num_logprobs;
  return params;
}

}  // namespace kvcrush::testing
