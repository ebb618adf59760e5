// The fast way for decodes; attention.cu has the way for what it does not do.
#pragma once

#include "engine/kernels/cuda/cuda_kernels.h"

namespace kvcrush::cuda {

// The call's decode half, where has_fast_decode() (attention_shape.h).
void decode_attention(const AttentionCall& call, Stream stream);

}  // namespace kvcrush::cuda
