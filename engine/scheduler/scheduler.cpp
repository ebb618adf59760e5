#include "engine/scheduler/scheduler.h"

#include <algorithm>

#include "engine/core/status.h"

namespace kvcrush {

Scheduler::Scheduler(const SchedulerConfig& config, BlockPool& pool) : config_(config), pool_(pool) {
  KVCRUSH_CHECK(config.max_batch_tokens >= config.max_running_sequences && config.max_running_sequences > 0);
}

void Scheduler::add(std::unique_ptr<Sequence> sequence) {
  waiting_.push_back(std::move(sequence));
}

StepPlan Scheduler::plan() {
  StepPlan plan;
  schedule_decodes(plan);
  schedule_prefills(plan);
  admit(plan);
  return plan;
}

// The list may shrink at its young end while it is walked: preemption takes from there.
void Scheduler::schedule_decodes(StepPlan& plan) {
  for (std::size_t i = 0; i < running_.size(); ++i) {
    Sequence& sequence = *running_[i];
    if (!sequence.is_decoding()) continue;
    if (sequence.lookahead.running() && !has_room_for_lookahead(sequence, plan)) continue;
    const int tokens =
        sequence.lookahead.running() ? sequence.lookahead.shape.branches : 1 + drafts_for(sequence, plan);
    if (reserve_or_preempt(sequence, tokens, plan)) schedule_chunk(sequence, tokens, plan);
  }
}

// Every running sequence is sure of one token, and a lookahead of one step in the end: the batch may be
// kMaxLookaheadBranches larger than the limit for the first of a step.
int Scheduler::spare_tokens(const StepPlan& plan) const {
  return config_.max_batch_tokens - plan.num_decode_tokens - static_cast<int>(running_.size());
}

bool Scheduler::has_room_for_lookahead(const Sequence& sequence, const StepPlan& plan) const {
  return sequence.lookahead.shape.branches <= spare_tokens(plan) + 1 ||
         std::none_of(plan.chunks.begin(), plan.chunks.end(),
                      [](const ScheduledChunk& chunk) { return chunk.is_lookahead(); });
}

int Scheduler::drafts_for(const Sequence& sequence, const StepPlan& plan) const {
  if (sequence.drafts.empty()) return 0;
  const int spare = spare_tokens(plan);
  const int to_boundary =
      sequence.schedule.tokens_to_boundary(sequence.num_computed_tokens, sequence.cache) - 1;
  const int to_end = sequence.sampling.max_tokens - sequence.num_output_tokens();
  const int drafts = std::min({static_cast<int>(sequence.drafts.size()), spare, to_boundary - 1, to_end - 1});
  return drafts > 0 && sequence.cache.blocks_missing_for(1 + drafts) <= pool_.num_free() ? drafts : 0;
}

void Scheduler::schedule_prefills(StepPlan& plan) {
  for (std::size_t i = 0; i < running_.size(); ++i) {
    Sequence& sequence = *running_[i];
    if (sequence.is_decoding() || sequence.num_uncomputed_tokens() == 0) continue;
    const int tokens = prefill_tokens_for(
        sequence, config_.max_batch_tokens - plan.num_prefill_tokens - plan.num_decode_tokens);
    if (tokens == 0) return;
    if (reserve_or_preempt(sequence, tokens, plan)) schedule_chunk(sequence, tokens, plan);
  }
}

void Scheduler::admit(StepPlan& plan) {
  // A step that had to preempt has no room to give away.
  while (plan.preemptions.empty() && !waiting_.empty() && can_admit(*waiting_.front())) {
    Sequence& sequence = *waiting_.front();
    if (sequence.forks) {
      if (!admit_fork(sequence, plan)) return;
      continue;
    }
    const int tokens_left = config_.max_batch_tokens - plan.num_prefill_tokens - plan.num_decode_tokens;
    const int tokens = prefill_tokens_for(sequence, tokens_left);
    if (tokens == 0 || !sequence.cache.try_extend(tokens)) return;
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
    schedule_chunk(sequence, tokens, plan);
  }
}

bool Scheduler::admit_fork(Sequence& child, StepPlan& plan) {
  const Sequence& trunk = *child.group->trunk;
  const Settling settling = child.schedule.due(child.num_prompt_tokens, trunk.cache);
  std::vector<SequenceCache::LayerShape> shapes;
  shapes.reserve(static_cast<std::size_t>(trunk.cache.num_layers()));
  for (int layer = 0; layer < trunk.cache.num_layers(); ++layer)
    shapes.push_back(
        child.schedule.settled_shape(layer, settling, 0, trunk.cache.layer(layer).num_tail_tokens()));
  if (!child.cache.try_assign(shapes)) return false;
  child.num_computed_tokens = child.num_prompt_tokens;
  child.forks = false;
  --child.group->num_waiting_children;
  plan.forks.push_back({child.group->trunk, &child, child.id});
  running_.push_back(std::move(waiting_.front()));
  waiting_.pop_front();
  return true;
}

// Admits only what can finish its prefill from blocks that nobody admitted earlier will claim, plus one block
// per layer for every sequence past its prompt to grow into: a prompt that is begun and then preempted is
// work thrown away. A trunk is admitted with room for the largest of its children, so that it never waits for
// them in vain.
bool Scheduler::can_admit(const Sequence& sequence) const {
  if (sequence.waits_for_trunk()) return false;
  if (static_cast<int>(running_.size()) >= config_.max_running_sequences &&
      sequence.kind != SequenceKind::kTrunk)
    return false;
  if (running_.empty()) return true;
  const int layers = sequence.cache.num_layers();
  int spoken_for = 0;
  for (const auto& other : running_) {
    if (sequence.forks && other.get() == sequence.group->trunk)
      continue;  // its room for children is this one's
    const bool past_prompt =
        other->kind != SequenceKind::kTrunk && other->num_computed_tokens >= other->num_prompt_tokens;
    spoken_for += past_prompt
                      ? layers
                      : std::max(0, other->peak_blocks() + other->child_blocks - other->cache.num_blocks());
  }
  return sequence.peak_blocks() + sequence.child_blocks + layers + spoken_for <= pool_.num_free();
}

bool Scheduler::reserve_or_preempt(Sequence& sequence, int num_tokens, StepPlan& plan) {
  while (!sequence.cache.try_extend(num_tokens)) {
    const bool is_youngest = running_.back().get() == &sequence;
    KVCRUSH_CHECK(!(is_youngest && running_.size() == 1));  // submit() refuses what cannot fit the pool alone
    preempt_youngest(plan);
    if (is_youngest) return false;
  }
  return true;
}

void Scheduler::preempt_youngest(StepPlan& plan) {
  std::unique_ptr<Sequence> victim = std::move(running_.back());
  running_.pop_back();
  // It may already have a chunk in this plan.
  std::erase_if(plan.chunks, [&](const ScheduledChunk& chunk) {
    if (chunk.sequence != victim.get()) return false;
    (victim->is_decoding() ? plan.num_decode_tokens : plan.num_prefill_tokens) -= chunk.num_tokens;
    return true;
  });
  plan.preemptions.push_back({victim.get(), victim->cache.num_blocks()});
  if (victim->kind == SequenceKind::kTrunk) {
    victim->group->ready = false;
  } else if (victim->group != nullptr && victim->group->trunk != nullptr && victim->forkable &&
             !victim->forks) {
    victim->forks = true;  // once more: it need not prefill the prompt, and its trunk has kept room for it
    ++victim->group->num_waiting_children;
  }
  victim->cache.clear();
  victim->lookahead.stop();
  victim->drafts.clear();
  victim->num_computed_tokens = 0;
  victim->score = {};
  ++victim->num_preemptions;
  waiting_.push_front(std::move(victim));
}

int Scheduler::prefill_tokens_for(const Sequence& sequence, int tokens_left) const {
  int tokens = std::min(tokens_left, sequence.num_uncomputed_tokens());
  tokens =
      std::min(tokens, sequence.schedule.tokens_to_boundary(sequence.num_computed_tokens, sequence.cache));
  // What is observed at the prompt's end must not have seen more.
  const int to_prompt_end = sequence.num_prompt_tokens - sequence.num_computed_tokens;
  return std::max(0, to_prompt_end > 0 ? std::min(tokens, to_prompt_end) : tokens);
}

void Scheduler::schedule_chunk(Sequence& sequence, int num_tokens, StepPlan& plan) {
  (sequence.is_decoding() ? plan.num_decode_tokens : plan.num_prefill_tokens) += num_tokens;
  ScheduledChunk& chunk = plan.chunks.emplace_back();
  chunk.sequence = &sequence;
  chunk.sequence_id = sequence.id;
  chunk.first_token = sequence.num_computed_tokens;
  chunk.num_tokens = num_tokens;
  if (sequence.lookahead.running()) {
    const bool is_last =
        chunk.first_token + 1 == sequence.num_prompt_tokens + sequence.lookahead.shape.tokens;
    chunk.num_branches = num_tokens;
    chunk.num_logit_rows = is_last ? 0 : num_tokens;
    return;
  }
  const int end = sequence.num_computed_tokens + num_tokens;
  chunk.num_drafts = std::max(0, end - sequence.num_tokens());
  chunk.num_logit_rows = sequence.num_logit_rows(chunk.first_token, end);
  chunk.settling = sequence.schedule.due(end, sequence.cache);
  const bool trunk = sequence.kind == SequenceKind::kTrunk;
  chunk.starts_lookahead = end == sequence.num_prompt_tokens && sequence.lookahead.shape.total() > 0 &&
                           (trunk || chunk.settling.prune);
  if (chunk.starts_lookahead) {
    chunk.num_logit_rows = std::max(chunk.num_logit_rows, 1);
    chunk.settling = {};
  }
}

Sequence* Scheduler::find_running(SequenceId id) const {
  const auto it = std::find_if(running_.begin(), running_.end(),
                               [id](const auto& sequence) { return sequence->id == id; });
  return it == running_.end() ? nullptr : it->get();
}

std::unique_ptr<Sequence> Scheduler::remove(SequenceId id) {
  const auto has_id = [id](const std::unique_ptr<Sequence>& sequence) { return sequence->id == id; };
  std::unique_ptr<Sequence> removed;
  if (auto it = std::find_if(running_.begin(), running_.end(), has_id); it != running_.end()) {
    removed = std::move(*it);
    running_.erase(it);
  } else if (auto queued = std::find_if(waiting_.begin(), waiting_.end(), has_id); queued != waiting_.end()) {
    removed = std::move(*queued);
    waiting_.erase(queued);
  }
  return removed;
}

}  // namespace kvcrush
