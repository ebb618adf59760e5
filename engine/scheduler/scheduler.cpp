#include "engine/scheduler/scheduler.h"

#include <algorithm>

#include "engine/core/status.h"

namespace kvcrush {

namespace {

// Drafts that are looked up take at most one so many-th of a step, in equal parts: prompts get the rest of
// it.
constexpr int kLookupShare = 4;

// From which chance on a draft pays. A step takes as long as kRowsOfStep rows (it reads the weights once),
// and as long again for each of its rows. So with r running sequences a token costs kRowsOfStep / r + 1 rows,
// and a draft that costs one saves that much where it is right. The more run together, the surer drafts must
// be. The row more is a margin: what hardly pays is not worth the other sequences' waiting.
double least_chance(int num_running) {
  constexpr double kRowsOfStep = 8;  // measured on a CPU (docs/results/prompt-lookup.md); GPUs have more
  return (num_running + 1) / (num_running + kRowsOfStep);
}

bool was_preempted(const Sequence& sequence, const StepPlan& plan) {
  return std::any_of(plan.preemptions.begin(), plan.preemptions.end(),
                     [&](const Preemption& preemption) { return preemption.sequence == &sequence; });
}

}  // namespace

Scheduler::Scheduler(const SchedulerConfig& config, BlockPool& pool, PrefixCache& prefixes)
    : config_(config), pool_(pool), prefixes_(prefixes) {
  KVCRUSH_CHECK(config.max_batch_tokens >= config.max_running_sequences && config.max_running_sequences > 0);
}

void Scheduler::add(std::unique_ptr<Sequence> sequence) {
  waiting_.push(std::move(sequence));
}

StepPlan Scheduler::plan() {
  StepPlan plan;
  schedule_decodes(plan);
  schedule_prefills(plan);
  admit(plan);
  return plan;
}

const std::vector<Sequence*>& Scheduler::by_rank() {
  by_rank_.clear();
  for (const auto& sequence : running_) by_rank_.push_back(sequence.get());
  const auto before = [](const Sequence* a, const Sequence* b) {
    return a->preemption_rank() > b->preemption_rank();
  };
  // stable_sort() takes memory; mostly all ranks are the same.
  if (!std::is_sorted(by_rank_.begin(), by_rank_.end(), before))
    std::stable_sort(by_rank_.begin(), by_rank_.end(), before);
  return by_rank_;
}

void Scheduler::schedule_decodes(StepPlan& plan) {
  for (Sequence* sequence : by_rank()) {
    if (was_preempted(*sequence, plan) || !sequence->is_decoding()) continue;
    if (sequence->lookahead.running() && !has_room_for_lookahead(*sequence, plan)) continue;
    const int tokens =
        sequence->lookahead.running() ? sequence->lookahead.shape.branches : 1 + take_drafts(*sequence, plan);
    if (reserve_or_preempt(*sequence, tokens, plan)) schedule_chunk(*sequence, tokens, plan);
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

int Scheduler::most_drafts(const Sequence& sequence, const StepPlan& plan) const {
  const int to_boundary =
      sequence.schedule.tokens_to_boundary(sequence.num_computed_tokens, sequence.cache) - 1;
  const int to_end = sequence.sampling.max_tokens - sequence.num_output_tokens();
  return std::min({spare_tokens(plan), to_boundary - 1, to_end - 1});
}

// Not what others are sure of: the rest of their prompts, or a block a layer to grow into.
bool Scheduler::has_blocks_for_drafts(const Sequence& sequence) const {
  int wanted = sequence.cache.blocks_missing_for(1 + static_cast<int>(sequence.drafts.size()));
  for (const auto& other : running_) wanted += other.get() == &sequence ? 0 : unclaimed_blocks(*other);
  return wanted <= pool_.num_free();
}

int Scheduler::take_drafts(Sequence& sequence, const StepPlan& plan) const {
  const int most = std::max(0, most_drafts(sequence, plan));
  const auto running = static_cast<int>(running_.size());
  sequence.drafts_are_looked_up = sequence.lookup && sequence.drafts.empty();
  if (sequence.drafts_are_looked_up)
    sequence.drafts = sequence.lookup->propose(
        sequence.token_ids, std::min(most, config_.max_batch_tokens / kLookupShare / running),
        least_chance(running));
  // The others would come a token late in the next step.
  if (static_cast<int>(sequence.drafts.size()) > most) sequence.drafts.resize(static_cast<std::size_t>(most));
  if (!sequence.drafts.empty() && !has_blocks_for_drafts(sequence)) sequence.drafts.clear();
  return static_cast<int>(sequence.drafts.size());
}

// In the order of admission, so that later ones of a higher priority never keep a prompt from its end. The
// list may become shorter while it is walked.
void Scheduler::schedule_prefills(StepPlan& plan) {
  for (std::size_t i = 0; i < running_.size(); ++i) {
    Sequence& sequence = *running_[i];
    if (sequence.is_decoding() || sequence.num_uncomputed_tokens() == 0) continue;
    const int tokens = prefill_tokens_for(
        sequence, config_.max_batch_tokens - plan.num_prefill_tokens - plan.num_decode_tokens);
    if (tokens == 0) return;
    const std::size_t num_preemptions = plan.preemptions.size();
    if (reserve_or_preempt(sequence, tokens, plan)) schedule_chunk(sequence, tokens, plan);
    if (plan.preemptions.size() > num_preemptions) return;  // the others have moved; the next step goes on
  }
}

bool Scheduler::reserve_or_preempt(Sequence& sequence, int num_tokens, StepPlan& plan) {
  while (!sequence.cache.try_extend(num_tokens)) {
    if (running_.size() == 1) {
      // submit() refuses what cannot fit the pool alone: what is short are spares for a prune still to come.
      // Nobody else holds its blocks now, so they can be rewritten in place.
      KVCRUSH_CHECK(rewrite_in_place(sequence));
      continue;
    }
    Sequence& gives_way = victim();
    preempt(gives_way, plan);
    if (&gives_way == &sequence) return false;
  }
  return true;
}

int Scheduler::prefill_tokens_for(const Sequence& sequence, int tokens_left) const {
  int tokens = std::min(tokens_left, sequence.num_uncomputed_tokens());
  tokens = std::min({tokens, sequence.schedule.max_chunk_tokens(),
                     sequence.schedule.tokens_to_boundary(sequence.num_computed_tokens, sequence.cache)});
  // What is observed at the prompt's end must not have seen more.
  const int to_prompt_end = sequence.num_prompt_tokens - sequence.num_computed_tokens;
  return std::max(0, to_prompt_end > 0 ? std::min(tokens, to_prompt_end) : tokens);
}

void Scheduler::schedule_chunk(Sequence& sequence, int num_tokens, StepPlan& plan) {
  const ScheduledChunk chunk = make_chunk(sequence, num_tokens);
  if (!reserve_spares(sequence, chunk, plan)) return;
  (sequence.is_decoding() ? plan.num_decode_tokens : plan.num_prefill_tokens) += num_tokens;
  waiting_.charge(sequence, num_tokens);
  plan.chunks.push_back(chunk);
}

ScheduledChunk Scheduler::make_chunk(Sequence& sequence, int num_tokens) const {
  ScheduledChunk chunk;
  chunk.sequence = &sequence;
  chunk.sequence_id = sequence.id;
  chunk.first_token = sequence.num_computed_tokens;
  chunk.num_tokens = num_tokens;
  if (sequence.lookahead.running()) {
    const bool is_last =
        chunk.first_token + 1 == sequence.num_prompt_tokens + sequence.lookahead.shape.tokens;
    chunk.num_branches = num_tokens;
    chunk.num_logit_rows = is_last ? 0 : num_tokens;
    return chunk;
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
  return chunk;
}

Sequence* Scheduler::find_running(SequenceId id) const {
  const auto it = std::find_if(running_.begin(), running_.end(),
                               [id](const auto& sequence) { return sequence->id == id; });
  return it == running_.end() ? nullptr : it->get();
}

Sequence* Scheduler::find(SequenceId id) const {
  Sequence* found = find_running(id);
  if (found != nullptr) return found;
  waiting_.for_each([&](Sequence& sequence) {
    if (sequence.id == id) found = &sequence;
  });
  return found;
}

std::unique_ptr<Sequence> Scheduler::remove(SequenceId id) {
  const auto it = std::find_if(running_.begin(), running_.end(),
                               [id](const auto& sequence) { return sequence->id == id; });
  if (it == running_.end()) {
    std::unique_ptr<Sequence> queued = waiting_.remove(id);
    if (queued != nullptr) num_swapped_blocks_ -= queued->num_swapped_blocks();
    return queued;
  }
  std::unique_ptr<Sequence> removed = std::move(*it);
  running_.erase(it);
  return removed;
}

}  // namespace kvcrush
