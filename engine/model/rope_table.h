// Cosines and sines of every position, computed once at load.
#pragma once

#include <vector>

#include "engine/model/model_config.h"

namespace kvcrush {

// Inverse frequencies after scaling, [rotary_dim / 2], in float32 as transformers computes them.
// `num_positions`: the context that is served, to which dynamic scaling stretches. `long_positions`: of
// sequences that go past the original context (longrope).
std::vector<float> rope_inverse_frequencies(const RopeConfig& rope, int head_dim, int num_positions = 0,
                                            bool long_positions = false);

// Rows of make_rope_table.
int rope_table_rows(const RopeConfig& rope, int num_positions);
// [rope_table_rows(), head_dim] float32: head_dim / 2 cosines, then as many sines, of position * inverse
// frequency; 1 and 0 where a channel is not rotated. Row p is position p; where longrope has other
// frequencies for sequences that go past its original context, theirs follow, from row num_positions on.
std::vector<float> make_rope_table(const RopeConfig& rope, int head_dim, int num_positions);

}  // namespace kvcrush
