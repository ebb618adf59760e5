#include "engine/gpu/gpu_pruner.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
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

// The device memory of one prune's readings and selection.
struct Workspace {
  struct Layer {
    float* probabilities = nullptr;  // each [heads, cached tokens]; null: not read
    float* key_scores = nullptr;
    float* value_norms = nullptr;
  };
  std::vector<Layer> layers;
  float* key_scratch = nullptr;
  std::byte* selection = nullptr;
  at::Tensor memory;
};

Workspace make_workspace(const CompressionParams& params, bool reads_probabilities, const HeadLayout& heads,
                         const cpu::KvPool& pool, const std::vector<cpu::CachedLayer>& from,
                         const std::vector<cuda::SelectJob>& selections, at::Device device) {
  Carver carver;
  std::vector<std::array<std::int64_t, 3>> offsets;
  for (const cpu::CachedLayer& cache : from) {
    const auto take = [&](bool wanted, int rows) {
      return wanted ? carver.take(std::int64_t{4} * rows * cache.num_cached) : -1;
    };
    offsets.push_back({take(reads_probabilities, heads.num_heads),
                       take(reads_keys(params.policy), heads.num_kv_heads),
                       take(params.value_norm, heads.num_kv_heads)});
  }
  const std::int64_t key_scratch =
      carver.take(4 * cuda::key_score_workspace_floats(pool, static_cast<int>(from.size())));
  const std::int64_t selection =
      carver.take(static_cast<std::int64_t>(cuda::select_workspace_bytes(selections)));
  Workspace workspace;
  workspace.memory =
      at::empty({carver.size() + kAlignmentBytes}, at::TensorOptions(at::kByte).device(device));
  auto* base = static_cast<std::byte*>(workspace.memory.data_ptr());
  const auto address = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(base));
  base += (kAlignmentBytes - address % kAlignmentBytes) % kAlignmentBytes;
  const auto floats_at = [&](std::int64_t offset) {
    return offset < 0 ? nullptr : reinterpret_cast<float*>(base + offset);
  };
  for (const auto& [probabilities, key_scores, value_norms] : offsets)
    workspace.layers.push_back({floats_at(probabilities), floats_at(key_scores), floats_at(value_norms)});
  workspace.key_scratch = floats_at(key_scratch);
  workspace.selection = base + selection;
  return workspace;
}

// Rows of the ring that hold the queries, oldest first.
std::vector<std::int32_t> ring_rows_of(const ObservedQueries& queries, int ring_rows) {
  std::vector<std::int32_t> rows;
  for (const auto& [count, end] : queries.runs()) {
    for (int position = end - count; position < end; ++position) rows.push_back(position % ring_rows);
  }
  return rows;
}

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
  KVCRUSH_CHECK(prune.observation != nullptr || !(by_queries || by_sums));
  std::vector<cuda::SelectJob> selections;
  std::int64_t num_kept_slots = 0;
  for (int layer = 0; layer < num_layers_; ++layer) {
    selections.push_back(
        cuda::make_select_job(params, prune.sequence.schedule.layer_budget(layer), layer,
                              {.num_heads = heads_.num_heads,
                               .num_kv_heads = heads_.num_kv_heads,
                               .num_tokens = from[static_cast<std::size_t>(layer)].num_cached,
                               .num_queries = std::max(prune.queries.total(), 1)}));
    num_kept_slots += std::int64_t{selections.back().num_sets} * selections.back().num_kept;
  }
  const Workspace workspace =
      make_workspace(params, by_queries || by_sums, heads_, pool, from, selections, runtime_.device());
  work.kept_slots = at::empty({num_kept_slots}, at::TensorOptions(at::kInt).device(runtime_.device()));
  std::int64_t next_kept = 0;
  for (std::size_t layer = 0; layer < selections.size(); ++layer) {
    cuda::SelectJob& selection = selections[layer];
    selection.probability_sums = workspace.layers[layer].probabilities;
    selection.key_scores = workspace.layers[layer].key_scores;
    selection.value_norms = workspace.layers[layer].value_norms;
    const std::int64_t count = std::int64_t{selection.num_sets} * selection.num_kept;
    work.kept.push_back(
        work.kept_slots.narrow(0, next_kept, count).view({selection.num_sets, selection.num_kept}));
    next_kept += count;
    selection.kept_slots = work.kept.back().data_ptr<std::int32_t>();
    rewrites[layer].sources = selection.kept_slots;
    rewrites[layer].num_sets = selection.num_sets;
    KVCRUSH_CHECK(selection.num_kept == rewrites[layer].to.num_cached);
  }
  std::vector<cuda::ProbabilityJob> probabilities;
  std::vector<cuda::KeyScoreJob> key_scores;
  std::vector<cuda::ValueNormJob> value_norms;
  const std::vector<std::int32_t> rows =
      by_queries ? ring_rows_of(prune.queries, prune.observation->ring_rows()) : std::vector<std::int32_t>{};
  const std::int32_t* device_rows = staging.add(rows);
  for (int layer = 0; layer < num_layers_; ++layer) {
    const cpu::CachedLayer& cache = from[static_cast<std::size_t>(layer)];
    const Workspace::Layer& at = workspace.layers[static_cast<std::size_t>(layer)];
    if (by_queries) {
      probabilities.push_back({.cache = cache,
                               .queries = prune.observation->queries(layer).const_data_ptr(),
                               .row_stats = prune.observation->stats(layer).const_data_ptr<float>(),
                               .rows = device_rows,
                               .num_queries = static_cast<std::int32_t>(rows.size()),
                               .num_after = prune.queries.lookahead.total(),
                               .sums = at.probabilities,
                               .sums_stride = cache.num_cached});
    }
    if (by_sums)
      work.copied_sums.emplace_back(
          at.probabilities, prune.observation->sums(layer, cache.num_cached).narrow(1, 0, cache.num_cached));
    if (at.key_scores != nullptr)
      key_scores.push_back(
          {cache, params.policy == BasePolicy::kKeyDiff ? 1 : 0, at.key_scores, cache.num_cached});
    if (at.value_norms != nullptr) value_norms.push_back({cache, at.value_norms, cache.num_cached});
  }
  work.select = cuda::prepare_select(selections, workspace.selection);
  work.workspace = workspace.memory;
  work.key_workspace = workspace.key_scratch;
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
