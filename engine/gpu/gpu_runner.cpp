#include "engine/gpu/gpu_runner.h"

#include <ATen/ATen.h>

#include <stdexcept>

#include "engine/core/status.h"
#include "engine/kernels/cpu/kv_blocks.h"
#include "engine/model/settling.h"

namespace kvcrush {

namespace {

int supported_head_dim(const ModelConfig& config) {
  if (!cuda::has_attention_for(config.head_dim))
    throw std::runtime_error("head_dim is " + std::to_string(config.head_dim) +
                             "; allowed on a GPU: 64, 96, 128, 256");
  return config.head_dim;
}

// Where nothing is left out, a fork's cache is its trunk's, packed or not.
bool prunes(const SequenceCache& cache) {
  for (int layer = 0; layer < cache.num_layers(); ++layer) {
    if (cache.num_evicted(layer) > 0) return true;
  }
  return false;
}

}  // namespace

GpuRunner::GpuRunner(const GpuExecutorSpec& spec, GpuWeights weights, std::unique_ptr<GpuRuntime> runtime)
    : runtime_(std::move(runtime)),
      num_layers_(spec.model->config.num_layers),
      kv_({spec.kv_layout.num_kv_heads, supported_head_dim(spec.model->config)}, spec.num_blocks,
          runtime_->device()),
      decoder_(spec.model->config, std::move(weights), gpu_scalar_type(spec.weight_dtype),
               spec.max_batch_tokens, *runtime_),
      batch_builder_(decoder_.heads(), num_layers_,
                     !spec.model->config.windows_within(spec.max_context_tokens).empty()),
      pruner_(decoder_.heads(), num_layers_, spec.prune_workspace_bytes, *runtime_),
      prune_timer_(*runtime_),
      taps_(decoder_.heads(), num_layers_, *runtime_),
      sampler_(spec.model->config.vocab_size, *runtime_),
      graphs_(*runtime_),
      uses_graphs_(spec.graphs),
      tables_(*runtime_, num_layers_),
      staging_(*runtime_),
      swaps_(kv_, *runtime_) {
  warm_up();
}

// A step of nobody's rows: kernels and libraries are loaded now, not in the first request, and a graph that
// cannot be recorded stops the start.
void GpuRunner::warm_up() {
  start_step();
  const GpuBatch batch =
      batch_builder_.build({}, runtime_->num_processors(), tables_, staging_, /*num_padded=*/1);
  taps_.prepare(batch, {}, tables_, observations_, decoder_.activations(), decoder_.qkv(),
                decoder_.row_stats(), staging_, /*num_padded=*/1);
  staging_.upload();
  const int num_times = uses_graphs_ ? 3 : 1;  // as it is, recorded, again
  for (int i = 0; i < num_times; ++i) forward(batch, uses_graphs_);
  runtime_->to_host(decoder_.logits(1));
}

std::unique_ptr<ModelExecutor> make_gpu_runner(const GpuExecutorSpec& spec,
                                               std::unique_ptr<GpuRuntime> runtime) {
  GpuWeights weights = load_gpu_weights(*spec.model, spec.max_context_tokens,
                                        gpu_scalar_type(spec.weight_dtype), runtime->device());
  return std::make_unique<GpuRunner>(spec, std::move(weights), std::move(runtime));
}

// A step that threw may have left work behind, with addresses that are no longer anybody's.
void GpuRunner::start_step() {
  runtime_->enter();
  staging_.start();
  pruner_.discard();
  tables_.discard_updates();
}

at::Tensor GpuRunner::run(const StepPlan& plan) {
  start_step();
  fork_reports_.clear();
  for (const Fork& fork : plan.forks) {
    tables_.follow(*fork.trunk);
    tables_.follow(*fork.child);
  }
  for (const ScheduledChunk& chunk : plan.chunks) tables_.follow(*chunk.sequence);
  std::vector<SequenceId> pruned;
  for (const Fork& fork : plan.forks) {
    if (prepare_fork(fork)) pruned.push_back(fork.child_id);
  }
  for (const ScheduledChunk& chunk : plan.chunks) prepare_observation(*chunk.sequence);
  const int num_padded = padded_rows(plan);
  GpuBatch batch;
  if (!plan.chunks.empty()) {
    batch = batch_builder_.build(plan, runtime_->num_processors(), tables_, staging_, num_padded);
    taps_.prepare(batch, plan, tables_, observations_, decoder_.activations(), decoder_.qkv(),
                  decoder_.row_stats(), staging_, num_padded);
  }
  tables_.flush(staging_);  // last: their number would move the others
  staging_.upload();
  tables_.apply();
  prune_timer_.time(std::move(pruned),
                    [this](const OnPruneStage& on_stage) { pruner_.launch(kv_.pool(), on_stage); });
  if (plan.chunks.empty()) return {};
  forward(batch, num_padded > 0);
  int num_rows = 0;
  for (const ScheduledChunk& chunk : plan.chunks) num_rows += chunk.num_logit_rows;
  return decoder_.logits(num_rows);
}

int GpuRunner::padded_rows(const StepPlan& plan) const {
  const auto num_sequences = static_cast<int>(plan.chunks.size());
  if (!uses_graphs_ || num_sequences == 0 || !plan.forks.empty() || !is_plain_decode(plan)) return 0;
  return decode_bucket(num_sequences, decoder_.max_rows());
}

// A graph's launches are done when the next step begins: it gives logits, and somebody waited for its tokens.
void GpuRunner::forward(const GpuBatch& batch, bool as_graph) {
  if (decoder_.reserve(batch)) graphs_.clear();
  const auto launch = [&] {
    decoder_.forward(batch, kv_, [this](int layer) { taps_.launch(layer, kv_.pool()); });
  };
  if (!as_graph) return launch();
  const cuda::RecordCall& record = taps_.record();
  const cuda::ProbabilityCall& sums = taps_.sums();
  graphs_.run({.addresses = {batch.token_ids, batch.rope_rows, batch.sequence_of_token, batch.logit_rows,
                             batch.sequences, batch.decode, batch.prefill, record.copies, sums.jobs},
               .numbers = {batch.num_tokens, batch.num_logit_rows, batch.num_sequences, batch.plan.num_splits,
                           batch.plan.decode_rows, static_cast<int>(batch.widest), record.num_copies,
                           sums.num_jobs, sums.max_cached}},
              launch);
}

std::vector<SampleResult> GpuRunner::sample(std::span<const SampleJob> jobs, const at::Tensor& logits) {
  staging_.start();
  return sampler_.sample(jobs, logits, staging_);
}

void GpuRunner::prepare_observation(const Sequence& sequence) {
  if (observations_.contains(sequence.id)) return;
  const auto trunk = trunk_needs_.find(sequence.id);
  const ObservationNeeds needs = trunk == trunk_needs_.end() ? needs_of(sequence.policy) : trunk->second;
  if (needs.any())
    observations_.try_emplace(sequence.id, decoder_.heads(), num_layers_, needs, runtime_->device());
}

// With sums that have followed what the windows dropped.
GpuObservation* GpuRunner::observation_of(const Sequence& sequence) {
  const auto it = observations_.find(sequence.id);
  if (it == observations_.end()) return nullptr;
  for (int layer = 0; layer < num_layers_; ++layer)
    it->second.drop_sums(layer, sequence.cache.num_dropped(layer));
  return &it->second;
}

// The host knows how many slots there are and not which tokens they hold: it takes them for neighbours, and
// so gives their blocks back no sooner than their windows pass them.
void GpuRunner::place(Sequence& sequence, std::vector<at::Tensor> positions) {
  for (int layer = 0; layer < num_layers_; ++layer) {
    at::Tensor& own = positions[static_cast<std::size_t>(layer)];
    sequence.cache.place(layer, nullptr);
    if (own.defined()) tables_.place(sequence, layer, std::move(own));
  }
}

PruneReport GpuRunner::settle(Sequence& sequence, const Settling& settling) {
  start_step();
  tables_.follow(sequence);
  tables_.flush(staging_);
  GpuPrune prune{
      .source = sequence, .sequence = sequence, .prunes = settling.prune, .queries = {}, .targets = {}};
  prune.observation = observation_of(sequence);
  if (settling.prune) {
    prune.queries = queries_due(sequence);
    if (prune.observation != nullptr && prune.observation->needs().attention_sums)
      prune.sums = prune.observation;
  }
  const std::vector<SequenceCache::LayerShape> shapes = settled_shapes(sequence, settling);
  std::vector<std::vector<BlockId>> target_blocks = sequence.cache.rewrite_targets(shapes);
  for (int layer = 0; layer < num_layers_; ++layer) {
    const auto index = static_cast<std::size_t>(layer);
    prune.targets.push_back(reshaped(tables_.cached(sequence, layer), shapes[index]));
    if (!target_blocks.empty()) prune.targets.back().blocks = staging_.add(target_blocks[index]);
  }
  std::vector<at::Tensor> positions = pruner_.prepare(prune, kv_.pool(), tables_, staging_);
  staging_.upload();
  tables_.apply();
  prune_timer_.time({sequence.id},
                    [this](const OnPruneStage& on_stage) { pruner_.launch(kv_.pool(), on_stage); });
  const PruneReport report = shrink_to(shapes, std::move(target_blocks), sequence.cache);
  place(sequence, std::move(positions));
  add_outcome(sequence, settling.prune, report);
  return report;
}

bool GpuRunner::prepare_fork(const Fork& fork) {
  const Sequence& trunk = *fork.trunk;
  Sequence& child = *fork.child;
  GpuObservation* seen = observation_of(trunk);
  GpuPrune prune{
      .source = trunk, .sequence = child, .prunes = prunes(child.cache), .queries = {}, .targets = {}};
  prune.observation = seen;
  if (needs_of(child.policy).any()) {
    KVCRUSH_CHECK(seen != nullptr);
    GpuObservation& copy =
        observations_.insert_or_assign(child.id, seen->clone_for(needs_of(child.policy))).first->second;
    if (copy.needs().attention_sums && prune.prunes) prune.sums = &copy;
  }
  if (prune.prunes) prune.queries = queries_for_fork(trunk, child);
  for (int layer = 0; layer < num_layers_; ++layer) prune.targets.push_back(tables_.cached(child, layer));
  std::vector<at::Tensor> positions = pruner_.prepare(prune, kv_.pool(), tables_, staging_);
  if (prune.prunes) place(child, std::move(positions));
  fork_reports_.push_back(fork_report(trunk.cache, child.cache));
  const bool settles = prune.prunes || child.cache.layer(0).num_packed_tokens() > 0;
  if (settles) add_outcome(child, prune.prunes, fork_reports_.back());
  return settles;
}

void GpuRunner::forget(SequenceId id, bool for_good) {
  observations_.erase(id);
  swaps_.forget(id);
  tables_.forget(id);
  sampler_.forget(id);
  if (for_good) trunk_needs_.erase(id);
}

}  // namespace kvcrush
