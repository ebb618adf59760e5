// Who gives way when blocks run out, and how it comes back.
#include <algorithm>
#include <utility>

#include "engine/core/status.h"
#include "engine/scheduler/scheduler.h"

namespace kvcrush {

bool Scheduler::reserve_spares(Sequence& sequence, const ScheduledChunk& chunk, StepPlan& plan) {
  if (chunk.is_lookahead()) return true;
  const int end = chunk.first_token + chunk.num_tokens;
  const Settling settling = sequence.schedule.due(end, sequence.cache);
  if (!settling) return true;
  // A prompt's full blocks are shared before the rewrite. What nobody else holds can be rewritten in place,
  // at the price of losing it for those who come later.
  const auto num_shared = [&] {
    const bool shares =
        sequence.prefix.shares && sequence.cache.is_whole() && chunk.first_token < sequence.num_prompt_tokens;
    return shares ? std::max(sequence.cache.num_shared_entries(),
                             std::min(end, sequence.num_prompt_tokens) /
                                 sequence.cache.format().tail_tokens_per_block)
                  : sequence.cache.num_shared_entries();
  };
  if (num_shared() == 0) return true;
  // Until then windows move on. What is shared is whole, so that nothing has a place of its own.
  std::vector<SequenceCache::LayerShape> shapes;
  for (int layer = 0; layer < sequence.cache.num_layers(); ++layer) {
    const BlockTable& table = sequence.cache.layer(layer);
    const int passed = table.past_window(/*num_newest=*/0, /*num_kv_heads=*/1).num_tail;
    shapes.push_back(
        sequence.schedule.settled_shape(layer, settling, /*num_packed=*/0, table.num_tail_tokens() - passed));
    shapes.back().num_dropped = table.num_gone_tokens() + passed;
  }
  while (!sequence.cache.try_take_spares(sequence.cache.spares_missing_for(shapes, num_shared()))) {
    const bool shared = std::exchange(sequence.prefix.shares, false);
    if (sequence.cache.unshare_own() || shared) continue;
    KVCRUSH_CHECK(running_.size() > 1);
    Sequence& gives_way = victim();
    const bool is_itself = &gives_way == &sequence;
    if (is_itself) sequence.cache.drop_newest(chunk.num_tokens);  // its chunk is not in the plan yet
    preempt(gives_way, plan);
    if (is_itself) return false;
  }
  return true;
}

bool Scheduler::rewrite_in_place(Sequence& sequence) {
  sequence.prefix.shares = false;
  sequence.cache.unshare_own();
  const int before = sequence.cache.num_blocks();
  if (sequence.cache.num_shared_entries() == 0) sequence.cache.give_back_spares();
  return sequence.cache.num_blocks() < before;
}

Sequence& Scheduler::victim() {
  const auto& lowest = *std::min_element(
      running_.rbegin(), running_.rend(),
      [](const auto& a, const auto& b) { return a->preemption_rank() < b->preemption_rank(); });
  return *lowest;
}

bool Scheduler::is_worth_swapping(const Sequence& sequence) const {
  if (sequence.kind == SequenceKind::kTrunk || sequence.lookahead.running() ||
      sequence.num_computed_tokens == 0)
    return false;
  const int blocks = sequence.cache.num_blocks();
  if (num_swapped_blocks_ + blocks > swap_costs_.max_blocks) return false;
  const bool forks_again = sequence.forkable && sequence.group != nullptr && sequence.group->trunk != nullptr;
  const int recomputed =
      forks_again ? sequence.num_computed_tokens - sequence.num_prompt_tokens : sequence.num_computed_tokens;
  return blocks * swap_costs_.seconds_per_block < recomputed * swap_costs_.seconds_per_token;
}

void Scheduler::preempt(Sequence& sequence, StepPlan& plan) {
  const auto it = std::find_if(running_.begin(), running_.end(),
                               [&](const auto& other) { return other.get() == &sequence; });
  std::unique_ptr<Sequence> owned = std::move(*it);
  running_.erase(it);
  // It may already have a chunk in this plan.
  std::erase_if(plan.chunks, [&](const ScheduledChunk& chunk) {
    if (chunk.sequence != &sequence) return false;
    (sequence.is_decoding() ? plan.num_decode_tokens : plan.num_prefill_tokens) -= chunk.num_tokens;
    sequence.cache.drop_newest(chunk.num_tokens);
    return true;
  });
  Preemption& preemption = plan.preemptions.emplace_back();
  preemption.sequence = &sequence;
  preemption.blocks_returned = sequence.cache.num_blocks();
  ++sequence.num_preemptions;
  if (sequence.group != nullptr) ++sequence.group->num_preemptions;
  sequence.drafts.clear();
  if (is_worth_swapping(sequence)) {
    ++sequence.num_swaps;
    for (int layer = 0; layer < sequence.cache.num_layers(); ++layer) {
      const std::span<const BlockId> blocks = sequence.cache.layer(layer).blocks();
      preemption.swapped_blocks.insert(preemption.swapped_blocks.end(), blocks.begin(), blocks.end());
      sequence.swapped_shapes.push_back(sequence.cache.shape(layer));
    }
    num_swapped_blocks_ += sequence.num_swapped_blocks();
  } else {
    if (sequence.kind == SequenceKind::kTrunk) {
      sequence.group->ready = false;
    } else if (sequence.group != nullptr && sequence.group->trunk != nullptr && sequence.forkable &&
               !sequence.forks) {
      sequence.forks = true;  // once more: it need not prefill the prompt, and its trunk has kept room for it
      ++sequence.group->num_waiting_children;
    }
    if (sequence.prefix.shares && !sequence.lookahead.running() && sequence.cache.is_whole())
      sequence.cache.share(prefixes_, sequence.prefix.scope,
                           sequence.shareable_tokens(sequence.num_computed_tokens));
    sequence.num_computed_tokens = 0;
    sequence.score = {};
  }
  sequence.cache.clear();
  sequence.lookahead.stop();
  waiting_.push_front(std::move(owned));
}

}  // namespace kvcrush
