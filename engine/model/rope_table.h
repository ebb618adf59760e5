// Cosines and sines of every position, computed once at load.
#pragma once

#include <vector>

#include "engine/model/model_config.h"

namespace kvcrush {

// Inverse frequencies after scaling, [head_dim / 2], in float32 as transformers computes them.
std::vector<float> rope_inverse_frequencies(const RopeConfig& rope, int head_dim);

// [num_positions, head_dim] float32: head_dim / 2 cosines, then as many sines, of position * inverse
// frequency.
std::vector<float> make_rope_table(const RopeConfig& rope, int head_dim, int num_positions);

}  // namespace kvcrush
