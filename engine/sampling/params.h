// How one request chooses its tokens and when it ends. Ranges are checked once, at the edge, by validate().
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/core/status.h"
#include "engine/core/types.h"

namespace kvcrush {

struct SamplingParams {
  float temperature = 1.0f;             // [0, 100]; 0 = greedy
  int top_k = 0;                        // >= 0; 0 = all
  float top_p = 1.0f;                   // (0, 1]
  float min_p = 0.0f;                   // [0, 1]; relative to the likeliest token
  float repetition_penalty = 1.0f;      // (0, 10]; over prompt and output; 1 = off
  float presence_penalty = 0.0f;        // [-2, 2]; over output
  float frequency_penalty = 0.0f;       // [-2, 2]; over output
  std::uint64_t seed = 0;               // same seed, same tokens
  int max_tokens = 0;                   // > 0 once validated
  int min_tokens = 0;                   // [0, max_tokens]; no stop token is sampled before
  std::vector<TokenId> stop_token_ids;  // at most 64, in [0, vocab_size); ends the sequence, token included
                                        // in ids, not in text
  bool ignore_eos = false;              // the model's own end tokens do not end the sequence
  std::optional<int> num_logprobs;      // [0, 20]; unset: no logprobs; 0: of the sampled token only

  // Whether tokens depend on those before them by more than the model.
  bool penalises() const {
    return repetition_penalty != 1.0f || presence_penalty != 0.0f || frequency_penalty != 0.0f;
  }
};

// INVALID_ARGUMENT naming field ("sampling.top_p"), value and allowed range. NaN and infinities are refused.
Status validate(const SamplingParams& params, int vocab_size);

}  // namespace kvcrush
