#include "engine/scheduler/sequence.h"

#include <algorithm>
#include <limits>

namespace kvcrush {

PruneSchedule::PruneSchedule(const CompressionParams& params, int num_prompt_tokens, int block_size_tokens)
    : budget_tokens_(resolve_budget_tokens(params, num_prompt_tokens)),
      num_prompt_tokens_(num_prompt_tokens),
      block_size_tokens_(block_size_tokens),
      when_(params.when) {}

int PruneSchedule::threshold(int num_computed) const {
  if (num_computed >= num_prompt_tokens_) return budget_tokens_ + block_size_tokens_;
  if (when_ == PruneWhen::kDuringPrefill) return budget_tokens_ + kPrefillSlackTokens;
  return std::numeric_limits<int>::max();
}

int PruneSchedule::tokens_to_boundary(int num_computed, int num_cached) const {
  if (!enabled()) return std::numeric_limits<int>::max();
  const int to_threshold = threshold(num_computed) - num_cached;
  if (num_computed >= num_prompt_tokens_) return to_threshold;
  return std::min(to_threshold, num_prompt_tokens_ - num_computed);
}

bool PruneSchedule::must_prune(int num_computed, int num_cached) const {
  if (!enabled() || num_cached <= budget_tokens_) return false;
  return num_computed == num_prompt_tokens_ || num_cached >= threshold(num_computed);
}

int PruneSchedule::peak_cached_tokens(int num_tokens) const {
  if (!enabled()) return num_tokens;
  const int decode_peak = budget_tokens_ + block_size_tokens_;
  const int prefill_peak =
      when_ == PruneWhen::kDuringPrefill ? budget_tokens_ + kPrefillSlackTokens : num_prompt_tokens_;
  return std::min(num_tokens, std::max(decode_peak, prefill_peak));
}

}  // namespace kvcrush
