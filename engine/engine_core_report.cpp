// What the engine says about itself between steps.
#include <algorithm>
#include <utility>

#include "engine/engine_core.h"
#include "engine/finish_report.h"
#include "engine/loader/model_file.h"

namespace kvcrush {

int EngineCore::num_waiting() const {
  int waiting = 0;
  scheduler_.waiting().for_each(
      [&](const Sequence& s) { waiting += s.kind == SequenceKind::kTrunk ? 0 : 1; });
  return waiting;
}

int EngineCore::num_waiting_tokens() const {
  int tokens = 0;
  scheduler_.waiting().for_each([&](const Sequence& sequence) {
    if (!sequence.forks && !sequence.is_swapped()) tokens += sequence.num_uncomputed_tokens();
  });
  return tokens;
}

std::int64_t EngineCore::kv_bytes_saved() const {
  std::int64_t bytes = 0;
  for (const auto& sequence : scheduler_.running()) {
    bytes += std::max<std::int64_t>(
        0, uncompressed_kv_bytes(*sequence, {model_->config, default_dtype_, limits_.block_bytes}) -
               sequence->cache.num_blocks() * limits_.block_bytes);
  }
  return bytes;
}

void EngineCore::note_prune_times() {
  for (const PruneTime& time : executor_->take_prune_times()) {
    observer_.on_prune_timed(time.seconds);
    if (Sequence* sequence = scheduler_.find(time.id))
      sequence->compression_outcome.prune_ms += time.seconds * 1e3;
  }
}

void EngineCore::report_step(const StepPlan& plan, Clock::time_point started_at) {
  observer_.on_step({.num_prefill_tokens = plan.num_prefill_tokens,
                     .num_decode_tokens = plan.num_decode_tokens,
                     .num_draft_tokens = std::exchange(num_step_drafts_, 0),
                     .num_accepted_draft_tokens = std::exchange(num_step_accepted_drafts_, 0),
                     .num_running = static_cast<int>(scheduler_.running().size()),
                     .num_waiting = num_waiting(),
                     .num_waiting_tokens = num_waiting_tokens(),
                     .blocks_used = pool_.num_used(),
                     .blocks_total = pool_.num_blocks(),
                     .kv_bytes_used = pool_.num_used() * limits_.block_bytes,
                     .kv_bytes_saved = kv_bytes_saved(),
                     .prefix_cache_blocks = prefix_cache_blocks(),
                     .swap_bytes_used = swap_bytes_used(),
                     .step_seconds = seconds_between(started_at, Clock::now())});
}

void EngineCore::update_totals(EngineStats& stats) const {
  stats.num_running = static_cast<int>(scheduler_.running().size());
  stats.num_waiting = num_waiting();
  stats.num_waiting_tokens = num_waiting_tokens();
  stats.blocks_used = pool_.num_used();
  stats.blocks_total = pool_.num_blocks();
  stats.kv_bytes_used = pool_.num_used() * limits_.block_bytes;
  stats.kv_bytes_saved = kv_bytes_saved();
  stats.prefix_cache_blocks = prefix_cache_blocks();
  stats.swap_bytes_used = swap_bytes_used();
}

std::vector<SequenceStats> EngineCore::describe_sequences() const {
  std::vector<SequenceStats> all;
  const Clock::time_point now = Clock::now();
  const auto describe = [&](const Sequence& sequence, std::string_view state) {
    if (sequence.kind == SequenceKind::kTrunk) return;
    all.push_back({.request_id = sequence.request_id,
                   .index = sequence.index,
                   .state = state,
                   .prompt_tokens = sequence.num_prompt_tokens,
                   .completion_tokens = sequence.num_output_tokens(),
                   .blocks = sequence.cache.num_blocks(),
                   .age_ms = seconds_between(sequence.arrived_at, now) * 1e3,
                   .tenant = sequence.tenant,
                   .priority = sequence.priority});
  };
  for (const auto& sequence : scheduler_.running())
    describe(*sequence, sequence->is_decoding() ? "decode" : "prefill");
  scheduler_.waiting().for_each(
      [&](const Sequence& sequence) { describe(sequence, sequence.is_swapped() ? "swapped" : "waiting"); });
  return all;
}

}  // namespace kvcrush
