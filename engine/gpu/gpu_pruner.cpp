#include "engine/gpu/gpu_pruner.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "engine/core/status.h"
#include "engine/model/window_slots.h"

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

// The device memory of a work's readings and selection.
struct Workspace {
  struct Layer {
    float* probabilities = nullptr;  // each [heads, cached tokens]; null: not read
    float* key_scores = nullptr;
    float* value_norms = nullptr;
  };
  std::vector<Layer> layers;
  float* key_scratch = nullptr;
  std::byte* selection = nullptr;
};

class WorkspacePlan {
 public:
  WorkspacePlan(const CompressionParams& params, bool reads_probabilities, const HeadLayout& heads,
                const cpu::KvPool& pool, const std::vector<cuda::SelectJob>& selections) {
    for (const cuda::SelectJob& job : selections) {
      const auto take = [&](bool wanted, int rows) {
        return wanted ? carver_.take(std::int64_t{4} * rows * job.num_tokens) : -1;
      };
      layers_.push_back({take(reads_probabilities, heads.num_heads),
                         take(reads_keys(params.policy), heads.num_kv_heads),
                         take(params.value_norm, heads.num_kv_heads)});
    }
    key_scratch_ =
        carver_.take(4 * cuda::key_score_workspace_floats(pool, static_cast<int>(selections.size())));
    selection_ = carver_.take(static_cast<std::int64_t>(cuda::select_workspace_bytes(selections)));
  }

  std::int64_t num_bytes() const { return carver_.size() + kAlignmentBytes; }
  Workspace place_in(const at::Tensor& memory) const {
    auto* base = static_cast<std::byte*>(memory.data_ptr());
    const auto address = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(base));
    base += (kAlignmentBytes - address % kAlignmentBytes) % kAlignmentBytes;
    const auto floats_at = [&](std::int64_t offset) {
      return offset < 0 ? nullptr : reinterpret_cast<float*>(base + offset);
    };
    Workspace workspace{.layers = {}, .key_scratch = floats_at(key_scratch_), .selection = base + selection_};
    for (const auto& [probabilities, key_scores, value_norms] : layers_)
      workspace.layers.push_back({floats_at(probabilities), floats_at(key_scores), floats_at(value_norms)});
    return workspace;
  }

 private:
  Carver carver_;
  std::vector<std::array<std::int64_t, 3>> layers_;  // offsets; -1: not read
  std::int64_t key_scratch_ = 0;
  std::int64_t selection_ = 0;
};

// Rows of the ring that hold the queries, oldest first.
std::vector<std::int32_t> ring_rows_of(const ObservedQueries& queries, int ring_rows) {
  std::vector<std::int32_t> rows;
  for (const auto& [count, end] : queries.runs()) {
    for (int position = end - count; position < end; ++position) rows.push_back(position % ring_rows);
  }
  return rows;
}

}  // namespace

GpuPruner::GpuPruner(const HeadLayout& heads, int num_layers, std::int64_t max_workspace_bytes,
                     GpuRuntime& runtime)
    : heads_(heads), num_layers_(num_layers), max_workspace_bytes_(max_workspace_bytes), runtime_(runtime) {}

const std::int32_t* GpuPruner::all_slots(int count) {
  if (!all_slots_.defined() || all_slots_.numel() < count)
    all_slots_ = at::arange(std::max(2 * count, 1024), at::TensorOptions(at::kInt).device(runtime_.device()));
  return all_slots_.const_data_ptr<std::int32_t>();
}

std::vector<at::Tensor> GpuPruner::prepare(const GpuPrune& prune, const cpu::KvPool& pool,
                                           const DeviceTables& tables, Staging& staging) {
  std::vector<at::Tensor> positions(static_cast<std::size_t>(num_layers_));
  int longest = 1;
  for (int layer = 0; layer < num_layers_; ++layer)
    longest = std::max(longest, prune.source.cache.layer(layer).num_cached_tokens());
  // Probabilities, and as much again for a selection with representatives.
  const std::int64_t layer_bytes =
      std::int64_t{4} * longest * (2 * heads_.num_heads + 2 * heads_.num_kv_heads);
  const int group = static_cast<int>(
      std::clamp<std::int64_t>(max_workspace_bytes_ / layer_bytes, 1, std::int64_t{num_layers_}));
  for (int first = 0; first < num_layers_; first += group) {
    Work work{.first_layer = first, .num_layers = std::min(group, num_layers_ - first)};
    std::vector<cuda::RewriteJob> rewrites;
    for (int layer = first; layer < first + work.num_layers; ++layer) {
      rewrites.push_back(
          {.from = tables.cached(prune.source, layer), .to = prune.targets[static_cast<std::size_t>(layer)]});
      work.max_cached = std::max(work.max_cached, rewrites.back().from.num_cached);
    }
    if (prune.prunes) {
      std::vector<cuda::SelectJob> selections = prepare_selection(prune, pool, rewrites, work);
      prepare_readings(prune, rewrites, selections, staging, work);
      std::ranges::copy(prepare_places(rewrites, selections, staging, work), positions.begin() + first);
      work.selections = staging.add(selections);
    } else {
      for (cuda::RewriteJob& job : rewrites) job.sources = all_slots(work.max_cached);
    }
    work.rewrites = staging.add(rewrites);
    works_.push_back(std::move(work));
  }
  return positions;
}

// What each layer keeps, and where readings, selection and its result lie.
std::vector<cuda::SelectJob> GpuPruner::prepare_selection(const GpuPrune& prune, const cpu::KvPool& pool,
                                                          std::vector<cuda::RewriteJob>& rewrites,
                                                          Work& work) {
  const CompressionParams& params = *prune.sequence.policy.compression;
  KVCRUSH_CHECK(cuda::selects_on_device(params));
  std::vector<cuda::SelectJob> selections;
  std::int64_t num_kept_slots = 0;
  for (int i = 0; i < work.num_layers; ++i) {
    const int layer = work.first_layer + i;
    const cpu::CachedLayer& from = rewrites[static_cast<std::size_t>(i)].from;
    selections.push_back(cuda::make_select_job(window_params(params, prune.source.cache.layer(layer)),
                                               prune.sequence.schedule.layer_budget(layer), layer,
                                               {.num_heads = heads_.num_heads,
                                                .num_kv_heads = heads_.num_kv_heads,
                                                .num_tokens = from.num_cached,
                                                .num_queries = std::max(prune.queries.total(), 1),
                                                .sliding_window = from.window}));
    num_kept_slots += std::int64_t{selections.back().num_sets} * selections.back().num_kept;
  }
  const bool reads_probabilities = prune.queries.count > 0 || params.policy == BasePolicy::kH2o;
  const WorkspacePlan plan(params, reads_probabilities, heads_, pool, selections);
  // Works run one after the other and share it; a larger one takes its place.
  if (!workspace_.defined() || workspace_.numel() < plan.num_bytes())
    workspace_ = at::empty({plan.num_bytes()}, at::TensorOptions(at::kByte).device(runtime_.device()));
  work.workspace = workspace_;
  const Workspace workspace = plan.place_in(workspace_);
  at::Tensor kept_slots = at::empty({num_kept_slots}, at::TensorOptions(at::kInt).device(runtime_.device()));
  std::int64_t next_kept = 0;
  for (std::size_t i = 0; i < selections.size(); ++i) {
    cuda::SelectJob& selection = selections[i];
    selection.probability_sums = workspace.layers[i].probabilities;
    selection.key_scores = workspace.layers[i].key_scores;
    selection.value_norms = workspace.layers[i].value_norms;
    const std::int64_t count = std::int64_t{selection.num_sets} * selection.num_kept;
    work.kept.push_back(
        kept_slots.narrow(0, next_kept, count).view({selection.num_sets, selection.num_kept}));
    next_kept += count;
    selection.kept_slots = work.kept.back().data_ptr<std::int32_t>();
    rewrites[i].sources = selection.kept_slots;
    rewrites[i].num_sets = selection.num_sets;
    KVCRUSH_CHECK(selection.num_kept == rewrites[i].to.num_cached);
  }
  work.select = cuda::prepare_select(selections, workspace.selection);
  work.key_workspace = workspace.key_scratch;
  work.sums = prune.sums;
  return selections;
}

std::vector<at::Tensor> GpuPruner::prepare_places(const std::vector<cuda::RewriteJob>& rewrites,
                                                  const std::vector<cuda::SelectJob>& selections,
                                                  Staging& staging, Work& work) const {
  std::vector<at::Tensor> positions(rewrites.size());
  std::vector<cuda::PlaceJob> jobs;
  for (std::size_t i = 0; i < rewrites.size(); ++i) {
    const cuda::SelectJob& selection = selections[i];
    if (rewrites[i].from.window.tokens == 0 || selection.num_kept == selection.num_tokens) continue;
    positions[i] = at::empty({heads_.num_kv_heads, selection.num_kept},
                             at::TensorOptions(at::kInt).device(runtime_.device()));
    jobs.push_back({.from = rewrites[i].from.window,
                    .kept_slots = selection.kept_slots,
                    .num_sets = selection.num_sets,
                    .num_kept = selection.num_kept,
                    .to = positions[i].data_ptr<std::int32_t>(),
                    .to_stride = selection.num_kept});
  }
  work.num_places = static_cast<int>(jobs.size());
  work.places = staging.add(jobs);
  return positions;
}

void GpuPruner::prepare_readings(const GpuPrune& prune, const std::vector<cuda::RewriteJob>& rewrites,
                                 const std::vector<cuda::SelectJob>& selections, Staging& staging,
                                 Work& work) {
  const CompressionParams& params = *prune.sequence.policy.compression;
  const bool by_queries = prune.queries.count > 0;
  const bool by_sums = params.policy == BasePolicy::kH2o;
  KVCRUSH_CHECK(prune.observation != nullptr || !(by_queries || by_sums));
  std::vector<cuda::ProbabilityJob> probabilities;
  std::vector<cuda::KeyScoreJob> key_scores;
  std::vector<cuda::ValueNormJob> value_norms;
  const std::vector<std::int32_t> rows =
      by_queries ? ring_rows_of(prune.queries, prune.observation->ring_rows()) : std::vector<std::int32_t>{};
  const std::int32_t* device_rows = staging.add(rows);
  for (std::size_t i = 0; i < rewrites.size(); ++i) {
    const int layer = work.first_layer + static_cast<int>(i);
    const cpu::CachedLayer& cache = rewrites[i].from;
    // A job only reads them; here they are written.
    auto* const sums = const_cast<float*>(selections[i].probability_sums);
    if (by_queries) {
      probabilities.push_back({.cache = cache,
                               .queries = prune.observation->queries(layer).const_data_ptr(),
                               .row_stats = prune.observation->stats(layer).const_data_ptr<float>(),
                               .rows = device_rows,
                               .num_queries = static_cast<std::int32_t>(rows.size()),
                               .num_after = prune.queries.lookahead.total(),
                               .sums = sums,
                               .sums_stride = cache.num_cached});
    }
    if (by_sums)
      work.copied_sums.emplace_back(
          sums, prune.observation->sums(layer, cache.num_cached).narrow(1, 0, cache.num_cached));
    if (selections[i].key_scores != nullptr)
      key_scores.push_back({cache, params.policy == BasePolicy::kKeyDiff ? 1 : 0,
                            const_cast<float*>(selections[i].key_scores), cache.num_cached});
    if (selections[i].value_norms != nullptr)
      value_norms.push_back({cache, const_cast<float*>(selections[i].value_norms), cache.num_cached});
  }
  work.probabilities = probabilities.empty() ? nullptr : staging.add(probabilities);
  work.key_scores = key_scores.empty() ? nullptr : staging.add(key_scores);
  work.value_norms = value_norms.empty() ? nullptr : staging.add(value_norms);
}

void GpuPruner::launch(const cpu::KvPool& pool, const OnPruneStage& on_stage) {
  const cuda::Stream stream = runtime_.stream();
  for (const Work& work : works_) {
    if (work.probabilities != nullptr) {
      cuda::probability_sums({.jobs = work.probabilities,
                              .num_jobs = work.num_layers,
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
      cuda::key_scores({work.key_scores, work.num_layers, work.max_cached, pool, work.key_workspace}, stream);
    if (work.value_norms != nullptr)
      cuda::value_norms({work.value_norms, work.num_layers, work.max_cached, pool}, stream);
    on_stage(PruneStage::kScore);
    if (work.selections != nullptr) cuda::select_tokens(work.select, work.selections, stream);
    on_stage(PruneStage::kSelect);
    cuda::place_tokens(work.places, work.num_places, heads_.num_kv_heads, stream);
    cuda::rewrite(pool, work.rewrites, work.num_layers, stream);
    for (int i = 0; work.sums != nullptr && i < work.num_layers; ++i)
      work.sums->keep_sums(work.first_layer + i, work.kept[static_cast<std::size_t>(i)]);
    on_stage(PruneStage::kCompact);
  }
  works_.clear();
}

}  // namespace kvcrush
