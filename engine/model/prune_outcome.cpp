#include "engine/model/prune_outcome.h"

#include <algorithm>

namespace kvcrush {

namespace {

template <typename Count>
LayerSpread spread_over_layers(int num_layers, const Count& count) {
  LayerSpread spread{.min = count(0), .mean = 0, .max = count(0)};
  for (int layer = 0; layer < num_layers; ++layer) {
    spread.min = std::min(spread.min, count(layer));
    spread.max = std::max(spread.max, count(layer));
    spread.mean += count(layer);
  }
  spread.mean /= num_layers;
  return spread;
}

}  // namespace

PruneReport shrink_to(std::span<const SequenceCache::LayerShape> shapes, SequenceCache& cache) {
  PruneReport report{.cached_tokens_before = cache.max_cached_tokens()};
  for (std::size_t layer = 0; layer < shapes.size(); ++layer) {
    report.tokens_evicted += shapes[layer].num_evicted;
    report.blocks_freed +=
        cache.shrink(static_cast<int>(layer), shapes[layer].num_packed, shapes[layer].num_tail);
  }
  report.cached_tokens_after = cache.max_cached_tokens();
  return report;
}

PruneReport fork_report(const SequenceCache& trunk, const SequenceCache& child) {
  PruneReport report{.cached_tokens_before = trunk.max_cached_tokens()};
  for (int layer = 0; layer < trunk.num_layers(); ++layer) {
    report.tokens_evicted += child.num_evicted(layer);
    report.blocks_freed += blocks_for(child.format(), 0, trunk.layer(layer).num_cached_tokens()) -
                           static_cast<int>(child.layer(layer).blocks().size());
  }
  report.cached_tokens_after = child.max_cached_tokens();
  return report;
}

void add_outcome(Sequence& sequence, bool pruned, const PruneReport& report) {
  const int num_layers = sequence.cache.num_layers();
  CompressionOutcome& outcome = sequence.compression_outcome;
  outcome.pruned = outcome.pruned || pruned;
  outcome.prune_count += pruned ? 1 : 0;
  outcome.blocks_freed += report.blocks_freed;
  outcome.tokens_kept = spread_over_layers(
      num_layers, [&](int layer) { return sequence.cache.layer(layer).num_cached_tokens(); });
  outcome.tokens_evicted =
      spread_over_layers(num_layers, [&](int layer) { return sequence.cache.num_evicted(layer); });
}

}  // namespace kvcrush
