// Moving K and V in and out of pool blocks on the CPU.
#pragma once

#include "engine/kernels/cpu/cpu_kernels.h"

namespace kvcrush::cpu {

// Stores one token's k, v [num_kv_heads, head_dim] float32 in slot `offset` of `block`, rounding to the
// pool's element type.
void write_token(const KvPool& pool, std::int32_t block, int offset, const float* k, const float* v);

// Compacts one KV head of one layer in place: slot i takes what slot kept[i] holds. kept ascends, so kept[i]
// >= i and a forward walk never overwrites what it still needs.
void compact_head(const KvPool& pool, const std::int32_t* blocks, int kv_head, const int* kept, int num_kept);

}  // namespace kvcrush::cpu
