#include "engine/kernels/cuda/attention_plan.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "engine/core/status.h"

namespace kvcrush::cuda {

namespace {

// What a block takes beside its units, in their time: queries, the way to the first unit, the merge.
constexpr int kBlockOverhead = 3;

// Of every sequence's units, among blocks that come in waves of num_slots; a block's warps take units in
// turn.
int best_splits(int blocks, int num_slots, int num_units, int num_warps) {
  int best = 1;
  std::int64_t least = std::numeric_limits<std::int64_t>::max();
  for (int splits = 1; splits <= std::clamp(num_units / num_warps, 1, kMaxSplits); ++splits) {
    const std::int64_t turns = cpu::ceil_div(cpu::ceil_div(num_units, splits), num_warps) + kBlockOverhead;
    const std::int64_t time = cpu::ceil_div(blocks * splits, num_slots) * turns;
    if (time >= least) continue;
    least = time;
    best = splits;
  }
  return best;
}

// At most an eighth more.
int rounded_up(int num_units) {
  const int step = static_cast<int>(std::bit_floor(static_cast<unsigned>(std::max(num_units, 8)))) / 8;
  return cpu::ceil_div(num_units, step) * step;
}

}  // namespace

AttentionPlan plan_attention(std::span<const cpu::AttentionSequence> sequences, int group, int num_kv_heads,
                             int head_dim, int num_processors, int prefill_rows, int num_padded) {
  KVCRUSH_CHECK(group >= 1 && group <= kRowsPerWarp && num_kv_heads >= 1 && num_processors >= 1 &&
                prefill_rows >= group);
  AttentionPlan plan;
  plan.prefill_rows = prefill_rows;
  int most_units = 0;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const cpu::AttentionSequence& sequence = sequences[i];
    const auto index = static_cast<std::int32_t>(i);
    if (sequence.num_queries * group <= kRowsPerWarp) {
      if (sequence.num_queries == 0) continue;
      plan.decode.push_back({index, 0});
      plan.decode_rows = std::max(plan.decode_rows, sequence.num_queries * group);
      most_units = std::max(most_units, num_units(sequence.cache));
      continue;
    }
    const int queries_per_tile = prefill_rows / group;
    for (int query = 0; query < sequence.num_queries; query += queries_per_tile)
      plan.prefill.push_back({index, query});
  }
  // The rows of late queries see the most: they start first, so that the last blocks to end are short ones.
  std::reverse(plan.prefill.begin(), plan.prefill.end());
  for (auto i = static_cast<std::int32_t>(sequences.size()); i < num_padded; ++i)
    plan.decode.push_back({i, 0});
  if (num_padded > 0) most_units = rounded_up(most_units);
  const int blocks = static_cast<int>(plan.decode.size()) * num_kv_heads;
  const int slots = num_processors * decode_blocks_per_processor(head_dim);
  if (blocks > 0) plan.num_splits = best_splits(blocks, slots, most_units, attention_warps(head_dim));
  return plan;
}

}  // namespace kvcrush::cuda
