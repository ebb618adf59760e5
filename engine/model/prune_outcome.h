// What the client hears of pruning and packing, whichever device did it.
#pragma once

#include <span>

#include "engine/core/observer.h"
#include "engine/scheduler/sequence.h"

namespace kvcrush {

// Gives the blocks back that the layers' new shapes do not need; [num_layers].
PruneReport shrink_to(std::span<const SequenceCache::LayerShape> shapes, SequenceCache& cache);
// What a fork, whose cache has its shape already, did without of the trunk's tokens and blocks.
PruneReport fork_report(const SequenceCache& trunk, const SequenceCache& child);
// Adds to sequence.compression_outcome; after the cache has its new shape.
void add_outcome(Sequence& sequence, bool pruned, const PruneReport& report);

}  // namespace kvcrush
