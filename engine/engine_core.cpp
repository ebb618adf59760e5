#include "engine/engine_core.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <exception>

#include "engine/finish_report.h"
#include "engine/kernels/parallel.h"
#include "engine/loader/model_file.h"
#include "engine/request_sequences.h"

namespace kvcrush {

namespace {

// Samples of one policy differ by seed; samples of several policies by policy alone, so that they can be
// compared.
std::uint64_t sample_seed(const EngineRequest& request, int index) {
  return request.sampling.seed + (request.cache_policies.size() == 1 ? static_cast<std::uint64_t>(index) : 0);
}

}  // namespace

EngineCore::EngineCore(std::shared_ptr<const ModelFile> model, const EngineConfig& config,
                       const EngineLimits& limits, KvDtype default_dtype,
                       std::unique_ptr<ModelExecutor> executor, EngineObserver& observer)
    : model_(std::move(model)),
      limits_(limits),
      default_dtype_(default_dtype),
      observer_(observer),
      windows_(model_->config.windows_within(limits.max_context_tokens)),
      pool_(static_cast<int>(limits.num_blocks)),
      prefixes_(pool_, model_->config.num_layers, windows_),
      scheduler_({.max_batch_tokens = config.max_batch_tokens,
                  .max_running_sequences = config.max_running_sequences},
                 pool_, prefixes_),
      executor_(std::move(executor)),
      prefix_cache_(config.prefix_cache),
      swap_meter_(config.swap_memory_bytes, limits.block_bytes) {
  count_totals();
}

void EngineCore::add(const EngineRequest& request, const std::shared_ptr<TokenStream>& stream,
                     Clock::time_point arrived_at) {
  const SequenceContext context{.pool = &pool_,
                                .model = &model_->config,
                                .model_stop_ids = &model_->tokenizer.stop_ids,
                                .default_dtype = default_dtype_,
                                .max_context_tokens = limits_.max_context_tokens,
                                .prefix_cache = prefix_cache_,
                                .first_id = next_id_};
  for (auto& sequence : make_sequences(request, stream, arrived_at, context)) {
    next_id_ = sequence->id + 1;
    if (sequence->kind == SequenceKind::kTrunk) {
      executor_->expect_children(sequence->id, needs_of_children(request, default_dtype_));
    } else {
      observer_.on_arrived(tag_of(*sequence), sequence->num_prompt_tokens);
    }
    if (sequence->kind == SequenceKind::kSample) {
      Sampler sampler(request.sampling, model_->config.vocab_size, sample_seed(request, sequence->index));
      sampler.observe_prompt(sequence->token_ids);
      samplers_.emplace(sequence->id, std::move(sampler));
    }
    scheduler_.add(std::move(sequence));
  }
}

void EngineCore::step() {
  const Clock::time_point started_at = Clock::now();
  observer_.on_step_started();
  scheduler_.set_swap_costs(swap_meter_.costs());
  const StepPlan plan = scheduler_.plan();
  note_preemptions(plan);
  note_prefixes(plan);
  if (!plan.chunks.empty() || !plan.forks.empty() || !plan.swap_ins.empty() || !plan.preemptions.empty()) {
    try {
      swap(plan);
      note_scheduled(plan);
      const at::Tensor logits = executor_->run(plan);
      advance(plan);
      start_forks(plan);
      use_logits(plan, logits);
      ready_trunks(plan);
      finish_scores(plan);
      drop_past_windows(plan);
    } catch (const std::exception& error) {
      fail_running(error.what());
    }
    swap_meter_.step(plan, seconds_between(started_at, Clock::now()));
  }
  note_prune_times();
  report_step(plan, started_at);  // gauges change even where nothing ran: sequences may have been cancelled
}

bool EngineCore::prune() {
  if (to_settle_.empty()) return false;
  const Clock::time_point started_at = Clock::now();
  observer_.on_step_started();
  for (const auto& [id, settling] : std::exchange(to_settle_, {})) {
    Sequence* sequence = scheduler_.find_running(id);
    if (sequence == nullptr) continue;  // it ended with its last token
    try {
      const PruneReport report = executor_->settle(*sequence, settling);
      sequence->compression_outcome.kv_bytes_after = sequence->cache.num_blocks() * limits_.block_bytes;
      observer_.on_pruned(tag_of(*sequence), report);
    } catch (const std::exception& error) {
      fail_running(error.what());
    }
  }
  report_step({}, started_at);  // the blocks are free now, not a step later
  return true;
}

// What a lookahead or a trunk's continuation saw must be there when they are taken out again.
void EngineCore::drop_past_windows(const StepPlan& plan) {
  if (windows_.empty()) return;
  for (const ScheduledChunk& chunk : plan.chunks) {
    Sequence* sequence = scheduler_.find_running(chunk.sequence_id);
    if (sequence == nullptr || sequence->lookahead.running()) continue;
    const bool trunk = sequence->kind == SequenceKind::kTrunk;
    const int num_newest =
        trunk ? std::max(0, sequence->num_computed_tokens - sequence->num_prompt_tokens) : 0;
    const WindowReport report = sequence->cache.drop_past_windows(num_newest, model_->config.num_kv_heads);
    if (report.tokens_dropped > 0) observer_.on_window_moved(report);
  }
}

// After an exception nothing is known of the sequences in the step; those that wait, and the pool, are
// untouched, but for samples that wait for a trunk of the step.
void EngineCore::fail_running(const char* what) {
  observer_.on_step_failed(what);
  to_settle_.clear();
  std::vector<SequenceId> failed;
  for (const auto& sequence : scheduler_.running()) {
    if (sequence->kind != SequenceKind::kTrunk) failed.push_back(sequence->id);
  }
  scheduler_.waiting().for_each([&](const Sequence& sequence) {
    const Sequence* trunk = sequence.group == nullptr ? nullptr : sequence.group->trunk;
    const bool lost_trunk =
        trunk != nullptr && trunk != &sequence && scheduler_.find_running(trunk->id) != nullptr;
    if (lost_trunk || sequence.is_swapped()) failed.push_back(sequence.id);
  });
  for (const SequenceId id : failed) finish_sequence(id, FinishReason::kError);
  prefixes_.forget_all();
}

void EngineCore::note_preemptions(const StepPlan& plan) {
  for (const Preemption& preemption : plan.preemptions) {
    const bool swapped = !preemption.swapped_blocks.empty();
    if (!swapped) executor_->forget(preemption.sequence->id, /*for_good=*/false);
    observer_.on_preempted(tag_of(*preemption.sequence), preemption.blocks_returned, swapped);
  }
}

void EngineCore::note_prefixes(const StepPlan& plan) {
  for (const Sequence* sequence : plan.prefix_lookups) {
    if (sequence->prefix.looks_up)
      observer_.on_prefix_lookup(tag_of(*sequence), sequence->num_prompt_tokens,
                                 sequence->prefix.num_hit_tokens.value_or(0));
  }
}

// Out before in: the blocks may be the same.
void EngineCore::swap(const StepPlan& plan) {
  const Clock::time_point started_at = Clock::now();
  int num_blocks = 0;
  for (const Preemption& preemption : plan.preemptions) {
    if (preemption.swapped_blocks.empty()) continue;
    executor_->swap_out(preemption.sequence->id, preemption.swapped_blocks);
    num_blocks += static_cast<int>(preemption.swapped_blocks.size());
  }
  for (const SwapIn& swap_in : plan.swap_ins) {
    executor_->swap_in(swap_in.sequence->id, swap_in.blocks);
    num_blocks += static_cast<int>(swap_in.blocks.size());
  }
  const std::optional<double> seconds = executor_->seconds_per_swapped_block();
  swap_meter_.moved(num_blocks, seconds ? *seconds * num_blocks : seconds_between(started_at, Clock::now()));
}

void EngineCore::share_prefix(Sequence& sequence, int num_tokens) {
  if (!sequence.prefix.shares || sequence.lookahead.running() || !sequence.cache.is_whole()) return;
  sequence.cache.share(prefixes_, sequence.prefix.scope, sequence.shareable_tokens(num_tokens));
}

void EngineCore::note_scheduled(const StepPlan& plan) {
  const auto note = [&](Sequence& sequence, Clock::time_point when) {
    if (sequence.first_scheduled_at) return;
    sequence.first_scheduled_at = when;
    if (sequence.kind != SequenceKind::kTrunk)
      observer_.on_scheduled(tag_of(sequence), seconds_between(sequence.arrived_at, when));
  };
  for (const Fork& fork : plan.forks) note(*fork.child, *fork.trunk->first_scheduled_at);
  for (const ScheduledChunk& chunk : plan.chunks) note(*chunk.sequence, Clock::now());
}

void EngineCore::advance(const StepPlan& plan) {
  for (const ScheduledChunk& chunk : plan.chunks) {
    Sequence& sequence = *chunk.sequence;
    sequence.num_computed_tokens += chunk.is_lookahead() ? 1 : chunk.num_tokens;
    if (chunk.first_token < sequence.num_prompt_tokens) {
      share_prefix(sequence, std::min(sequence.num_computed_tokens, sequence.num_prompt_tokens));
    } else if (!windows_.empty() && sequence.shares_answer()) {
      share_prefix(sequence, sequence.num_computed_tokens);
    }
    if (chunk.settling) to_settle_.emplace_back(sequence.id, chunk.settling);
    if (chunk.starts_lookahead) sequence.lookahead.start();
    if (chunk.is_lookahead() && chunk.num_logit_rows == 0) end_lookahead(sequence);
  }
}

void EngineCore::finish_sequence(SequenceId id, FinishReason reason) {
  note_prune_times();  // it may be its own
  const std::unique_ptr<Sequence> sequence = scheduler_.remove(id);
  executor_->forget(id, /*for_good=*/true);
  samplers_.erase(id);
  // The next turn of a conversation begins with this one's output.
  if (sequence->kind == SequenceKind::kSample && reason != FinishReason::kError)
    share_prefix(*sequence, sequence->num_computed_tokens);
  const FinishEvent event =
      make_finish_event(*sequence, reason, {model_->config, default_dtype_, limits_.block_bytes});
  observer_.on_finished(tag_of(*sequence), event);
  emit(*sequence, event);
  events_.back().finished_request_id = sequence->request_id;
  if (sequence->group == nullptr) return;
  --sequence->group->num_live_children;
  sequence->group->num_waiting_children -= sequence->forks ? 1 : 0;
  drop_trunk_if_done(*sequence->group);
}

template <typename Matches>
void EngineCore::finish_matching(FinishReason reason, const Matches& matches) {
  std::vector<SequenceId> ids;
  const auto collect = [&](const Sequence& sequence) {
    if (sequence.kind != SequenceKind::kTrunk && matches(sequence)) ids.push_back(sequence.id);
  };
  for (const auto& sequence : scheduler_.running()) collect(*sequence);
  scheduler_.waiting().for_each(collect);
  for (const SequenceId id : ids) finish_sequence(id, reason);
}

void EngineCore::finish(const std::string& request_id, std::optional<int> index, FinishReason reason) {
  finish_matching(reason, [&](const Sequence& sequence) {
    return sequence.request_id == request_id && (!index || *index == sequence.index);
  });
}

void EngineCore::finish_all(FinishReason reason) {
  finish_matching(reason, [](const Sequence&) { return true; });
  count_totals();
}

void EngineCore::expire(Clock::time_point now) {
  finish_matching(FinishReason::kDeadline,
                  [now](const Sequence& sequence) { return sequence.deadline && *sequence.deadline <= now; });
}

}  // namespace kvcrush
