// What a sequence's cache policy has to observe while the model runs.
#pragma once

#include <utility>
#include <vector>

#include "engine/kvcrush/params.h"
#include "engine/scheduler/lookahead.h"

namespace kvcrush {

struct ObservationNeeds {
  int num_queries = 0;          // newest queries to keep
  LookaheadShape lookahead;     // beside those of a lookahead that follows them
  bool attention_sums = false;  // sums over all queries
  bool any() const { return num_queries > 0 || attention_sums; }
  int ring_rows() const { return num_queries + lookahead.total(); }
};
ObservationNeeds needs_of(const CachePolicy& policy);
ObservationNeeds merge(const ObservationNeeds& a, const ObservationNeeds& b);
// What of `held` goes on for a sequence that wants no more than that; a ring that goes on keeps its size.
ObservationNeeds narrowed(ObservationNeeds held, const ObservationNeeds& wanted);

// The queries that a prune asks: the newest `count` before position `end`, and after them those of a
// lookahead, whose tokens are no longer cached.
struct ObservedQueries {
  int count = 0;
  int end = 0;
  LookaheadShape lookahead;
  int branch_stride = 0;  // positions from branch to branch, in the observation
  int total() const { return count + lookahead.total(); }
  // As runs of neighbouring positions: (number, end position).
  std::vector<std::pair<int, int>> runs() const;
};
inline bool reads_keys(BasePolicy policy) {
  return policy == BasePolicy::kKNorm || policy == BasePolicy::kKeyDiff;
}
// Those before `end` that the policy asks, and of a lookahead from there.
ObservedQueries queries_of(const CompressionParams& params, int end, const LookaheadShape& lookahead,
                           int branch_stride);

}  // namespace kvcrush
