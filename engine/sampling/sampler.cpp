#include "engine/sampling/sampler.h"

#include <cstddef>

#include "engine/core/splitmix64.h"
#include "engine/core/status.h"

namespace kvcrush {
namespace {

// Uniform in [0, 1) with 53 random bits. The seed is hashed before the step is added: the streams of
// neighbouring seeds (samples of one request) share no draws.
double uniform_draw(std::uint64_t stream_key, int step) {
  constexpr double kUnit = 1.0 / static_cast<double>(std::uint64_t{1} << 53);
  return static_cast<double>(splitmix64(stream_key + static_cast<std::uint64_t>(step)) >> 11) * kUnit;
}

}  // namespace

Sampler::Sampler(const SamplingParams& params, int vocab_size, std::uint64_t seed)
    : temperature_(params.temperature),
      truncation_{params.top_k, params.top_p, params.min_p},
      penalties_{params.repetition_penalty, params.presence_penalty, params.frequency_penalty},
      num_logprobs_(params.num_logprobs),
      vocab_size_(vocab_size),
      stream_key_(splitmix64(seed)) {
  KVCRUSH_CHECK(vocab_size >= 1);
}

void Sampler::observe_prompt(std::span<const TokenId> tokens) {
  if (penalties_.repetition == 1.0f) return;
  for (const TokenId token : tokens) {
    KVCRUSH_CHECK(token >= 0 && token < vocab_size_);
    output_counts_.try_emplace(token, 0);
  }
}

void Sampler::observe_output(TokenId token) {
  if (!penalties_.any()) return;
  KVCRUSH_CHECK(token >= 0 && token < vocab_size_);
  ++output_counts_[token];
}

TokenId Sampler::choose(std::span<float> logits, int step, std::span<const TokenId> banned) const {
  if (penalties_.any()) apply_penalties(penalties_, output_counts_, logits);
  ban_tokens(banned, logits);
  if (temperature_ == 0.0f) return argmax(logits, banned);
  return draw_token(logits, temperature_, truncation_, uniform_draw(stream_key_, step), banned);
}

SampleResult Sampler::sample(std::span<float> logits, int step, std::span<const TokenId> banned) {
  KVCRUSH_CHECK(logits.size() == static_cast<std::size_t>(vocab_size_) && step >= 0);
  SampleResult result;
  result.valid = !has_nan(logits);
  if (!num_logprobs_) {
    result.token = choose(logits, step, banned);
    return result;
  }
  thread_local std::vector<float> raw_logits;
  raw_logits.assign(logits.begin(), logits.end());
  const double log_sum = log_sum_exp(raw_logits);
  result.top_logprobs = top_logprobs(raw_logits, log_sum, *num_logprobs_);
  result.token = choose(logits, step, banned);
  const float raw_logit = raw_logits[static_cast<std::size_t>(result.token)];
  result.logprob = LogprobEntry{result.token, log_probability(raw_logit, log_sum)};
  return result;
}

}  // namespace kvcrush
