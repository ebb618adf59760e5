// From scores per query head to what a token is worth to each set of heads that keeps the same tokens (docs:
// kvcrush.md, step 2).
#pragma once

#include <span>
#include <vector>

namespace kvcrush {

// One entry per candidate: `scores` [num_heads, num_candidates] summed over heads in ascending order,
// float32.
void sum_over_heads(std::span<const float> scores, int num_heads, std::span<float> sums);

// Fills `importance` [num_sets, num_candidates]. Set g is heads g * num_heads / num_sets onwards of `scores`
// [num_heads, num_candidates]; own_g is their sum_over_heads. With layer_weight 0 that is the importance,
// else
//   own_g + layer_weight * ((own_0 + own_1 + ...) / num_sets),
// float32 throughout, each operation rounded. `layer_sums` is scratch.
void weigh_tokens(std::span<const float> scores, int num_heads, int num_sets, double layer_weight,
                  std::vector<float>& layer_sums, std::span<float> importance);

}  // namespace kvcrush
