// What one layer of one sequence keeps, as a value: the engine plans here and lets the KV cache carry it out.
#pragma once

#include <span>
#include <vector>

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
  std::vector<float> scores;  // [num_heads, num_candidates]
  Selector selector;
};

// `params` valid; `budget_tokens` resolved, > num_sink_tokens + window_tokens; `layer` counts from 0.
// `probability_sums` [num_heads, num_tokens] float32: softmax probability of each cached slot, summed over
// the `num_queries` observed queries in ascending order, in slot order; ignored when num_tokens <=
// budget_tokens, where all slots stay. Query head h belongs to KV head h / (num_heads / num_kv_heads). `out`
// keeps its memory between calls.
void plan_layer(const CompressionParams& params, int budget_tokens, int layer,
                std::span<const float> probability_sums, int num_queries, int num_heads, int num_kv_heads,
                int num_tokens, PruneScratch& scratch, LayerPrunePlan& out);

}  // namespace kvcrush
