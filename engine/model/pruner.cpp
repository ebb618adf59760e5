#include "engine/model/pruner.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/core/status.h"
#include "engine/kernels/cpu/kv_blocks.h"
#include "engine/kernels/parallel.h"
#include "engine/model/settling.h"
#include "engine/model/window_slots.h"

namespace kvcrush {

namespace {

double ms_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

struct PruneTimes {
  Clock::time_point start, was_read, selected, compacted;
};

void add_times(const PruneTimes& times, CompressionOutcome& outcome, PruneReport& report) {
  outcome.score_ms += ms_between(times.start, times.was_read);
  outcome.select_ms += ms_between(times.was_read, times.selected);
  outcome.compact_ms += ms_between(times.selected, times.compacted);
  const double total_ms = ms_between(times.start, times.compacted);
  outcome.prune_ms += total_ms;
  report.seconds = total_ms / 1000.0;
}

void plan_all(int num_tokens, LayerPrunePlan& out) {
  out.num_tokens_before = out.num_tokens_after = num_tokens;
  out.num_sets = 1;
  out.kept_slots.resize(static_cast<std::size_t>(num_tokens));
  std::iota(out.kept_slots.begin(), out.kept_slots.end(), 0);
}

}  // namespace

ReadingsMemo::Key ReadingsMemo::key_of(const CompressionParams& params, const LookaheadShape& lookahead) {
  const bool by_window = params.policy == BasePolicy::kSnapKv;
  return {params.policy, by_window ? params.observed_queries : 0, lookahead.branches, lookahead.tokens,
          params.value_norm};
}
const Readings* ReadingsMemo::find(const CompressionParams& params, const LookaheadShape& lookahead) const {
  const auto it = readings_.find(key_of(params, lookahead));
  return it == readings_.end() ? nullptr : &it->second;
}
Readings& ReadingsMemo::make(const CompressionParams& params, const LookaheadShape& lookahead) {
  return readings_[key_of(params, lookahead)];
}

Pruner::Pruner(const HeadLayout& heads, int num_layers)
    : heads_(heads),
      readings_(static_cast<std::size_t>(num_layers)),
      plans_(static_cast<std::size_t>(num_layers)) {}

PruneReport Pruner::settle(Sequence& sequence, const Settling& settling, Observation* observation,
                           KvStorage& kv) {
  const Clock::time_point start = Clock::now();
  ObservedQueries queries;
  if (settling.prune) {
    queries = queries_due(sequence);
    read(*sequence.policy.compression, queries, sequence.cache, observation, kv, readings_);
  }
  const Clock::time_point was_read = Clock::now();
  plan(sequence, sequence.cache, queries, settling.prune ? &readings_ : nullptr);
  const Clock::time_point selected = Clock::now();

  const auto num_layers = static_cast<int>(plans_.size());
  const std::vector<SequenceCache::LayerShape> shapes = settled_shapes(sequence, settling);
  std::vector<std::vector<BlockId>> target_blocks = sequence.cache.rewrite_targets(shapes);
  std::vector<cpu::CachedLayer> targets;
  for (int layer = 0; layer < num_layers; ++layer) {
    targets.push_back(
        reshaped(sequence.cache.layer(layer).cached(), shapes[static_cast<std::size_t>(layer)]));
    if (!target_blocks.empty()) targets.back().blocks = target_blocks[static_cast<std::size_t>(layer)].data();
    KVCRUSH_CHECK(targets.back().num_cached == plans_[static_cast<std::size_t>(layer)].num_tokens_after);
  }
  rewrite(sequence, targets, kv);
  std::vector<BlockTable::Positions> positions;
  for (int layer = 0; layer < num_layers; ++layer)
    positions.push_back(positions_after(sequence.cache.layer(layer), plans_[static_cast<std::size_t>(layer)],
                                        heads_.num_kv_heads));

  if (settling.prune && observation != nullptr && observation->needs().attention_sums) {
    for (int layer = 0; layer < num_layers; ++layer) {
      const LayerPrunePlan& kept = plans_[static_cast<std::size_t>(layer)];
      observation->keep_sums(layer, kept.kept_slots, kept.num_sets, kept.num_tokens_after);
    }
  }
  PruneReport report = shrink_to(shapes, std::move(target_blocks), sequence.cache);
  for (int layer = 0; layer < num_layers; ++layer)
    sequence.cache.place(layer, std::move(positions[static_cast<std::size_t>(layer)]));
  add_times({start, was_read, selected, Clock::now()}, sequence.compression_outcome, report);
  add_outcome(sequence, settling.prune, report);
  return report;
}

PruneReport Pruner::fork(const Sequence& trunk, Sequence& child, const Observation* observation,
                         Observation* child_sums, ReadingsMemo& memo, KvStorage& kv) {
  const Clock::time_point start = Clock::now();
  const auto num_layers = static_cast<int>(plans_.size());
  bool prunes = false;
  for (int layer = 0; layer < num_layers; ++layer) prunes = prunes || child.cache.num_evicted(layer) > 0;
  const Readings* readings = nullptr;
  ObservedQueries queries;
  if (prunes) {
    const CompressionParams& params = *child.policy.compression;
    queries = queries_for_fork(trunk, child);
    readings = memo.find(params, child.lookahead.shape);
    if (readings == nullptr) {
      Readings& fresh = memo.make(params, child.lookahead.shape);
      fresh.resize(plans_.size());
      read(params, queries, trunk.cache, observation, kv, fresh);
      readings = &fresh;
    }
  }
  const Clock::time_point was_read = Clock::now();
  plan(child, trunk.cache, queries, readings);
  const Clock::time_point selected = Clock::now();
  std::vector<cpu::CachedLayer> targets;
  for (int layer = 0; layer < num_layers; ++layer) {
    const LayerPrunePlan& kept = plans_[static_cast<std::size_t>(layer)];
    targets.push_back(child.cache.layer(layer).cached());
    KVCRUSH_CHECK(targets.back().num_cached == kept.num_tokens_after);
    if (child_sums != nullptr)
      child_sums->keep_sums(layer, kept.kept_slots, kept.num_sets, kept.num_tokens_after);
    if (kept.num_tokens_after < kept.num_tokens_before)
      child.cache.place(layer, positions_after(trunk.cache.layer(layer), kept, heads_.num_kv_heads));
  }
  rewrite(trunk, targets, kv);
  PruneReport report = fork_report(trunk.cache, child.cache);
  add_times({start, was_read, selected, Clock::now()}, child.compression_outcome, report);
  if (prunes || child.cache.layer(0).num_packed_tokens() > 0) add_outcome(child, prunes, report);
  return report;
}

void Pruner::plan(const Sequence& sequence, const SequenceCache& source, const ObservedQueries& queries,
                  const Readings* readings) {
  select_scratch_.resize(
      std::max<std::size_t>(select_scratch_.size(), static_cast<std::size_t>(num_kernel_threads())));
  parallel_for(static_cast<std::int64_t>(plans_.size()), [&](std::int64_t index, int thread) {
    const auto layer = static_cast<std::size_t>(index);
    const int num_tokens = source.layer(static_cast<int>(index)).num_cached_tokens();
    if (readings == nullptr) return plan_all(num_tokens, plans_[layer]);
    const LayerReadings& read = (*readings)[layer];
    const BlockTable& table = source.layer(static_cast<int>(index));
    const CompressionParams params = window_params(*sequence.policy.compression, table);
    const std::vector<int> unseen = unseen_slots(table, heads_.num_kv_heads);
    const LayerObservation observation{.num_heads = heads_.num_heads,
                                       .num_kv_heads = heads_.num_kv_heads,
                                       .num_tokens = num_tokens,
                                       .probability_sums = read.probability_sums,
                                       .num_queries = std::max(queries.total(), 1),
                                       .key_scores = read.key_scores,
                                       .value_norms = read.value_norms,
                                       .num_unseen = unseen};
    plan_layer(params, sequence.schedule.layer_budget(static_cast<int>(index)), static_cast<int>(index),
               observation, select_scratch_[static_cast<std::size_t>(thread)], plans_[layer]);
  });
}

void Pruner::rewrite(const Sequence& source, const std::vector<cpu::CachedLayer>& targets, KvStorage& kv) {
  if (!use_cpu_kernels(kv.device())) {
    for (std::size_t layer = 0; layer < plans_.size(); ++layer)
      reference::rewrite(plans_[layer].kept_slots, source.cache.layer(static_cast<int>(layer)).cached(),
                         targets[layer], kv);
    return;
  }
  const cpu::KvPool pool = kv.cpu_pool();
  const auto num_threads = static_cast<std::size_t>(num_kernel_threads());
  read_scratch_.resize(std::max(read_scratch_.size(), num_threads));
  staging_.resize(std::max(staging_.size(), num_threads));
  const std::int64_t num_heads = heads_.num_kv_heads;
  parallel_for(static_cast<std::int64_t>(plans_.size()) * num_heads, [&](std::int64_t unit, int thread) {
    const auto layer = static_cast<std::size_t>(unit / num_heads);
    const LayerPrunePlan& plan = plans_[layer];
    const auto head = static_cast<int>(unit % num_heads);
    const std::ptrdiff_t set = plan.num_sets == 1 ? 0 : head;
    cpu::AlignedFloats& scratch = read_scratch_[static_cast<std::size_t>(thread)];
    std::vector<std::byte>& staging = staging_[static_cast<std::size_t>(thread)];
    scratch.resize(static_cast<std::size_t>(cpu::probability_scratch_floats()));
    staging.resize(static_cast<std::size_t>(cpu::head_bytes(pool)));
    cpu::rewrite_head(pool, source.cache.layer(static_cast<int>(layer)).cached(), targets[layer], head,
                      plan.kept_slots.data() + set * plan.num_tokens_after, scratch.data(), staging.data());
  });
}

}  // namespace kvcrush
