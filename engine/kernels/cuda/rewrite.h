// Moving cached tokens on the GPU: compaction, quantisation and forks, for many layers and sequences at once.
#pragma once

#include <cstdint>

#include "engine/kernels/cpu/kv_layout.h"
#include "engine/kernels/cuda/stream.h"

namespace kvcrush::cuda {

// Fills `to` with slots of `from`, one layer of one sequence. A float dtype from any float dtype, a quantised
// one from floats or from the same quantised dtype, whose codes move as they are. The two may share blocks
// from the front of their tables on, as for cpu::rewrite_head: sources[i] >= i, the tail's sources are the
// tail of `from`, and can_rewrite_in_place(). Slots past the last token, up to the end of its tile, become
// zeros.
struct RewriteJob {
  cpu::CachedLayer from;
  cpu::CachedLayer to;                    // num_cached 0: nothing to do
  const std::int32_t* sources = nullptr;  // [num_sets, to.num_cached], each row ascending
  std::int32_t num_sets = 1;              // 1 or num_kv_heads
};

// jobs: [num_jobs], in device memory. No two of them write the same blocks, and none writes what another
// reads.
void rewrite(const cpu::KvPool& pool, const RewriteJob* jobs, int num_jobs, Stream stream);

}  // namespace kvcrush::cuda
