#include "engine/model/pruner.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "engine/core/status.h"
#include "engine/kernels/cpu/kv_blocks.h"
#include "engine/kernels/parallel.h"

namespace kvcrush {

namespace {

double ms_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

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

Pruner::Pruner(const HeadLayout& heads, int num_layers)
    : heads_(heads), probability_sums_(num_layers), plans_(num_layers) {}

PruneReport Pruner::prune(Sequence& sequence, const QueryRing& queries, KvStorage& kv) {
  KVCRUSH_CHECK(sequence.compression.has_value());
  select_scratch_.resize(std::max<std::size_t>(select_scratch_.size(), num_kernel_threads()));
  score_scratch_.resize(select_scratch_.size());
  const Clock::time_point start = Clock::now();
  score(sequence, queries, kv);
  const Clock::time_point scored = Clock::now();
  select(sequence, queries.window_tokens());
  const Clock::time_point selected = Clock::now();
  compact(sequence, kv);
  PruneReport report = release(sequence);
  const Clock::time_point compacted = Clock::now();

  CompressionOutcome& outcome = sequence.compression_outcome;
  outcome.score_ms += ms_between(start, scored);
  outcome.select_ms += ms_between(scored, selected);
  outcome.compact_ms += ms_between(selected, compacted);
  report.seconds = ms_between(start, compacted) / 1000.0;
  return report;
}

void Pruner::score(const Sequence& sequence, const QueryRing& queries, const KvStorage& kv) {
  const auto num_layers = static_cast<std::int64_t>(plans_.size());
  const int end_position = sequence.num_computed_tokens;
  if (!use_cpu_kernels(kv.device())) {
    for (std::int64_t layer = 0; layer < num_layers; ++layer) {
      const BlockTable& table = sequence.cache.layer(static_cast<int>(layer));
      const at::Tensor sums =
          reference::observation_scores(queries.gather(static_cast<int>(layer), end_position), heads_,
                                        table.blocks(), table.num_cached_tokens(), kv);
      const float* data = sums.const_data_ptr<float>();
      probability_sums_[layer].assign(data, data + sums.numel());
    }
    return;
  }
  const cpu::KvPool pool = kv.cpu_pool();
  const int group = heads_.num_heads / heads_.num_kv_heads;
  const float scale = 1.0F / std::sqrt(static_cast<float>(heads_.head_dim));
  parallel_for(num_layers, [&](std::int64_t layer, int thread) {
    const BlockTable& table = sequence.cache.layer(static_cast<int>(layer));
    const int num_cached = table.num_cached_tokens();
    const std::vector<const float*> rows = queries.rows(static_cast<int>(layer), end_position);
    std::vector<float>& sums = probability_sums_[layer];
    sums.resize(static_cast<std::size_t>(heads_.num_heads) * num_cached);
    score_scratch_[thread].resize(cpu::observation_scratch_floats(num_cached));
    for (int h = 0; h < heads_.num_kv_heads; ++h) {
      cpu::cpu_kernels().observation_scores(
          pool, table.blocks().data(), num_cached, h, group, rows.data(), static_cast<int>(rows.size()),
          scale, score_scratch_[thread].data(),
          sums.data() + static_cast<std::ptrdiff_t>(h) * group * num_cached);
    }
  });
}

void Pruner::select(const Sequence& sequence, int num_queries) {
  parallel_for(static_cast<std::int64_t>(plans_.size()), [&](std::int64_t layer, int thread) {
    plan_layer(*sequence.compression, sequence.prune_schedule.budget_tokens(), static_cast<int>(layer),
               probability_sums_[layer], num_queries, heads_.num_heads, heads_.num_kv_heads,
               sequence.cache.layer(static_cast<int>(layer)).num_cached_tokens(), select_scratch_[thread],
               plans_[layer]);
  });
}

void Pruner::compact(const Sequence& sequence, KvStorage& kv) {
  if (!use_cpu_kernels(kv.device())) {
    for (std::size_t layer = 0; layer < plans_.size(); ++layer) {
      reference::compact(plans_[layer].kept_slots, plans_[layer].num_tokens_after,
                         sequence.cache.layer(static_cast<int>(layer)).blocks(), kv);
    }
    return;
  }
  const cpu::KvPool pool = kv.cpu_pool();
  const std::int64_t num_heads = heads_.num_kv_heads;
  parallel_for(static_cast<std::int64_t>(plans_.size()) * num_heads, [&](std::int64_t unit, int) {
    const LayerPrunePlan& plan = plans_[unit / num_heads];
    const auto head = static_cast<int>(unit % num_heads);
    const std::ptrdiff_t set = plan.num_sets == 1 ? 0 : head;
    cpu::compact_head(pool, sequence.cache.layer(static_cast<int>(unit / num_heads)).blocks().data(), head,
                      plan.kept_slots.data() + set * plan.num_tokens_after, plan.num_tokens_after);
  });
}

// Shortens the block tables; from here on the freed blocks are anybody's.
PruneReport Pruner::release(Sequence& sequence) const {
  const auto num_layers = static_cast<int>(plans_.size());
  PruneReport report{.cached_tokens_before = sequence.cache.max_cached_tokens()};
  for (int layer = 0; layer < num_layers; ++layer) {
    const LayerPrunePlan& plan = plans_[layer];
    report.tokens_evicted += plan.num_tokens_before - plan.num_tokens_after;
    report.blocks_freed += sequence.cache.truncate(layer, plan.num_tokens_after);
  }
  report.cached_tokens_after = sequence.cache.max_cached_tokens();

  CompressionOutcome& outcome = sequence.compression_outcome;
  outcome.pruned = true;
  ++outcome.prune_count;
  outcome.blocks_freed += report.blocks_freed;
  outcome.tokens_kept = spread_over_layers(
      num_layers, [&](int layer) { return sequence.cache.layer(layer).num_cached_tokens(); });
  outcome.tokens_evicted =
      spread_over_layers(num_layers, [&](int layer) { return sequence.cache.num_evicted(layer); });
  return report;
}

}  // namespace kvcrush
