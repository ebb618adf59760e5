#include "engine/finish_report.h"

#include <algorithm>
#include <vector>

#include "engine/kv_cache/kv_storage.h"

namespace kvcrush {

namespace {

double ms_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

bool windows_fit_budget(const Sequence& sequence) {
  for (int layer = 0; layer < sequence.cache.num_layers(); ++layer) {
    const int window = sequence.cache.layer(layer).window_tokens();
    if (window == 0 || window > sequence.schedule.layer_budget(layer)) return false;
  }
  return true;
}

std::string why_nothing(const Sequence& sequence) {
  const CompressionOutcome& outcome = sequence.compression_outcome;
  const CacheSchedule& schedule = sequence.schedule;
  std::string note;
  if (schedule.prunes() && !outcome.pruned && windows_fit_budget(sequence)) {
    note = "nothing pruned: every layer's sliding window is within its budget";
  } else if (schedule.prunes() && !outcome.pruned) {
    note = sequence.num_computed_tokens <= schedule.budget_tokens()
               ? "nothing pruned: " + std::to_string(sequence.num_computed_tokens) +
                     " tokens fit the budget of " + std::to_string(schedule.budget_tokens())
               : "nothing pruned: the sequence ended before its first prune was due";
  }
  if (schedule.packs() && sequence.cache.layer(0).num_packed_tokens() == 0) {
    if (!note.empty()) note += "; ";
    note += "nothing quantised: the newest " + std::to_string(schedule.window_tokens()) +
            " tokens stay in f16, and fewer than " +
            std::to_string(sequence.cache.format().tail_tokens_per_block) +
            " came before them, or it ended first";
  }
  return note;
}

LayerSpread spread_of(const std::vector<int>& counts) {
  LayerSpread spread{.min = counts.front(), .mean = 0, .max = counts.front()};
  for (const int count : counts) {
    spread.min = std::min(spread.min, count);
    spread.max = std::max(spread.max, count);
    spread.mean += count;
  }
  spread.mean /= static_cast<double>(counts.size());
  return spread;
}

WindowOutcome window_outcome(const SequenceCache& cache) {
  std::vector<int> cached;
  std::vector<int> evicted;
  std::vector<int> dropped;
  for (int layer = 0; layer < cache.num_layers(); ++layer) {
    if (cache.layer(layer).window_tokens() == 0) continue;
    cached.push_back(cache.layer(layer).num_cached_tokens());
    evicted.push_back(cache.num_evicted(layer));
    dropped.push_back(cache.num_dropped(layer));
  }
  if (cached.empty()) return {};
  return {.num_layers = static_cast<int>(cached.size()),
          .tokens_cached = spread_of(cached),
          .tokens_evicted = spread_of(evicted),
          .tokens_dropped = spread_of(dropped)};
}

// Tokens that a layer would hold without compression, whole blocks apart.
int uncompressed_tokens(const Sequence& sequence, int layer) {
  const int window = sequence.cache.layer(layer).window_tokens();
  return window == 0 ? sequence.num_computed_tokens : std::min(sequence.num_computed_tokens, window);
}

}  // namespace

std::int64_t uncompressed_kv_bytes(const Sequence& sequence, const KvAccounting& accounting) {
  const KvDtype dtype = is_quantised(accounting.default_dtype) ? KvDtype::kF16 : accounting.default_dtype;
  const cpu::KvFormat format = make_kv_format(dtype, accounting.model.head_dim);
  std::int64_t blocks = 0;
  for (int layer = 0; layer < accounting.model.num_layers; ++layer)
    blocks += blocks_for(format, 0, uncompressed_tokens(sequence, layer));
  return blocks * accounting.block_bytes;
}

FinishEvent make_finish_event(const Sequence& sequence, FinishReason reason, const KvAccounting& accounting) {
  const Clock::time_point now = Clock::now();
  FinishEvent event{.index = sequence.index,
                    .reason = reason,
                    .prompt_tokens = sequence.num_prompt_tokens,
                    .completion_tokens = sequence.num_output_tokens(),
                    .queue_ms = ms_between(sequence.arrived_at, sequence.first_scheduled_at.value_or(now)),
                    .time_to_first_token_ms = sequence.first_token_at
                                                  ? ms_between(sequence.arrived_at, *sequence.first_token_at)
                                                  : 0,
                    .total_ms = ms_between(sequence.arrived_at, now),
                    .preemptions = sequence.num_preemptions,
                    .swaps = sequence.num_swaps,
                    .cached_prompt_tokens =
                        std::min(sequence.prefix.num_hit_tokens.value_or(0), sequence.num_prompt_tokens),
                    .drafted_tokens = sequence.num_drafted_tokens,
                    .accepted_draft_tokens = sequence.num_accepted_drafts,
                    .compression = sequence.compression_outcome};
  CompressionOutcome& outcome = event.compression;
  outcome.kv_bytes_before = uncompressed_kv_bytes(sequence, accounting);
  outcome.kv_bytes_held = sequence.cache.num_blocks() * accounting.block_bytes;
  outcome.windows = window_outcome(sequence.cache);
  const ModelConfig& model = accounting.model;
  std::int64_t tokens = 0;
  for (int layer = 0; layer < model.num_layers; ++layer) tokens += uncompressed_tokens(sequence, layer);
  outcome.kv_bytes_full_16bit = tokens * 2 * model.num_kv_heads * model.head_dim * 2;
  if (outcome.kv_bytes_after == 0) {  // neither pruned nor packed
    const int cached = sequence.cache.max_cached_tokens();
    outcome.kv_bytes_after = outcome.kv_bytes_held;
    outcome.tokens_kept = {cached, static_cast<double>(cached), cached};
  }
  if (outcome.enabled) outcome.note = why_nothing(sequence);
  return event;
}

}  // namespace kvcrush
