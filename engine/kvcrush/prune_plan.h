// What one layer of one sequence keeps, as a value: the engine plans here and lets the KV cache carry it out.
#pragma once

#include <span>
#include <vector>

#include "engine/kvcrush/block_select.h"
#include "engine/kvcrush/params.h"
#include "engine/kvcrush/select.h"
#include "engine/kvcrush/token_scores.h"

namespace kvcrush {

struct LayerPrunePlan {
  int num_tokens_before = 0;
  int num_tokens_after = 0;     // equal to num_tokens_before: nothing to do
  std::vector<int> kept_slots;  // [num_sets, num_tokens_after], each row ascending
  int num_sets = 0;             // 1: one set for all KV heads; otherwise one per KV head
};

// Reused from layer to layer; not for two threads at once.
struct PruneScratch {
  ScoreScratch score;
  std::vector<float> scores;      // [num_heads, num_candidates]
  std::vector<float> layer_sums;  // [num_candidates]
  std::vector<float> importance;  // [num_sets, num_candidates]
  Selector selector;
  BlockSelector block_selector;
};

// Tokens that a layer of num_tokens keeps: a function of counts alone, so that room can be planned before
// scores are known.
int num_kept_tokens(const CompressionParams& params, int budget_tokens, int num_tokens);

// `params` valid; `budget_tokens` is this layer's, >= min_budget_tokens(params); `layer` counts from 0. The
// observation holds what params.policy and params.value_norm read; it is ignored when num_tokens <=
// budget_tokens, where all slots stay. Token granularity keeps exactly budget_tokens, block granularity at
// most that many. `out` keeps its memory between calls.
void plan_layer(const CompressionParams& params, int budget_tokens, int layer,
                const LayerObservation& observation, PruneScratch& scratch, LayerPrunePlan& out);

}  // namespace kvcrush
