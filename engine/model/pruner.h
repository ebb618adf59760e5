// Carries out KVCrush on one sequence: observe attention, select, compact, give blocks back.
#pragma once

#include <memory>
#include <vector>

#include "engine/core/observer.h"
#include "engine/kernels/ops.h"
#include "engine/kvcrush/prune_plan.h"
#include "engine/model/query_ring.h"
#include "engine/scheduler/sequence.h"

namespace kvcrush {

class Pruner {
 public:
  Pruner(const HeadLayout& heads, int num_layers);

  // Prunes every layer of `sequence` to its budget and adds what it did to sequence.compression_outcome.
  // queries: the ring of this sequence; its newest position is num_computed_tokens - 1.
  PruneReport prune(Sequence& sequence, const QueryRing& queries, KvStorage& kv);

 private:
  void score(const Sequence& sequence, const QueryRing& queries, const KvStorage& kv);
  void select(const Sequence& sequence, int num_queries);
  void compact(const Sequence& sequence, KvStorage& kv);
  PruneReport release(Sequence& sequence) const;

  HeadLayout heads_;
  // Reused from prune to prune.
  std::vector<std::vector<float>> probability_sums_;  // per layer, [num_heads, cached tokens]
  std::vector<LayerPrunePlan> plans_;                 // per layer
  std::vector<PruneScratch> select_scratch_;          // per thread
  std::vector<std::vector<float>> score_scratch_;     // per thread
};

}  // namespace kvcrush
