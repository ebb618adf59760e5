// What comes out of a step: tokens for samples, probabilities for scores, a prompt's end for trunks.
#include <ATen/ATen.h>

#include <algorithm>

#include "engine/engine_core.h"
#include "engine/kernels/parallel.h"
#include "engine/loader/model_file.h"
#include "engine/scoring.h"

namespace kvcrush {

namespace {

bool contains(const std::vector<TokenId>& ids, TokenId token) {
  return std::find(ids.begin(), ids.end(), token) != ids.end();
}

// What a sequence wanted of a step's logits.
struct Rows {
  Sequence* sequence;
  float* first;
  int count;
  int end_token;  // of the chunk
  bool starts_lookahead;
  int num_branches;
  int num_drafts;
  bool is_lookahead() const { return num_branches > 0; }
  bool samples() const {
    return sequence->kind == SequenceKind::kSample && !is_lookahead() && end_token >= sequence->num_tokens();
  }
  // More comes of them than a token, which the sampler checks by itself.
  bool outlasts_the_step() const {
    return starts_lookahead || is_lookahead() || sequence->kind != SequenceKind::kSample;
  }
  std::span<const float> all(int vocab_size) const {
    return {first, static_cast<std::size_t>(count) * static_cast<std::size_t>(vocab_size)};
  }
};

std::vector<Rows> rows_of(const StepPlan& plan, const at::Tensor& logits, int vocab_size) {
  std::vector<Rows> rows;
  float* next = logits.defined() ? logits.data_ptr<float>() : nullptr;
  for (const ScheduledChunk& chunk : plan.chunks) {
    if (chunk.num_logit_rows == 0) continue;
    rows.push_back({chunk.sequence, next, chunk.num_logit_rows, chunk.first_token + chunk.num_tokens,
                    chunk.starts_lookahead, chunk.num_branches, chunk.num_drafts});
    next += static_cast<std::int64_t>(chunk.num_logit_rows) * vocab_size;
  }
  return rows;
}

}  // namespace

void EngineCore::emit(const Sequence& sequence, StreamEvent event) {
  OutgoingEvent& outgoing = events_.emplace_back();
  outgoing.stream = sequence.stream;
  outgoing.event = std::move(event);
}

// A child begins where the prompt ends: its first token comes from the trunk's logits.
void EngineCore::start_forks(const StepPlan& plan) {
  for (std::size_t i = 0; i < plan.forks.size(); ++i) {
    Sequence& child = *plan.forks[i].child;
    const bool settled =
        executor_->fork_reports()[i].tokens_evicted > 0 || child.cache.layer(0).num_packed_tokens() > 0;
    if (executor_->fork_reports()[i].tokens_evicted > 0)
      child.compression_outcome.lookahead_tokens = child.lookahead.shape.total();
    if (settled) {
      child.compression_outcome.kv_bytes_after = child.cache.num_blocks() * limits_.block_bytes;
      observer_.on_pruned(tag_of(child), executor_->fork_reports()[i]);
    }
    const std::shared_ptr<ForkGroup> group = child.group;  // outlives a child that ends with its first token
    if (child.kind == SequenceKind::kScore) {
      score_rows(child, group->prompt_logits.data(), 1, model_->config.vocab_size);
    } else if (child.num_output_tokens() == 0) {         // else it was preempted: its tokens are known
      std::vector<float> logits = group->prompt_logits;  // sampling works in place
      if (apply(child, sample(child, logits)))
        child.drafts = group->lookahead.part(child.lookahead.shape).continuation_of(child.token_ids.back());
    }
    drop_trunk_if_done(*group);
  }
}

bool EngineCore::sample_on_device(const StepPlan& plan, const at::Tensor& logits) {
  if (!executor_->samples() || !logits.defined()) return false;
  std::vector<SampleJob> jobs;
  std::vector<Sequence*> sequences;
  for (const ScheduledChunk& chunk : plan.chunks) {
    if (chunk.num_logit_rows == 0) continue;
    if (chunk.sequence->kind != SequenceKind::kSample || chunk.num_logit_rows != 1 ||
        chunk.starts_lookahead || chunk.is_lookahead())
      return false;
    jobs.push_back({.sequence = chunk.sequence,
                    .row = static_cast<int>(jobs.size()),
                    .stream_key = samplers_.at(chunk.sequence_id).stream_key(),
                    .banned = banned_tokens(*chunk.sequence)});
    sequences.push_back(chunk.sequence);
  }
  std::vector<SampleResult> sampled = executor_->sample(jobs, logits);
  for (std::size_t i = 0; i < sequences.size(); ++i) apply(*sequences[i], std::move(sampled[i]));
  return true;
}

void EngineCore::use_logits(const StepPlan& plan, const at::Tensor& device_logits) {
  if (sample_on_device(plan, device_logits)) return;
  const at::Tensor logits = device_logits.defined() ? executor_->to_host(device_logits) : device_logits;
  const int vocab_size = model_->config.vocab_size;
  std::vector<Rows> wanted = rows_of(plan, logits, vocab_size);
  std::erase_if(wanted, [&](const Rows& rows) {
    if (!rows.outlasts_the_step() || !has_nan(rows.all(vocab_size))) return false;
    fail_invalid(*rows.sequence);
    return true;
  });
  // Before sampling, which works in place; trunks first, for scores of the same step may be compared with
  // theirs.
  for (const Rows& rows : wanted) {
    const std::span<const float> last_row(rows.first, static_cast<std::size_t>(vocab_size));
    if (rows.starts_lookahead) rows.sequence->lookahead.choose_first(last_row);
    for (int b = 0; b < rows.num_branches; ++b)
      rows.sequence->lookahead.choose(
          b, rows.sequence->num_computed_tokens - rows.sequence->num_prompt_tokens,
          {rows.first + b * static_cast<std::ptrdiff_t>(vocab_size), static_cast<std::size_t>(vocab_size)});
    if (rows.sequence->kind != SequenceKind::kTrunk || rows.is_lookahead()) continue;
    keep_trunk_rows(*rows.sequence, rows.first,
                    rows.end_token - rows.count - rows.sequence->num_prompt_tokens + 1, rows.count,
                    vocab_size);
  }
  std::vector<SampleResult> sampled(wanted.size());
  parallel_for(static_cast<std::int64_t>(wanted.size()), [&](std::int64_t i, int) {
    const Rows& rows = wanted[static_cast<std::size_t>(i)];
    if (rows.sequence->kind == SequenceKind::kScore && !rows.is_lookahead())
      score_rows(*rows.sequence, rows.first, rows.count, vocab_size);
    if (rows.samples() && rows.num_drafts == 0)
      sampled[static_cast<std::size_t>(i)] =
          sample(*rows.sequence, {rows.first, static_cast<std::size_t>(vocab_size)});
  });
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const Rows& rows = wanted[i];
    if (!rows.samples()) continue;
    if (rows.num_drafts > 0) {
      check_drafts(*rows.sequence, rows.first, rows.num_drafts);
    } else {
      apply(*rows.sequence, std::move(sampled[i]));
    }
  }
}

void EngineCore::check_drafts(Sequence& sequence, float* rows, int num_drafts) {
  const std::vector<TokenId> drafts = std::exchange(sequence.drafts, {});
  const auto width = static_cast<std::size_t>(model_->config.vocab_size);
  sequence.num_computed_tokens -= num_drafts;
  for (int i = 0; i <= num_drafts; ++i) {
    SampleResult sampled = sample(sequence, {rows + width * static_cast<std::size_t>(i), width});
    const bool right = i < num_drafts && sampled.token == drafts[static_cast<std::size_t>(i)];
    if (!apply(sequence, std::move(sampled))) return;
    if (!right) {
      sequence.cache.drop_newest(num_drafts - i);
      return;
    }
    ++sequence.num_computed_tokens;
    ++sequence.compression_outcome.lookahead_tokens_used;
  }
}

void EngineCore::end_lookahead(Sequence& sequence) {
  sequence.cache.drop_newest(sequence.lookahead.shape.total());
  sequence.num_computed_tokens = sequence.num_prompt_tokens;
  sequence.lookahead.stop();
  sequence.compression_outcome.lookahead_tokens = sequence.lookahead.shape.total();
  const Settling settling = sequence.schedule.due(sequence.num_computed_tokens, sequence.cache);
  if (settling) to_settle_.emplace_back(sequence.id, settling);
  if (sequence.kind == SequenceKind::kTrunk) sequence.group->lookahead = sequence.lookahead;
  if (sequence.kind == SequenceKind::kSample && sequence.num_output_tokens() == 1)
    sequence.drafts = sequence.lookahead.continuation_of(sequence.token_ids.back());
}

void EngineCore::ready_trunks(const StepPlan& plan) {
  for (const ScheduledChunk& chunk : plan.chunks) {
    Sequence* trunk = scheduler_.find_running(chunk.sequence_id);
    if (trunk != nullptr && trunk->kind == SequenceKind::kTrunk && trunk->num_uncomputed_tokens() == 0)
      ready_trunk(*trunk);
  }
}

std::span<const TokenId> EngineCore::banned_tokens(const Sequence& sequence) {
  if (sequence.num_output_tokens() >= sequence.sampling.min_tokens) return {};
  return sequence.end_token_ids;
}

SampleResult EngineCore::sample(const Sequence& sequence, std::span<float> logits) {
  return samplers_.at(sequence.id).sample(logits, sequence.num_output_tokens(), banned_tokens(sequence));
}

void EngineCore::finish_scores(const StepPlan& plan) {
  const auto finish_if_done = [&](Sequence& sequence) {
    if (sequence.kind != SequenceKind::kScore || sequence.num_uncomputed_tokens() > 0) return;
    ScoreEvent event{.index = sequence.index,
                     .logprobs = sequence.score.logprobs,
                     .kl_divergences = sequence.score.kl_divergences,
                     .top1_agrees = sequence.score.top1_agrees,
                     .full_logprobs = {}};
    if (sequence.group != nullptr && sequence.group->compares) {
      const float* full = sequence.group->full_log_probs.data();
      const TokenId* tokens = sequence.token_ids.data() + sequence.num_prompt_tokens;
      for (int i = 0; i < sequence.num_output_tokens(); ++i)
        event.full_logprobs.push_back(
            full[static_cast<std::int64_t>(i) * model_->config.vocab_size + tokens[i]]);
    }
    emit(sequence, std::move(event));
    finish_sequence(sequence.id, FinishReason::kStop);
  };
  for (const Fork& fork : plan.forks) {
    if (Sequence* child = scheduler_.find_running(fork.child_id)) finish_if_done(*child);
  }
  for (const ScheduledChunk& chunk : plan.chunks) {
    if (Sequence* sequence = scheduler_.find_running(chunk.sequence_id)) finish_if_done(*sequence);
  }
}

// Back to the prompt's end, where its children begin.
void EngineCore::ready_trunk(Sequence& trunk) {
  trunk.cache.drop_newest(trunk.num_computed_tokens - trunk.num_prompt_tokens);
  trunk.group->ready = true;
  drop_trunk_if_done(*trunk.group);
}

void EngineCore::drop_trunk_if_done(ForkGroup& group) {
  if (group.trunk == nullptr || group.num_waiting_children > 0) return;
  if (!group.ready && group.num_live_children > 0) return;
  const SequenceId id = group.trunk->id;
  group.trunk = nullptr;
  const std::unique_ptr<Sequence> trunk = scheduler_.remove(id);
  executor_->forget(id, /*for_good=*/true);
}

// Prompts with the same beginning would end like this one. A fork that was pruned shares nothing itself.
void EngineCore::fail_invalid(Sequence& sequence) {
  sequence.cache.distrust_shared();
  if (sequence.group != nullptr && sequence.group->trunk != nullptr)
    sequence.group->trunk->cache.distrust_shared();
  if (sequence.kind == SequenceKind::kTrunk) return fail_invalid_trunk(sequence);
  observer_.on_invalid_logits(tag_of(sequence));
  finish_sequence(sequence.id, FinishReason::kError);
}

void EngineCore::fail_invalid_trunk(Sequence& trunk) {
  const std::shared_ptr<ForkGroup> group = trunk.group;
  std::vector<const Sequence*> dependent;
  scheduler_.waiting().for_each([&](const Sequence& sequence) {
    if (sequence.group == group && (sequence.forks || sequence.waits_for_trunk()))
      dependent.push_back(&sequence);
  });
  for (const Sequence* sequence : dependent) {
    observer_.on_invalid_logits(tag_of(*sequence));
    finish_sequence(sequence->id, FinishReason::kError);
  }
  group->ready = true;  // those that already run need it no more
  drop_trunk_if_done(*group);
}

bool EngineCore::apply(Sequence& sequence, SampleResult sampled) {
  if (!sampled.valid) {
    fail_invalid(sequence);
    return false;
  }
  const Clock::time_point now = Clock::now();
  const bool is_first = !sequence.first_token_at.has_value();
  observer_.on_token(tag_of(sequence), is_first,
                     seconds_between(is_first ? sequence.arrived_at : sequence.last_token_at, now));
  if (is_first) sequence.first_token_at = now;
  sequence.last_token_at = now;

  sequence.token_ids.push_back(sampled.token);
  samplers_.at(sequence.id).observe_output(sampled.token);
  const bool is_end = contains(sequence.end_token_ids, sampled.token);
  TokenEvent event;
  event.index = sequence.index;
  event.token = sampled.token;
  event.is_end_token = is_end;
  event.logprob = sampled.logprob;
  event.top_logprobs = std::move(sampled.top_logprobs);
  emit(sequence, std::move(event));
  if (is_end) {
    finish_sequence(sequence.id, FinishReason::kStop);
    return false;
  }
  if (sequence.num_output_tokens() >= sequence.sampling.max_tokens) {
    finish_sequence(sequence.id, FinishReason::kLength);
    return false;
  }
  return true;
}

}  // namespace kvcrush
