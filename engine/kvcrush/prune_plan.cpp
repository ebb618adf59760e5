#include "engine/kvcrush/prune_plan.h"

#include <algorithm>
#include <cstddef>

#include "engine/core/status.h"

namespace kvcrush {
namespace {

std::size_t to_size(int value) {
  return static_cast<std::size_t>(value);
}

SelectionInput selection_input(const CompressionParams& params, int budget_tokens, int layer,
                               int num_tokens) {
  SelectionInput input;
  input.num_tokens = num_tokens;
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

}  // namespace

void plan_layer(const CompressionParams& params, int budget_tokens, int layer,
                std::span<const float> probability_sums, int num_queries, int num_heads, int num_kv_heads,
                int num_tokens, PruneScratch& scratch, LayerPrunePlan& out) {
  KVCRUSH_CHECK(num_heads >= 1 && num_kv_heads >= 1 && num_heads % num_kv_heads == 0);
  out.num_tokens_before = num_tokens;
  out.num_tokens_after = std::min(num_tokens, budget_tokens);
  out.num_sets = params.token_sets == TokenSets::kPerKvHead ? num_kv_heads : 1;
  out.kept_slots.resize(to_size(out.num_sets) * to_size(out.num_tokens_after));

  SelectionInput input = selection_input(params, budget_tokens, layer, num_tokens);
  const int num_candidates = num_tokens - params.num_sink_tokens - params.window_tokens;
  if (num_tokens > budget_tokens) {
    scratch.scores.resize(to_size(num_heads) * to_size(num_candidates));
    switch (params.policy) {  // other base policies fill the same scores
      case BasePolicy::kSnapKv:
        snapkv_scores({probability_sums, num_queries, num_heads, num_tokens},
                      {params.num_sink_tokens, params.window_tokens}, params.pool_kernel_tokens,
                      scratch.score, scratch.scores);
        break;
    }
  }
  input.num_heads = num_heads / out.num_sets;
  for (int set = 0; set < out.num_sets; ++set) {
    input.first_head = set * input.num_heads;
    if (num_tokens > budget_tokens) {
      const std::size_t set_size = to_size(input.num_heads) * to_size(num_candidates);
      input.scores = std::span<const float>(scratch.scores).subspan(to_size(set) * set_size, set_size);
    }
    const std::span<const int> kept = scratch.selector.select(input);
    std::copy(kept.begin(), kept.end(),
              out.kept_slots.begin() + static_cast<std::ptrdiff_t>(to_size(set) * kept.size()));
  }
}

}  // namespace kvcrush
