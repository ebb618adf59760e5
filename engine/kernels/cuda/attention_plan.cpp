#include "engine/kernels/cuda/attention_plan.h"

#include <algorithm>

#include "engine/core/status.h"

namespace kvcrush::cuda {

AttentionPlan plan_attention(std::span<const cpu::AttentionSequence> sequences, int group, int num_kv_heads,
                             int head_dim, int num_block_slots) {
  KVCRUSH_CHECK(group >= 1 && group <= kRowsPerWarp && num_kv_heads >= 1 && num_block_slots >= 1);
  AttentionPlan plan;
  int most_tiles = 0;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const cpu::AttentionSequence& sequence = sequences[i];
    const auto index = static_cast<std::int32_t>(i);
    if (sequence.num_queries * group <= kRowsPerWarp) {
      if (sequence.num_queries == 0) continue;
      plan.decode.push_back({index, 0});
      most_tiles = std::max(most_tiles, cpu::num_tiles(sequence.cache, sequence.cache.num_cached));
      continue;
    }
    const int queries_per_tile = kRowsPerWarp * attention_warps(head_dim) / group;
    for (int query = 0; query < sequence.num_queries; query += queries_per_tile)
      plan.prefill.push_back({index, query});
  }
  // The rows of late queries see the most: they start first, so that the last blocks to end are short ones.
  std::reverse(plan.prefill.begin(), plan.prefill.end());
  const int blocks = static_cast<int>(plan.decode.size()) * num_kv_heads;
  if (blocks == 0) return plan;
  const int wanted = cpu::ceil_div(2 * num_block_slots, blocks);  // two waves even out lengths
  plan.num_splits = std::clamp(wanted, 1, std::clamp(most_tiles / kMinSplitTiles, 1, kMaxSplits));
  if (blocks >= num_block_slots) plan.num_splits = 1;
  return plan;
}

}  // namespace kvcrush::cuda
