// Carries out KVCrush on one sequence: observe, select, compact and pack, give blocks back; or the same into
// a fork's own blocks.
#pragma once

#include <map>
#include <tuple>
#include <vector>

#include "engine/core/observer.h"
#include "engine/kernels/cpu/aligned.h"
#include "engine/kernels/ops.h"
#include "engine/kvcrush/prune_plan.h"
#include "engine/model/observation.h"
#include "engine/scheduler/sequence.h"

namespace kvcrush {

// What policies read of all layers, as plain arrays.
struct LayerReadings {
  std::vector<float> probability_sums;  // [Hq, cached]
  std::vector<float> key_scores;        // [Hkv, cached]
  std::vector<float> value_norms;       // [Hq, cached]
};
using Readings = std::vector<LayerReadings>;  // [num_layers]

// Readings of a trunk at its prompt's end: its children with the same needs read them once.
class ReadingsMemo {
 public:
  // Null: not read yet; then fill the one that make() returns.
  const Readings* find(const CompressionParams& params, const LookaheadShape& lookahead) const;
  Readings& make(const CompressionParams& params, const LookaheadShape& lookahead);

 private:
  using Key =
      std::tuple<BasePolicy, int, int, int, bool>;  // policy, observed queries, lookahead, value norms
  static Key key_of(const CompressionParams& params, const LookaheadShape& lookahead);
  std::map<Key, Readings> readings_;
};

class Pruner {
 public:
  Pruner(const HeadLayout& heads, int num_layers);

  // Prunes and packs the layers of `sequence` as `settling` says and adds what it did to
  // sequence.compression_outcome. observation: of this sequence, recorded up to num_computed_tokens; null
  // where the policy needs none.
  PruneReport settle(Sequence& sequence, const Settling& settling, Observation* observation, KvStorage& kv);
  // Fills the blocks of `child`, which has the settled shape, from those of `trunk`. `child_sums`: the
  // child's own observation where it keeps attention sums, else null.
  PruneReport fork(const Sequence& trunk, Sequence& child, const Observation* observation,
                   Observation* child_sums, ReadingsMemo& memo, KvStorage& kv);

 private:
  void read(const CompressionParams& params, const ObservedQueries& queries, const SequenceCache& source,
            const Observation* observation, const KvStorage& kv, Readings& readings);
  void read_layer(const CompressionParams& params, const ObservedQueries& queries,
                  const cpu::CachedLayer& cache, const Observation* observation, const KvStorage& kv,
                  int layer, int thread, LayerReadings& out);
  void read_layer_reference(const CompressionParams& params, const ObservedQueries& queries,
                            const cpu::CachedLayer& cache, const Observation* observation,
                            const KvStorage& kv, int layer, LayerReadings& out);
  // Fills plans_ for what `sequence` keeps of source's slots; readings null: all of them.
  void plan(const Sequence& sequence, const SequenceCache& source, const ObservedQueries& queries,
            const Readings* readings);
  void rewrite(const Sequence& source, const std::vector<cpu::CachedLayer>& targets, KvStorage& kv);

  HeadLayout heads_;
  // Reused from prune to prune.
  Readings readings_;
  std::vector<LayerPrunePlan> plans_;             // per layer
  std::vector<PruneScratch> select_scratch_;      // per thread
  std::vector<cpu::AlignedFloats> read_scratch_;  // per thread
  std::vector<std::vector<std::byte>> staging_;   // per thread, one head's part of a block
};

}  // namespace kvcrush
