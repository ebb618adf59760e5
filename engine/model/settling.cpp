#include "engine/model/settling.h"

#include <algorithm>
#include <utility>

#include "engine/core/status.h"
#include "engine/kernels/cpu/kv_blocks.h"

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

ObservedQueries queries_due(const Sequence& sequence) {
  const bool looked_ahead = sequence.num_computed_tokens == sequence.num_prompt_tokens;
  const LookaheadShape& shape = sequence.lookahead.shape;
  return queries_of(*sequence.policy.compression, sequence.num_computed_tokens,
                    looked_ahead ? shape : LookaheadShape{}, shape.tokens);
}

ObservedQueries queries_for_fork(const Sequence& trunk, const Sequence& child) {
  return queries_of(*child.policy.compression, trunk.num_prompt_tokens, child.lookahead.shape,
                    trunk.lookahead.shape.tokens);
}

std::vector<SequenceCache::LayerShape> settled_shapes(const Sequence& sequence, const Settling& settling) {
  std::vector<SequenceCache::LayerShape> shapes;
  for (int layer = 0; layer < sequence.cache.num_layers(); ++layer) {
    const BlockTable& table = sequence.cache.layer(layer);
    shapes.push_back(
        sequence.schedule.settled_shape(layer, settling, table.num_packed_tokens(), table.num_tail_tokens()));
    KVCRUSH_CHECK(cpu::can_rewrite_in_place(table.cached(), reshaped(table.cached(), shapes.back())));
  }
  return shapes;
}

cpu::CachedLayer reshaped(cpu::CachedLayer layer, const SequenceCache::LayerShape& shape) {
  layer.num_packed = shape.num_packed;
  layer.num_cached = shape.num_packed + shape.num_tail;
  return layer;
}

PruneReport shrink_to(std::span<const SequenceCache::LayerShape> shapes,
                      std::vector<std::vector<BlockId>> targets, SequenceCache& cache) {
  PruneReport report{.cached_tokens_before = cache.max_cached_tokens()};
  for (const SequenceCache::LayerShape& shape : shapes) report.tokens_evicted += shape.num_evicted;
  report.blocks_freed = cache.finish_rewrite(shapes, std::move(targets));
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
