// Who starts to run: nothing that could not go on.
#include <algorithm>

#include "engine/core/status.h"
#include "engine/scheduler/scheduler.h"

namespace kvcrush {

namespace {

// Blocks that a sequence takes beside its own when it is pruned or packed while others hold its first ones.
int copied_blocks(const Sequence& sequence) {
  if (!sequence.schedule.prunes() && !sequence.schedule.packs()) return 0;
  const int shared = sequence.cache.num_blocks_held_by_others();
  return shared == 0
             ? 0
             : std::min(shared, sequence.schedule.peak_blocks(sequence.num_tokens(), /*forked=*/true));
}

std::vector<SequenceCache::LayerShape> fork_shapes(const Sequence& trunk, const Sequence& child) {
  const Settling settling = child.schedule.due(child.num_prompt_tokens, trunk.cache);
  std::vector<SequenceCache::LayerShape> shapes;
  shapes.reserve(static_cast<std::size_t>(trunk.cache.num_layers()));
  for (int layer = 0; layer < trunk.cache.num_layers(); ++layer) {
    SequenceCache::LayerShape& shape = shapes.emplace_back(
        child.schedule.settled_shape(layer, settling, 0, trunk.cache.layer(layer).num_tail_tokens()));
    const BlockTable& table = trunk.cache.layer(layer);
    shape.num_dropped = trunk.cache.num_dropped(layer);
    if (settling) continue;
    shape.dropped_since_settled = table.dropped_since_settled();
    shape.dropped_tiles = table.dropped_tiles();
  }
  return shapes;
}

}  // namespace

// A step that had to preempt has no room to give away. Nobody is passed over who does not fit: the pool fills
// up for the one whose turn it is.
void Scheduler::admit(StepPlan& plan) {
  while (plan.preemptions.empty()) {
    Sequence* next = waiting_.front();
    if (next == nullptr || !has_slot(*next)) return;
    const bool admitted = next->forks          ? admit_fork(*next, plan)
                          : next->is_swapped() ? admit_swapped(*next, plan)
                                               : admit_prefill(*next, plan);
    if (!admitted) return;
  }
}

bool Scheduler::admit_prefill(Sequence& sequence, StepPlan& plan) {
  const int tokens_left = config_.max_batch_tokens - plan.num_prefill_tokens - plan.num_decode_tokens;
  if (tokens_left <= 0) return false;
  const std::span<const TokenId> tokens = sequence.token_ids;
  if (const int most = sequence.max_prefix_tokens(); most > 0)
    sequence.num_computed_tokens = sequence.cache.hold_prefix(prefixes_, sequence.prefix.scope,
                                                              tokens.first(static_cast<std::size_t>(most)));
  const int chunk = prefill_tokens_for(sequence, tokens_left);
  if (!has_room(sequence, pool_.num_free()) || !sequence.cache.try_extend(chunk)) {
    sequence.cache.clear();
    sequence.num_computed_tokens = 0;
    return false;
  }
  if (!sequence.prefix.num_hit_tokens) {
    sequence.prefix.num_hit_tokens = sequence.num_computed_tokens;
    plan.prefix_lookups.push_back(&sequence);
  }
  start_running(sequence);
  schedule_chunk(sequence, chunk, plan);
  return true;
}

bool Scheduler::admit_fork(Sequence& child, StepPlan& plan) {
  const Sequence& trunk = *child.group->trunk;
  const std::vector<SequenceCache::LayerShape> shapes = fork_shapes(trunk, child);
  const int shared = trunk.cache.shares_with_fork(shapes) ? trunk.cache.num_shared_blocks() : 0;
  if (!has_room(child, pool_.num_free() + shared) || !child.cache.try_fork(trunk.cache, shapes)) return false;
  if (!child.prefix.num_hit_tokens) child.prefix.num_hit_tokens = trunk.prefix.num_hit_tokens;
  child.num_computed_tokens = child.num_prompt_tokens;
  start_running(child);
  child.forks = false;
  --child.group->num_waiting_children;
  plan.forks.push_back({child.group->trunk, &child, child.id});
  return true;
}

// It goes on where it was, in the next step.
bool Scheduler::admit_swapped(Sequence& sequence, StepPlan& plan) {
  if (!has_room(sequence, pool_.num_free()) || !sequence.cache.try_assign(sequence.swapped_shapes))
    return false;
  num_swapped_blocks_ -= sequence.num_swapped_blocks();
  sequence.swapped_shapes.clear();
  SwapIn& swap = plan.swap_ins.emplace_back();
  swap.sequence = &sequence;
  for (int layer = 0; layer < sequence.cache.num_layers(); ++layer) {
    const std::span<const BlockId> blocks = sequence.cache.layer(layer).blocks();
    swap.blocks.insert(swap.blocks.end(), blocks.begin(), blocks.end());
  }
  start_running(sequence);
  return true;
}

void Scheduler::start_running(Sequence& sequence) {
  running_.push_back(waiting_.take(sequence));
}

// Trunks take none: their children could not all run beside them.
bool Scheduler::has_slot(const Sequence& sequence) const {
  if (sequence.kind == SequenceKind::kTrunk) return true;
  const auto samples = std::count_if(running_.begin(), running_.end(),
                                     [](const auto& other) { return other->kind != SequenceKind::kTrunk; });
  return samples < config_.max_running_sequences;
}

// Blocks that a running sequence will still take before it samples its next token: past its prompt, one a
// layer to grow into.
int Scheduler::unclaimed_blocks(const Sequence& sequence) const {
  const bool past_prompt =
      sequence.kind != SequenceKind::kTrunk && sequence.num_computed_tokens >= sequence.num_prompt_tokens;
  if (past_prompt) return sequence.cache.num_layers();
  return std::max(0, sequence.peak_blocks() + sequence.child_blocks - sequence.cache.num_blocks()) +
         copied_blocks(sequence);
}

// Admits only what can finish its prefill from blocks that nobody admitted earlier will claim, plus one block
// per layer to grow into: a prompt that is begun and then preempted is work thrown away. A trunk is admitted
// with room for the largest of its children, so that it never waits for them in vain. blocks_at_hand: free,
// beside what the sequence holds already.
bool Scheduler::has_room(const Sequence& sequence, int blocks_at_hand) const {
  if (running_.empty()) return true;
  int claimed = 0;
  for (const auto& other : running_) {
    // Its room for children is this one's.
    if (!sequence.forks || other.get() != sequence.group->trunk) claimed += unclaimed_blocks(*other);
  }
  const int peak = sequence.is_swapped() && sequence.num_computed_tokens >= sequence.num_prompt_tokens
                       ? sequence.num_swapped_blocks()
                       : sequence.peak_blocks();
  const int wanted = peak + sequence.child_blocks - sequence.cache.num_blocks() + copied_blocks(sequence) +
                     sequence.cache.num_layers();
  return wanted + claimed <= blocks_at_hand;
}

}  // namespace kvcrush
