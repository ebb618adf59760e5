#include "engine/gpu/gpu_pruner.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "engine/core/status.h"

namespace kvcrush {

namespace {

constexpr std::int64_t kAlignmentBytes = 256;

// Shares one allocation out.
class Carver {
 public:
  std::int64_t take(std::int64_t bytes) {
    const std::int64_t offset = size_;
    size_ += (bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes;
    return offset;
  }
  std::int64_t size() const { return size_; }

 private:
  std::int64_t size_ = 0;
};

// Where the readings of a layer lie in the workspace; -1: not read.
struct ReadingOffsets {
  std::int64_t probabilities = -1;
  std::int64_t key_scores = -1;
  std::int64_t value_norms = -1;
};

}  // namespace

GpuPruner::GpuPruner(const HeadLayout& heads, int num_layers, GpuRuntime& runtime)
    : heads_(heads), num_layers_(num_layers), runtime_(runtime) {}

const std::int32_t* GpuPruner::all_slots(int count) {
  if (!all_slots_.defined() || all_slots_.numel() < count)
    all_slots_ = at::arange(std::max(2 * count, 1024), at::TensorOptions(at::kInt).device(runtime_.device()));
  return all_slots_.const_data_ptr<std::int32_t>();
}

void GpuPruner::prepare(const GpuPrune& prune, const cpu::KvPool& pool, const DeviceTables& tables,
                        Staging& staging) {
  Work& work = works_.emplace_back();
  std::vector<cpu::CachedLayer> from;
  std::vector<cuda::RewriteJob> rewrites;
  for (int layer = 0; layer < num_layers_; ++layer) {
    from.push_back(tables.cached(prune.source, layer));
    work.max_cached = std::max(work.max_cached, from.back().num_cached);
    rewrites.push_back({.from = from.back(), .to = prune.targets[static_cast<std::size_t>(layer)]});
  }
  if (prune.prunes) {
    prepare_selection(prune, pool, from, staging, work, rewrites);
  } else {
    for (cuda::RewriteJob& job : rewrites) job.sources = all_slots(work.max_cached);
  }
  work.rewrites = staging.add(rewrites);
}

void GpuPruner::prepare_selection(const GpuPrune& prune, const cpu::KvPool& pool,
                                  const std::vector<cpu::CachedLayer>& from, Staging& staging, Work& work,
                                  std::vector<cuda::RewriteJob>& rewrites) {
  const CompressionParams& params = *prune.sequence.policy.compression;
  KVCRUSH_CHECK(cuda::selects_on_device(params));
  const bool by_queries = prune.queries.count > 0;
  const bool by_sums = params.policy == BasePolicy::kH2o;
  Carver carver;
  std::vector<ReadingOffsets> offsets;
  std::vector<cuda::SelectJob> selections;
  std::int64_t num_kept_slots = 0;
  for (int layer = 0; layer < num_layers_; ++layer) {
    const int num_cached = from[static_cast<std::size_t>(layer)].num_cached;
    const auto floats = [&](int rows) { return carver.take(std::int64_t{4} * rows * num_cached); };
    ReadingOffsets& at = offsets.emplace_back();
    if (by_queries || by_sums) at.probabilities = floats(heads_.num_heads);
    if (reads_keys(params.policy)) at.key_scores = floats(heads_.num_kv_heads);
    if (params.value_norm) at.value_norms = floats(heads_.num_kv_heads);
    selections.push_back(cuda::make_select_job(params, prune.sequence.schedule.layer_budget(layer), layer,
                                               {.num_heads = heads_.num_heads,
                                                .num_kv_heads = heads_.num_kv_heads,
                                                .num_tokens = num_cached,
                                                .num_queries = std::max(prune.queries.total(), 1)}));
    num_kept_slots += std::int64_t{selections.back().num_sets} * selections.back().num_kept;
  }
  const std::int64_t key_workspace = carver.take(4 * cuda::key_score_workspace_floats(pool, num_layers_));
  const std::int64_t select_workspace =
      carver.take(static_cast<std::int64_t>(cuda::select_workspace_bytes(selections)));
  const auto options = at::TensorOptions(at::kByte).device(runtime_.device());
  work.workspace = at::empty({carver.size() + kAlignmentBytes}, options);
  work.kept_slots = at::empty({num_kept_slots}, options.dtype(at::kInt));
  auto* base = static_cast<std::byte*>(work.workspace.data_ptr());
  base += (kAlignmentBytes -
           static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(base)) % kAlignmentBytes) %
          kAlignmentBytes;
  const auto floats_at = [&](std::int64_t offset) { return reinterpret_cast<float*>(base + offset); };

  std::vector<std::int32_t> rows;
  if (by_queries) {
    KVCRUSH_CHECK(prune.observation != nullptr);
    for (const auto& [count, end] : prune.queries.runs()) {
      for (int position = end - count; position < end; ++position)
        rows.push_back(position % prune.observation->ring_rows());
    }
  }
  const std::int32_t* device_rows = staging.add(rows);
  std::vector<cuda::ProbabilityJob> probabilities;
  std::vector<cuda::KeyScoreJob> key_scores;
  std::vector<cuda::ValueNormJob> value_norms;
  std::int64_t next_kept = 0;
  for (int layer = 0; layer < num_layers_; ++layer) {
    const auto index = static_cast<std::size_t>(layer);
    const cpu::CachedLayer& cache = from[index];
    cuda::SelectJob& selection = selections[index];
    if (by_queries) {
      probabilities.push_back({.cache = cache,
                               .queries = prune.observation->queries(layer).const_data_ptr(),
                               .row_stats = prune.observation->stats(layer).const_data_ptr<float>(),
                               .rows = device_rows,
                               .num_queries = static_cast<std::int32_t>(rows.size()),
                               .num_after = prune.queries.lookahead.total(),
                               .sums = floats_at(offsets[index].probabilities),
                               .sums_stride = cache.num_cached});
    }
    if (by_sums) {
      KVCRUSH_CHECK(prune.observation != nullptr);
      work.copied_sums.emplace_back(
          floats_at(offsets[index].probabilities),
          prune.observation->sums(layer, cache.num_cached).narrow(1, 0, cache.num_cached));
    }
    if (by_queries || by_sums) selection.probability_sums = floats_at(offsets[index].probabilities);
    if (reads_keys(params.policy)) {
      selection.key_scores = floats_at(offsets[index].key_scores);
      key_scores.push_back({.cache = cache,
                            .against_mean = params.policy == BasePolicy::kKeyDiff ? 1 : 0,
                            .scores = floats_at(offsets[index].key_scores),
                            .scores_stride = cache.num_cached});
    }
    if (params.value_norm) {
      selection.value_norms = floats_at(offsets[index].value_norms);
      value_norms.push_back(
          {.cache = cache, .norms = floats_at(offsets[index].value_norms), .norms_stride = cache.num_cached});
    }
    const std::int64_t count = std::int64_t{selection.num_sets} * selection.num_kept;
    work.kept.push_back(
        work.kept_slots.narrow(0, next_kept, count).view({selection.num_sets, selection.num_kept}));
    selection.kept_slots = work.kept.back().data_ptr<std::int32_t>();
    rewrites[index].sources = selection.kept_slots;
    rewrites[index].num_sets = selection.num_sets;
    KVCRUSH_CHECK(selection.num_kept == rewrites[index].to.num_cached);
    next_kept += count;
  }
  work.select = cuda::prepare_select(selections, base + select_workspace);
  work.key_workspace = floats_at(key_workspace);
  work.sums = prune.sums;
  work.selections = staging.add(selections);
  work.probabilities = probabilities.empty() ? nullptr : staging.add(probabilities);
  work.key_scores = key_scores.empty() ? nullptr : staging.add(key_scores);
  work.value_norms = value_norms.empty() ? nullptr : staging.add(value_norms);
}

void GpuPruner::launch(const cpu::KvPool& pool) {
  const cuda::Stream stream = runtime_.stream();
  for (const Work& work : works_) {
    if (work.probabilities != nullptr) {
      cuda::probability_sums({.jobs = work.probabilities,
                              .num_jobs = num_layers_,
                              .max_cached = work.max_cached,
                              .pool = pool,
                              .num_heads = heads_.num_heads,
                              .scale = 1.0F / std::sqrt(static_cast<float>(heads_.head_dim)),
                              .queries = cuda::ActivationType::kF16,
                              .query_stride = std::int64_t{heads_.num_heads} * heads_.head_dim},
                             stream);
    }
    for (const auto& [target, sums] : work.copied_sums)
      at::from_blob(target, sums.sizes(), sums.options()).copy_(sums);
    if (work.key_scores != nullptr)
      cuda::key_scores({work.key_scores, num_layers_, work.max_cached, pool, work.key_workspace}, stream);
    if (work.value_norms != nullptr)
      cuda::value_norms({work.value_norms, num_layers_, work.max_cached, pool}, stream);
    if (work.selections != nullptr) cuda::select_tokens(work.select, work.selections, stream);
    cuda::rewrite(pool, work.rewrites, num_layers_, stream);
    if (work.sums == nullptr) continue;
    for (int layer = 0; layer < num_layers_; ++layer)
      work.sums->keep_sums(layer, work.kept[static_cast<std::size_t>(layer)]);
  }
  works_.clear();
}

}  // namespace kvcrush
