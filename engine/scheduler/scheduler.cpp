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
    if (sequence.is_decoding() && reserve_or_preempt(sequence, 1, plan)) schedule_chunk(sequence, 1, plan);
  }
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
    const int tokens_left = config_.max_batch_tokens - plan.num_prefill_tokens - plan.num_decode_tokens;
    Sequence& sequence = *waiting_.front();
    const int tokens = prefill_tokens_for(sequence, tokens_left);
    if (tokens == 0 || !sequence.cache.try_extend(tokens)) return;
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
    schedule_chunk(sequence, tokens, plan);
  }
}

// Admits only what can finish its prefill from blocks that nobody admitted earlier will claim, plus one block
// per layer for every decoding sequence to grow into: a prompt that is begun and then preempted is work
// thrown away.
bool Scheduler::can_admit(const Sequence& sequence) const {
  if (static_cast<int>(running_.size()) >= config_.max_running_sequences) return false;
  if (running_.empty()) return true;
  const int layers = sequence.cache.num_layers();
  int spoken_for = 0;
  for (const auto& other : running_) {
    const int peak_blocks = pool_.blocks_for(other->peak_cached_tokens() + 1) * layers;
    spoken_for += other->is_decoding() ? layers : std::max(0, peak_blocks - other->cache.num_blocks());
  }
  return pool_.blocks_for(sequence.peak_cached_tokens() + 1) * layers + spoken_for <= pool_.num_free();
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
  victim->cache.clear();
  victim->num_computed_tokens = 0;
  ++victim->num_preemptions;
  waiting_.push_front(std::move(victim));
}

int Scheduler::prefill_tokens_for(const Sequence& sequence, int tokens_left) const {
  const int to_boundary = sequence.prune_schedule.tokens_to_boundary(sequence.num_computed_tokens,
                                                                     sequence.cache.max_cached_tokens());
  return std::max(0, std::min({tokens_left, sequence.num_uncomputed_tokens(), to_boundary}));
}

void Scheduler::schedule_chunk(Sequence& sequence, int num_tokens, StepPlan& plan) {
  const int end = sequence.num_computed_tokens + num_tokens;
  (sequence.is_decoding() ? plan.num_decode_tokens : plan.num_prefill_tokens) += num_tokens;
  plan.chunks.push_back(
      {.sequence = &sequence,
       .first_token = sequence.num_computed_tokens,
       .num_tokens = num_tokens,
       .samples_token = end == sequence.num_tokens(),
       .prunes_after = sequence.prune_schedule.must_prune(end, sequence.cache.max_cached_tokens())});
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
