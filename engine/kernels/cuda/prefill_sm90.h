// Attention of prompts on Hopper GPUs, with warpgroup matrix multiplication. Only in builds by nvcc.
#pragma once

#include "engine/kernels/cuda/cuda_kernels.h"

namespace kvcrush::cuda {

// (query, query head) pairs of a KV head that a row tile of call.prefill covers: this many / group queries.
inline constexpr int kPrefillRows = 128;

// Whether the current device is Hopper, this was compiled for sm_90a, and the kernel is built for this
// head_dim and for batches of this widest dtype (f16, or int8 and int4 with an f16 tail).
bool prefill_sm90_serves(int head_dim, KvDtype widest);

// What paged_attention does for call.prefill, whose row tiles are kPrefillRows long. Throws
// std::runtime_error where the launch is refused.
void prefill_sm90(const AttentionCall& call, Stream stream);

}  // namespace kvcrush::cuda
