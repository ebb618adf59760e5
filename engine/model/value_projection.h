// What a token would write into the residual stream through one query head is W_o,h V; its norm weighs the
// attention that the head pays to the token.
#pragma once

#include <ATen/core/Tensor.h>

#include "engine/kernels/ops.h"

namespace kvcrush {

// For one layer, P [Hq, rank, D] with |P V| close to |W_o,h V|, for V as the cache stores it (ops::hadamard):
// the leading `rank` directions of W_o,h. output [hidden, Hq D] float32 on the CPU.
at::Tensor make_value_projection(const at::Tensor& output, const HeadLayout& heads, int rank);

}  // namespace kvcrush
