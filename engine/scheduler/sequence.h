// One sample of one request as the scheduler sees it. Owned and touched by the engine loop alone.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/core/token_stream.h"
#include "engine/core/types.h"
#include "engine/kv_cache/block_table.h"
#include "engine/kvcrush/params.h"
#include "engine/sampling/params.h"

namespace kvcrush {

using Clock = std::chrono::steady_clock;

// When a sequence must be pruned. Boundaries depend only on the sequence itself, never on how steps were
// batched, so that a sequence that is recomputed after preemption is pruned at the same places and yields the
// same tokens.
class PruneSchedule {
 public:
  PruneSchedule() = default;  // never prunes
  PruneSchedule(const CompressionParams& params, int num_prompt_tokens, int block_size_tokens);

  bool enabled() const { return budget_tokens_ > 0; }
  int budget_tokens() const { return budget_tokens_; }
  // Tokens that may be appended before the next boundary (>= 1), with `num_computed` logical and `num_cached`
  // cached tokens.
  int tokens_to_boundary(int num_computed, int num_cached) const;
  // Whether to prune now, after a chunk has ended there.
  bool must_prune(int num_computed, int num_cached) const;
  // Most tokens a layer holds at a time while a sequence of `num_tokens` tokens is computed from nothing.
  int peak_cached_tokens(int num_tokens) const;

  // Tokens over budget that `during_prefill` gathers before it prunes: fewer prunes, at the price of that
  // much more memory.
  static constexpr int kPrefillSlackTokens = 512;

 private:
  int threshold(int num_computed) const;  // cached tokens at which a prune is due

  int budget_tokens_ = 0;  // 0: never
  int num_prompt_tokens_ = 0;
  int block_size_tokens_ = 0;
  PruneWhen when_ = PruneWhen::kAfterPrompt;
};

struct Sequence {
  SequenceId id = 0;  // ascending in order of arrival: the scheduler's priority
  std::string request_id;
  int index = 0;
  std::vector<TokenId> token_ids;  // prompt, then output
  int num_prompt_tokens = 0;
  SamplingParams sampling;
  std::vector<TokenId> end_token_ids;  // end tokens of model and request in force
  std::optional<CompressionParams> compression;
  PruneSchedule prune_schedule;
  std::shared_ptr<TokenStream> stream;

  int num_computed_tokens =
      0;  // logical length whose K and V were computed (some may have been evicted since)
  SequenceCache cache;
  int num_preemptions = 0;
  CompressionOutcome compression_outcome;

  Clock::time_point arrived_at;
  std::optional<Clock::time_point> first_scheduled_at;
  std::optional<Clock::time_point> first_token_at;
  Clock::time_point last_token_at;

  explicit Sequence(SequenceCache sequence_cache) : cache(std::move(sequence_cache)) {}

  int num_tokens() const { return static_cast<int>(token_ids.size()); }
  int num_output_tokens() const { return num_tokens() - num_prompt_tokens; }
  int num_uncomputed_tokens() const { return num_tokens() - num_computed_tokens; }
  bool is_decoding() const { return num_uncomputed_tokens() == 1 && num_output_tokens() > 0; }
  int peak_cached_tokens() const { return prune_schedule.peak_cached_tokens(num_tokens()); }
};

}  // namespace kvcrush
