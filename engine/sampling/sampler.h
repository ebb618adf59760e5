// Chooses one sequence's next token from its logits. One Sampler per sequence; it remembers which tokens the
// sequence has seen.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/core/token_stream.h"
#include "engine/core/types.h"
#include "engine/sampling/logits_ops.h"
#include "engine/sampling/params.h"

namespace kvcrush {

struct SampleResult {
  TokenId token = 0;
  bool valid = true;                       // false: there were NaNs among the logits
  std::optional<LogprobEntry> logprob;     // of `token`, when the request asks for log-probabilities
  std::vector<LogprobEntry> top_logprobs;  // likeliest first
};

class Sampler {
 public:
  // `params` valid. `seed` is this sample's own (the request's, plus the sample's index). Samples on one
  // thread at a time.
  Sampler(const SamplingParams& params, int vocab_size, std::uint64_t seed);

  // Ids in [0, vocab_size). Each prompt token and each output token once, in any number of calls, before the
  // sample they affect.
  void observe_prompt(std::span<const TokenId> tokens);
  void observe_output(TokenId token);

  // Token number `step` of the output (0 first). Nothing but (seed, step) drives the draw, so a sequence that
  // is computed again after preemption samples the same. `logits` [vocab_size] are overwritten; tokens in
  // `banned` are not chosen. Log-probabilities are natural, of the logits as given: before penalties, bans
  // and temperature. Never fails: NaN counts as -infinity (the result says so), and where no token is
  // possible the lowest one not banned is the answer.
  SampleResult sample(std::span<float> logits, int step, std::span<const TokenId> banned);

  // What drives the draws together with the step; for samplers on another device.
  std::uint64_t stream_key() const { return stream_key_; }

 private:
  TokenId choose(std::span<float> logits, int step, std::span<const TokenId> banned) const;

  float temperature_;
  Truncation truncation_;
  Penalties penalties_;
  std::optional<int> num_logprobs_;
  int vocab_size_;
  std::uint64_t stream_key_;
  OutputCounts output_counts_;  // kept only when a penalty needs it
};

}  // namespace kvcrush
