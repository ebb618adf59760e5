// What comes out of a step: tokens for samples, probabilities for scores, a prompt's end for trunks.
#include <ATen/ATen.h>

#include <algorithm>

#include "engine/engine_core.h"
#include "engine/loader/model_file.h"
#include "engine/scoring.h"

namespace kvcrush {

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

}  // namespace kvcrush
