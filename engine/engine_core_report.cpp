// What the engine says about itself between steps.
#include <algorithm>
#include <utility>

#include "engine/engine_core.h"
#include "engine/finish_report.h"
#include "engine/loader/model_file.h"

namespace kvcrush {

void EngineCore::count_totals() {
  totals_ = {.num_running = static_cast<int>(scheduler_.running().size()),
             .blocks_used = pool_.num_used(),
             .blocks_total = pool_.num_blocks(),
             .kv_bytes_used = pool_.num_used() * limits_.block_bytes,
             .prefix_cache_blocks = prefix_cache_ ? prefixes_.num_blocks() : 0,
             .swap_bytes_used = scheduler_.num_swapped_blocks() * limits_.block_bytes};
  const KvAccounting accounting{model_->config, default_dtype_, limits_.block_bytes};
  for (const auto& sequence : scheduler_.running()) {
    const std::int64_t held_bytes = sequence->cache.num_blocks() * limits_.block_bytes;
    totals_.kv_bytes_saved +=
        std::max<std::int64_t>(0, uncompressed_kv_bytes(*sequence, accounting) - held_bytes);
  }
  scheduler_.waiting().for_each([&](const Sequence& sequence) {
    totals_.num_waiting += sequence.kind == SequenceKind::kTrunk ? 0 : 1;
    if (!sequence.forks && !sequence.is_swapped())
      totals_.num_waiting_tokens += sequence.num_uncomputed_tokens();
  });
}

void EngineCore::note_prune_times() {
  for (const PruneTime& time : executor_->take_prune_times()) {
    observer_.on_prune_timed(time.seconds());
    Sequence* sequence = scheduler_.find(time.id);
    if (sequence == nullptr) continue;
    CompressionOutcome& outcome = sequence->compression_outcome;
    outcome.prune_ms += time.seconds() * 1e3;
    outcome.score_ms += time.score_seconds * 1e3;
    outcome.select_ms += time.select_seconds * 1e3;
    outcome.compact_ms += time.compact_seconds * 1e3;
  }
}

void EngineCore::report_step(const StepPlan& plan, Clock::time_point started_at) {
  count_totals();
  StepReport report{totals_};
  report.num_prefill_tokens = plan.num_prefill_tokens;
  report.num_decode_tokens = plan.num_decode_tokens;
  report.num_draft_tokens = std::exchange(num_step_drafts_, 0);
  report.num_accepted_draft_tokens = std::exchange(num_step_accepted_drafts_, 0);
  report.step_seconds = seconds_between(started_at, Clock::now());
  observer_.on_step(report);
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
