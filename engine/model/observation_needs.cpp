#include "engine/model/observation_needs.h"

#include <algorithm>

namespace kvcrush {

ObservationNeeds needs_of(const CachePolicy& policy) {
  if (!policy.compression) return {};
  switch (policy.compression->policy) {
    case BasePolicy::kSnapKv:
      return {.num_queries = policy.compression->observed_queries,
              .lookahead = lookahead_of(*policy.compression, kMaxLookaheadTokens)};
    case BasePolicy::kTova:
      return {.num_queries = 1, .lookahead = {}};
    case BasePolicy::kH2o:
      return {.lookahead = {}, .attention_sums = true};
    case BasePolicy::kStreaming:
    case BasePolicy::kKNorm:
    case BasePolicy::kKeyDiff:
      break;
  }
  return {};
}

ObservationNeeds merge(const ObservationNeeds& a, const ObservationNeeds& b) {
  return {.num_queries = std::max(a.num_queries, b.num_queries),
          .lookahead = merge(a.lookahead, b.lookahead),
          .attention_sums = a.attention_sums || b.attention_sums};
}

ObservationNeeds narrowed(ObservationNeeds held, const ObservationNeeds& wanted) {
  if (wanted.num_queries == 0) held.num_queries = 0, held.lookahead = {};
  held.attention_sums = held.attention_sums && wanted.attention_sums;
  return held;
}

std::vector<std::pair<int, int>> ObservedQueries::runs() const {
  std::vector<std::pair<int, int>> result = {{count, end}};
  for (int b = 0; b < lookahead.branches; ++b)
    result.emplace_back(lookahead.tokens, end + b * branch_stride + lookahead.tokens);
  return result;
}

ObservedQueries queries_of(const CompressionParams& params, int end, const LookaheadShape& lookahead,
                           int branch_stride) {
  switch (params.policy) {
    case BasePolicy::kSnapKv:
      return {.count = params.observed_queries,
              .end = end,
              .lookahead = lookahead,
              .branch_stride = branch_stride};
    case BasePolicy::kTova:
      return {.count = 1, .end = end, .lookahead = {}};
    default:
      return {.end = end, .lookahead = {}};
  }
}

}  // namespace kvcrush
