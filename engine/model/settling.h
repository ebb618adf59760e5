// Pruning and packing as far as it does not matter which device does it: what is asked, what layers become,
// and what the client hears of it.
#pragma once

#include <span>
#include <vector>

#include "engine/core/observer.h"
#include "engine/model/observation_needs.h"
#include "engine/scheduler/sequence.h"

namespace kvcrush {

// The queries that a prune asks which is due now, and those that a fork asks of its trunk.
ObservedQueries queries_due(const Sequence& sequence);
ObservedQueries queries_for_fork(const Sequence& trunk, const Sequence& child);
// What the layers become, [num_layers].
std::vector<SequenceCache::LayerShape> settled_shapes(const Sequence& sequence, const Settling& settling);
// A layer's slots once it has that shape, in the blocks that it has.
cpu::CachedLayer reshaped(cpu::CachedLayer layer, const SequenceCache::LayerShape& shape);
// Gives the blocks back that the layers' new shapes do not need; [num_layers]. targets: of rewrite_targets().
PruneReport shrink_to(std::span<const SequenceCache::LayerShape> shapes,
                      std::vector<std::vector<BlockId>> targets, SequenceCache& cache);
// What a fork, whose cache has its shape already, did without of the trunk's tokens and blocks.
PruneReport fork_report(const SequenceCache& trunk, const SequenceCache& child);
// Adds to sequence.compression_outcome; after the cache has its new shape.
void add_outcome(Sequence& sequence, bool pruned, const PruneReport& report);

}  // namespace kvcrush
