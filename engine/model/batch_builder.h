// From the scheduler's plan to flat arrays: built once per step, reused by every layer.
#pragma once

#include <vector>

#include "engine/kernels/ops.h"
#include "engine/scheduler/scheduler.h"

namespace kvcrush {

struct StepBatch {
  std::vector<TokenId> token_ids;        // [T], sequences one after the other
  std::vector<std::int32_t> positions;   // [T] logical positions
  std::vector<std::int32_t> rope_rows;   // [T] of the RoPE table
  std::vector<ScheduledChunk> chunks;    // in batch order
  std::vector<int> query_starts;         // [chunks]: first row of each
  std::vector<std::int32_t> logit_rows;  // rows whose logits are wanted, chunk by chunk
  std::vector<PagedSequence> paged;      // [chunks], of the layer last asked for

  int num_tokens() const { return static_cast<int>(token_ids.size()); }
  // Cached lengths and block tables of one layer. Valid until the next call or until a table changes.
  std::span<const PagedSequence> paged_sequences(int layer);
};

// Refills `batch`, keeping its memory.
void build_batch(const StepPlan& plan, StepBatch& batch);

}  // namespace kvcrush
