// How a step's attention is cut into blocks of a GPU. Host code, the same for every layer of the step.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/kernels/cpu/cpu_kernels.h"
#include "engine/kernels/cuda/attention_shape.h"

namespace kvcrush::cuda {

// What one block attends for: queries from first_query on, as many as its rows hold.
struct RowTile {
  std::int32_t sequence = 0;  // index in the batch
  std::int32_t first_query = 0;
  bool operator==(const RowTile&) const = default;
};

inline constexpr int kMaxSplits = 64;

struct AttentionPlan {
  std::vector<RowTile> decode;   // sequences whose rows fit one warp
  std::vector<RowTile> prefill;  // the others, prefill_rows rows at a time
  int prefill_rows = 0;
  int num_splits = 1;   // of every decode's cached tiles
  int decode_rows = 0;  // of the decode that has the most
};

// sequences: of the layer that holds the most. group: query heads of a KV head, at most kRowsPerWarp.
// num_processors: the GPU's multiprocessors; decodes are split so that blocks take the shortest turns on
// them. prefill_rows: what cuda::prefill_rows() says for the batch. num_padded: where it is not 0, decodes of
// sequences after these, which have no queries, make the batch so long, and the plan changes seldom as the
// cache grows: for steps that are recorded.
AttentionPlan plan_attention(std::span<const cpu::AttentionSequence> sequences, int group, int num_kv_heads,
                             int head_dim, int num_processors, int prefill_rows, int num_padded = 0);

// Floats that the states of split decodes take.
inline std::int64_t partial_floats(const AttentionPlan& plan, int num_kv_heads, int head_dim) {
  if (plan.num_splits == 1) return 0;
  return static_cast<std::int64_t>(plan.num_splits) * static_cast<std::int64_t>(plan.decode.size()) *
         num_kv_heads * kRowsPerWarp * (head_dim + 4);  // largest score, sum, alignment
}

}  // namespace kvcrush::cuda
