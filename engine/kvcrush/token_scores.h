// From what was observed in one layer to a score per query head and candidate slot (docs: kvcrush.md, step
// 1). Every base policy fills the same array; selection does not know which one did.
#pragma once

#include <span>
#include <vector>

#include "engine/kvcrush/params.h"

namespace kvcrush {

// What is known of one layer's cached slots, in position order. Query head h belongs to KV head
// h / (num_heads / num_kv_heads). Only what the policy reads is set.
struct LayerObservation {
  int num_heads = 0;
  int num_kv_heads = 0;
  int num_tokens = 0;
  // snapkv, h2o, tova: softmax probability of each slot, [num_heads, num_tokens], summed over the observed
  // queries in ascending order: the window's, all so far, the last one.
  std::span<const float> probability_sums = {};
  int num_queries = 0;  // how many were summed, >= 1
  // knorm: -|K|; keydiff: -cos(K, mean K of the head over all slots). [num_kv_heads, num_tokens]
  std::span<const float> key_scores = {};
  // value_norm: |V| of the query head's KV head. [num_heads, num_tokens]
  std::span<const float> value_norms = {};
  // Of each KV head: slots before the layer's sliding window, the first ones, which no later query sees: they
  // score below all others. [num_kv_heads]; empty: none.
  std::span<const int> num_unseen = {};
};

struct ScoreScratch {
  std::vector<float> padded_row;    // [half a kernel, candidates, half a kernel]
  std::vector<float> pool_weights;  // [pool_kernel_tokens]
};

// Fills `scores` [num_heads, num_candidates]. Candidates are slots params.num_sink_tokens .. num_tokens -
// params.window_tokens - 1, at least one.
// - snapkv, tova: probability_sums / num_queries, times value_norms if params.value_norm says so, then pooled
//   over pool_kernel_tokens (odd, stride 1, clipped to the candidates);
// - h2o: the same without the division: num_queries is not read;
// - streaming: the slot's index, in every head;
// - knorm, keydiff: key_scores of the query head's KV head.
// Pools are the largest, or a sum over taps in ascending order with weights exp(-0.5 ((i - kernel / 2) /
// (kernel / 4.0))^2), kernel / 2 rounded down, made to sum to 1 in double before they are rounded; taps
// beyond the candidates add 0. float32 throughout, each operation rounded. Time grows with the tokens times
// the kernel, or its logarithm for the largest.
void token_scores(const CompressionParams& params, const LayerObservation& observation, ScoreScratch& scratch,
                  std::span<float> scores);

}  // namespace kvcrush
