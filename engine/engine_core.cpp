#include "engine/engine_core.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <exception>

#include "engine/kernels/parallel.h"
#include "engine/loader/model_file.h"

namespace kvcrush {

namespace {

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

RequestTag tag_of(const Sequence& sequence) {
  return {sequence.request_id, sequence.index};
}

std::vector<TokenId> end_tokens(const SamplingParams& sampling, const TokenizerSpec& tokenizer) {
  std::vector<TokenId> ids = sampling.stop_token_ids;
  if (!sampling.ignore_eos) ids.insert(ids.end(), tokenizer.stop_ids.begin(), tokenizer.stop_ids.end());
  return ids;
}

bool contains(const std::vector<TokenId>& ids, TokenId token) {
  return std::find(ids.begin(), ids.end(), token) != ids.end();
}

}  // namespace

EngineCore::EngineCore(std::shared_ptr<const ModelFile> model, const EngineConfig& config,
                       const EngineLimits& limits, ModelWeights weights, const KvLayout& layout,
                       at::Device device, EngineObserver& observer)
    : model_(std::move(model)),
      limits_(limits),
      observer_(observer),
      pool_(static_cast<int>(limits.num_blocks), limits.block_size_tokens),
      scheduler_({.max_batch_tokens = config.max_batch_tokens,
                  .max_running_sequences = config.max_running_sequences},
                 pool_),
      runner_(model_->config, std::move(weights), layout, pool_.num_blocks(), config.max_batch_tokens,
              device) {}

void EngineCore::add(const EngineRequest& request, const std::shared_ptr<TokenStream>& stream,
                     Clock::time_point arrived_at) {
  for (int index = 0; index < request.num_samples; ++index) {
    auto sequence = std::make_unique<Sequence>(SequenceCache(pool_, model_->config.num_layers));
    sequence->id = next_id_++;
    sequence->request_id = request.request_id;
    sequence->index = index;
    sequence->token_ids = request.prompt_token_ids;
    sequence->num_prompt_tokens = sequence->num_tokens();
    sequence->sampling = request.sampling;
    sequence->end_token_ids = end_tokens(request.sampling, model_->tokenizer);
    sequence->stream = stream;
    sequence->arrived_at = arrived_at;
    if (request.compression) {
      sequence->compression = request.compression;
      sequence->prune_schedule =
          PruneSchedule(*request.compression, sequence->num_prompt_tokens, pool_.block_size_tokens());
      sequence->compression_outcome.enabled = true;
      sequence->compression_outcome.budget_tokens = sequence->prune_schedule.budget_tokens();
    }
    Sampler sampler(request.sampling, model_->config.vocab_size,
                    request.sampling.seed + static_cast<std::uint64_t>(index));
    sampler.observe_prompt(sequence->token_ids);
    samplers_.emplace(sequence->id, std::move(sampler));
    observer_.on_arrived(tag_of(*sequence), sequence->num_prompt_tokens);
    scheduler_.add(std::move(sequence));
  }
}

void EngineCore::step() {
  const Clock::time_point started_at = Clock::now();
  const StepPlan plan = scheduler_.plan();
  note_preemptions(plan);
  if (!plan.chunks.empty()) {
    try {
      note_scheduled(plan);
      const at::Tensor logits = runner_.run(plan);
      advance(plan);
      sample(plan, logits);
    } catch (const std::exception& error) {
      fail_running(error.what());
    }
  }
  report_step(plan, started_at);  // gauges change even where nothing ran: sequences may have been cancelled
}

void EngineCore::prune() {
  if (to_prune_.empty()) return;
  const Clock::time_point started_at = Clock::now();
  for (SequenceId id : std::exchange(to_prune_, {})) {
    Sequence* sequence = scheduler_.find_running(id);
    if (sequence == nullptr) continue;  // it ended with its last token
    try {
      const PruneReport report = runner_.prune(*sequence);
      sequence->compression_outcome.kv_bytes_after = sequence->cache.num_blocks() * limits_.block_bytes;
      observer_.on_pruned(tag_of(*sequence), report);
    } catch (const std::exception& error) {
      fail_running(error.what());
    }
  }
  report_step({}, started_at);  // the blocks are free now, not a step later
}

// After an exception nothing is known of the sequences in the step; those that wait, and the pool, are
// untouched.
void EngineCore::fail_running(const char* what) {
  observer_.on_step_failed(what);
  while (!scheduler_.running().empty())
    finish_sequence(scheduler_.running().back()->id, FinishReason::kError);
}

void EngineCore::note_preemptions(const StepPlan& plan) {
  for (const Preemption& preemption : plan.preemptions) {
    runner_.forget(preemption.sequence->id);
    observer_.on_preempted(tag_of(*preemption.sequence), preemption.blocks_returned);
  }
}

void EngineCore::note_scheduled(const StepPlan& plan) {
  for (const ScheduledChunk& chunk : plan.chunks) {
    Sequence& sequence = *chunk.sequence;
    if (sequence.first_scheduled_at) continue;
    sequence.first_scheduled_at = Clock::now();
    observer_.on_scheduled(tag_of(sequence),
                           seconds_between(sequence.arrived_at, *sequence.first_scheduled_at));
  }
}

void EngineCore::advance(const StepPlan& plan) {
  for (const ScheduledChunk& chunk : plan.chunks) {
    chunk.sequence->num_computed_tokens += chunk.num_tokens;
    if (chunk.prunes_after) to_prune_.push_back(chunk.sequence->id);
  }
}

void EngineCore::sample(const StepPlan& plan, const at::Tensor& logits) {
  std::vector<Sequence*> sampling;
  for (const ScheduledChunk& chunk : plan.chunks) {
    if (chunk.samples_token) sampling.push_back(chunk.sequence);
  }
  std::vector<SampleResult> sampled(sampling.size());
  const std::int64_t vocab_size = model_->config.vocab_size;
  float* rows = sampling.empty() ? nullptr : logits.data_ptr<float>();
  parallel_for(static_cast<std::int64_t>(sampling.size()), [&](std::int64_t i, int) {
    const Sequence& sequence = *sampling[i];
    const int step = sequence.num_output_tokens();
    const std::span<const TokenId> banned = step < sequence.sampling.min_tokens
                                                ? std::span<const TokenId>(sequence.end_token_ids)
                                                : std::span<const TokenId>();
    sampled[i] = samplers_.at(sequence.id)
                     .sample({rows + i * vocab_size, static_cast<std::size_t>(vocab_size)}, step, banned);
  });
  for (std::size_t i = 0; i < sampling.size(); ++i) apply(*sampling[i], std::move(sampled[i]));
}

void EngineCore::apply(Sequence& sequence, SampleResult sampled) {
  const Clock::time_point now = Clock::now();
  const bool is_first = !sequence.first_token_at.has_value();
  observer_.on_token(tag_of(sequence), is_first,
                     seconds_between(is_first ? sequence.arrived_at : sequence.last_token_at, now));
  if (is_first) sequence.first_token_at = now;
  sequence.last_token_at = now;

  sequence.token_ids.push_back(sampled.token);
  samplers_.at(sequence.id).observe_output(sampled.token);
  const bool is_end = contains(sequence.end_token_ids, sampled.token);
  events_.push_back({.stream = sequence.stream,
                     .event = TokenEvent{.index = sequence.index,
                                         .token = sampled.token,
                                         .is_end_token = is_end,
                                         .logprob = sampled.logprob,
                                         .top_logprobs = std::move(sampled.top_logprobs)},
                     .finished_request_id = {}});
  if (is_end) {
    finish_sequence(sequence.id, FinishReason::kStop);
  } else if (sequence.num_output_tokens() >= sequence.sampling.max_tokens) {
    finish_sequence(sequence.id, FinishReason::kLength);
  }
}

void EngineCore::finish_sequence(SequenceId id, FinishReason reason) {
  const std::unique_ptr<Sequence> sequence = scheduler_.remove(id);
  runner_.forget(id);
  samplers_.erase(id);
  const Clock::time_point now = Clock::now();
  FinishEvent event{
      .index = sequence->index,
      .reason = reason,
      .prompt_tokens = sequence->num_prompt_tokens,
      .completion_tokens = sequence->num_output_tokens(),
      .queue_ms = seconds_between(sequence->arrived_at, sequence->first_scheduled_at.value_or(now)) * 1e3,
      .time_to_first_token_ms = sequence->first_token_at
                                    ? seconds_between(sequence->arrived_at, *sequence->first_token_at) * 1e3
                                    : 0,
      .total_ms = seconds_between(sequence->arrived_at, now) * 1e3,
      .preemptions = sequence->num_preemptions,
      .compression = sequence->compression_outcome};
  event.compression.kv_bytes_before = blocks_without_pruning(*sequence) * limits_.block_bytes;
  if (!event.compression.pruned) {
    const int cached = sequence->cache.max_cached_tokens();
    event.compression.kv_bytes_after = event.compression.kv_bytes_before;
    event.compression.tokens_kept = {cached, static_cast<double>(cached), cached};
  }
  observer_.on_finished(tag_of(*sequence), event);
  events_.push_back({sequence->stream, event, sequence->request_id});
}

void EngineCore::finish(const std::string& request_id, std::optional<int> index, FinishReason reason) {
  std::vector<SequenceId> ids;
  const auto collect = [&](const auto& sequences) {
    for (const auto& sequence : sequences) {
      if (sequence->request_id == request_id && (!index || *index == sequence->index))
        ids.push_back(sequence->id);
    }
  };
  collect(scheduler_.running());
  collect(scheduler_.waiting());
  for (SequenceId id : ids) finish_sequence(id, reason);
}

void EngineCore::finish_all(FinishReason reason) {
  while (!scheduler_.running().empty()) finish_sequence(scheduler_.running().back()->id, reason);
  while (!scheduler_.waiting().empty()) finish_sequence(scheduler_.waiting().back()->id, reason);
}

std::int64_t EngineCore::blocks_without_pruning(const Sequence& sequence) const {
  return static_cast<std::int64_t>(pool_.blocks_for(sequence.num_computed_tokens)) *
         model_->config.num_layers;
}

std::int64_t EngineCore::kv_bytes_saved() const {
  std::int64_t blocks = 0;
  for (const auto& sequence : scheduler_.running()) {
    blocks += std::max<std::int64_t>(0, blocks_without_pruning(*sequence) - sequence->cache.num_blocks());
  }
  return blocks * limits_.block_bytes;
}

void EngineCore::report_step(const StepPlan& plan, Clock::time_point started_at) const {
  observer_.on_step({.num_prefill_tokens = plan.num_prefill_tokens,
                     .num_decode_tokens = plan.num_decode_tokens,
                     .num_running = static_cast<int>(scheduler_.running().size()),
                     .num_waiting = static_cast<int>(scheduler_.waiting().size()),
                     .blocks_used = pool_.num_used(),
                     .blocks_total = pool_.num_blocks(),
                     .kv_bytes_used = pool_.num_used() * limits_.block_bytes,
                     .kv_bytes_saved = kv_bytes_saved(),
                     .step_seconds = seconds_between(started_at, Clock::now())});
}

void EngineCore::update_totals(EngineStats& stats) const {
  stats.num_running = static_cast<int>(scheduler_.running().size());
  stats.num_waiting = static_cast<int>(scheduler_.waiting().size());
  stats.blocks_used = pool_.num_used();
  stats.blocks_total = pool_.num_blocks();
  stats.kv_bytes_used = pool_.num_used() * limits_.block_bytes;
  stats.kv_bytes_saved = kv_bytes_saved();
}

std::vector<SequenceStats> EngineCore::describe_sequences() const {
  std::vector<SequenceStats> all;
  const Clock::time_point now = Clock::now();
  const auto describe = [&](const Sequence& sequence, std::string_view state) {
    all.push_back({.request_id = sequence.request_id,
                   .index = sequence.index,
                   .state = state,
                   .prompt_tokens = sequence.num_prompt_tokens,
                   .completion_tokens = sequence.num_output_tokens(),
                   .blocks = sequence.cache.num_blocks(),
                   .age_ms = seconds_between(sequence.arrived_at, now) * 1e3});
  };
  for (const auto& sequence : scheduler_.running())
    describe(*sequence, sequence->is_decoding() ? "decode" : "prefill");
  for (const auto& sequence : scheduler_.waiting()) describe(*sequence, "waiting");
  return all;
}

}  // namespace kvcrush
