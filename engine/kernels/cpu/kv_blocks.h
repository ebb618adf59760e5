// Moving K and V in and out of pool blocks on the CPU.
#pragma once

#include "engine/kernels/cpu/cpu_kernels.h"

namespace kvcrush::cpu {

// Stores one token's k, v [num_kv_heads, head_dim] float32 in `slot`, which lies in the tail, rounding to its
// dtype.
void write_token(const KvPool& pool, const CachedLayer& cache, int slot, const float* k, const float* v);

// Bytes of one head's part of a block: what rewrite_head's `staging` must hold.
inline std::int64_t head_bytes(const KvPool& pool) {
  return pool.block_bytes / pool.num_kv_heads;
}

// Fills `to` with the slots sources[0 .. to.num_cached) of `from`, one KV head of one layer; sources ascend.
// The two may share blocks from the front of their tables on (compaction in place): every block is put
// together in `staging` first, and no slot is overwritten before it was read, given that
//   - sources[i] >= i, and the tail's sources are the tail of `from`, and
//   - where `to` has more packed blocks than `from`, that many tail blocks' worth of tokens left the tail
// (can_rewrite_in_place). scratch: attention_scratch_floats().
void rewrite_head(const KvPool& pool, const CachedLayer& from, const CachedLayer& to, int kv_head,
                  const int* sources, float* scratch, std::byte* staging);

// The second condition above.
bool can_rewrite_in_place(const CachedLayer& from, const CachedLayer& to);

}  // namespace kvcrush::cpu
