// From attention probabilities observed in one layer to a score per query head and candidate slot (docs:
// kvcrush.md, step 1). Another base policy (h2o, tova, streaming, knorm, keydiff) is another function here
// that fills the same [num_heads, num_candidates] array; selection does not know which one did.
#pragma once

#include <span>
#include <vector>

namespace kvcrush {

// What attention saw. Rows are query heads; columns are the sequence's cached slots in position order.
struct AttentionObservation {
  std::span<const float>
      probability_sums;  // [num_heads, num_tokens]: over the observed queries, ascending, float32
  int num_queries = 0;   // how many were summed, >= 1
  int num_heads = 0;
  int num_tokens = 0;
};

struct CandidateRange {
  int num_sink_tokens = 0;
  int window_tokens = 0;
};

struct ScoreScratch {
  std::vector<float> padded_row;
};

// SnapKV: mean probability over the observed queries, then max-pool of `pool_kernel_tokens` (odd), stride 1,
// clipped to the candidate range. Candidates are slots num_sink_tokens .. num_tokens - window_tokens - 1, at
// least one. Writes `scores` [num_heads, num_candidates]; time grows with the tokens times the logarithm of
// the kernel.
void snapkv_scores(const AttentionObservation& observation, const CandidateRange& range,
                   int pool_kernel_tokens, ScoreScratch& scratch, std::span<float> scores);

}  // namespace kvcrush
