// Small passes over one row of logits [vocab_size]. NaN counts as -infinity everywhere; +infinity as
// certainty, shared by all tokens that have it.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/core/token_stream.h"
#include "engine/core/types.h"

namespace kvcrush {

bool has_nan(std::span<const float> logits);

struct Penalties {
  float repetition = 1.0f;  // > 0; divides positive logits, multiplies negative ones; prompt and output
  float presence = 0.0f;    // subtracted once; output
  float frequency = 0.0f;   // subtracted per occurrence; output

  bool any() const { return repetition != 1.0f || presence != 0.0f || frequency != 0.0f; }
};

// Occurrences in the output of every token seen; 0 for one seen in the prompt alone.
using OutputCounts = std::unordered_map<TokenId, int>;

void apply_penalties(const Penalties& penalties, const OutputCounts& output_counts, std::span<float> logits);

// Banned tokens become -infinity; ids outside the vocabulary are ignored.
void ban_tokens(std::span<const TokenId> banned, std::span<float> logits);

// The likeliest token; the lowest id on ties. Where every logit is -infinity: the lowest id not in `banned`
// (0 if none is left).
TokenId argmax(std::span<const float> logits, std::span<const TokenId> banned);

// log(sum(exp(logits))); -infinity where every logit is, +infinity where any is.
double log_sum_exp(std::span<const float> logits);

// log-probability of one logit under `log_sum_exp`, never NaN.
float log_probability(float logit, double log_sum);

// The `count` likeliest tokens (fewer in a smaller vocabulary), likeliest first, lower id first on ties.
std::vector<LogprobEntry> top_logprobs(std::span<const float> logits, double log_sum, int count);

// Which tokens may be drawn. Applied in this order, each to what the one before left.
struct Truncation {
  int top_k = 0;       // 0 = all
  float top_p = 1.0f;  // smallest set of likeliest tokens whose share of the mass reaches it
  float min_p = 0.0f;  // least probability relative to the likeliest token
};

// Draws a token from softmax(logits / temperature) truncated; `uniform` in [0, 1) chooses. temperature > 0.
// Equal logits rank by id, lower first. Overwrites `logits`. Same fallback as argmax where no token has any
// mass.
TokenId draw_token(std::span<float> logits, float temperature, const Truncation& truncation, double uniform,
                   std::span<const TokenId> banned);

}  // namespace kvcrush
