#include "engine/kvcrush/prune_plan.h"

#include <algorithm>
#include <cstddef>

#include "engine/core/status.h"
#include "engine/kvcrush/importance.h"

namespace kvcrush {
namespace {

std::size_t to_size(int value) {
  return static_cast<std::size_t>(value);
}

SelectionInput selection_input(const CompressionParams& params, int budget_tokens, int layer,
                               const LayerObservation& observation, int num_sets) {
  SelectionInput input;
  input.num_heads = observation.num_heads / num_sets;
  if (params.signature_heads == SignatureHeads::kKv) {
    input.heads_per_bit = observation.num_heads / observation.num_kv_heads;
  }
  input.num_tokens = observation.num_tokens;
  input.budget_tokens = budget_tokens;
  input.num_sink_tokens = params.num_sink_tokens;
  input.window_tokens = params.window_tokens;
  input.representative_share = params.representative_share;
  input.anchor = params.anchor;
  input.pick = params.pick;
  input.seed = params.seed;
  input.layer = layer;
  return input;
}

std::span<const float> row_of(const std::vector<float>& rows, int row, int num_rows) {
  const std::size_t size = rows.size() / to_size(num_rows);
  return std::span<const float>(rows).subspan(to_size(row) * size, size);
}

}  // namespace

int num_kept_tokens(const CompressionParams& params, int budget_tokens, int num_tokens) {
  if (num_tokens <= budget_tokens) return num_tokens;
  if (params.granularity == Granularity::kToken) return budget_tokens;
  const BlockCounts counts =
      count_blocks(num_tokens, budget_tokens, params.num_sink_tokens, params.window_tokens);
  return counts.num_always + counts.num_free * kSelectionBlockTokens;
}

void plan_layer(const CompressionParams& params, int budget_tokens, int layer,
                const LayerObservation& observation, PruneScratch& scratch, LayerPrunePlan& out) {
  const int num_heads = observation.num_heads;
  const int num_kv_heads = observation.num_kv_heads;
  KVCRUSH_CHECK(num_heads >= 1 && num_kv_heads >= 1 && num_heads % num_kv_heads == 0);
  KVCRUSH_CHECK(budget_tokens >= min_budget_tokens(params));
  out.num_tokens_before = observation.num_tokens;
  out.num_sets = params.token_sets == TokenSets::kPerKvHead ? num_kv_heads : 1;

  const bool prunes = observation.num_tokens > budget_tokens;
  if (prunes) {
    const int num_candidates = observation.num_tokens - params.num_sink_tokens - params.window_tokens;
    scratch.scores.resize(to_size(num_heads) * to_size(num_candidates));
    token_scores(params, observation, scratch.score, scratch.scores);
    scratch.importance.resize(to_size(out.num_sets) * to_size(num_candidates));
    weigh_tokens(scratch.scores, num_heads, out.num_sets, params.layer_weight, scratch.layer_sums,
                 scratch.importance);
  }
  SelectionInput input = selection_input(params, budget_tokens, layer, observation, out.num_sets);
  for (int set = 0; set < out.num_sets; ++set) {
    input.first_head = set * input.num_heads;
    if (prunes) {
      input.importance = row_of(scratch.importance, set, out.num_sets);
      input.scores = row_of(scratch.scores, set, out.num_sets);
    }
    const std::span<const int> kept = params.granularity == Granularity::kBlock
                                          ? scratch.block_selector.select(input)
                                          : scratch.selector.select(input);
    if (set == 0) {
      out.num_tokens_after = static_cast<int>(kept.size());
      out.kept_slots.resize(to_size(out.num_sets) * kept.size());
    }
    std::copy(kept.begin(), kept.end(),
              out.kept_slots.begin() + static_cast<std::ptrdiff_t>(to_size(set) * kept.size()));
  }
}

}  // namespace kvcrush
