// Runs steps on a GPU: forks, forward pass, and pruning when the engine asks for it. The counterpart of
// ModelRunner; owns everything in the GPU's memory.
#pragma once

#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "engine/gpu/gpu_backend.h"
#include "engine/gpu/gpu_decoder.h"
#include "engine/gpu/gpu_observation.h"
#include "engine/gpu/gpu_pruner.h"
#include "engine/gpu/gpu_sampler.h"
#include "engine/gpu/gpu_swap.h"
#include "engine/gpu/gpu_taps.h"
#include "engine/gpu/prune_timer.h"
#include "engine/gpu/step_graphs.h"
#include "engine/kv_cache/kv_storage.h"

namespace kvcrush {

class GpuRunner final : public ModelExecutor {
 public:
  // weights: in spec.weight_dtype, on the runtime's stream. Throws where the device cannot do a step.
  GpuRunner(const GpuExecutorSpec& spec, GpuWeights weights, std::unique_ptr<GpuRuntime> runtime);

  at::Tensor run(const StepPlan& plan) override;
  at::Tensor to_host(const at::Tensor& logits) override { return runtime_->to_host(logits); }
  bool samples() const override { return true; }
  std::vector<SampleResult> sample(std::span<const SampleJob> jobs, const at::Tensor& logits) override;
  const std::vector<PruneReport>& fork_reports() const override { return fork_reports_; }
  PruneReport settle(Sequence& sequence, const Settling& settling) override;
  std::vector<PruneTime> take_prune_times() override { return prune_timer_.take(); }
  void swap_out(SequenceId id, std::span<const BlockId> blocks) override {
    start_step();
    swaps_.swap_out(id, blocks, kv_, staging_);
  }
  void swap_in(SequenceId id, std::span<const BlockId> blocks) override {
    start_step();
    swaps_.swap_in(id, blocks, kv_, staging_);
  }
  std::optional<double> seconds_per_swapped_block() const override { return swaps_.seconds_per_block(); }
  void expect_children(SequenceId trunk, const ObservationNeeds& needs) override {
    trunk_needs_[trunk] = needs;
  }
  void forget(SequenceId id, bool for_good) override;

 private:
  void warm_up();
  void start_step();
  // Rows that the step's batch is padded to, to be recorded or started as recorded; 0: neither.
  int padded_rows(const StepPlan& plan) const;
  void forward(const GpuBatch& batch, bool as_graph);
  bool prepare_fork(const Fork& fork);  // whether the child is pruned or packed
  void prepare_observation(const Sequence& sequence);
  GpuObservation* observation_of(const Sequence& sequence);
  // After a prune was prepared and counted: see GpuPruner::prepare().
  void place(Sequence& sequence, std::vector<at::Tensor> positions);

  std::unique_ptr<GpuRuntime> runtime_;
  int num_layers_;
  KvStorage kv_;
  GpuDecoder decoder_;
  GpuBatchBuilder batch_builder_;
  GpuPruner pruner_;
  PruneTimer prune_timer_;
  GpuTaps taps_;
  GpuSampler sampler_;
  StepGraphs graphs_;
  bool uses_graphs_;
  DeviceTables tables_;
  Staging staging_;
  std::unordered_map<SequenceId, GpuObservation> observations_;  // of sequences that prune by attention
  std::unordered_map<SequenceId, ObservationNeeds> trunk_needs_;
  GpuSwap swaps_;
  std::vector<PruneReport> fork_reports_;
};

// With the weights of spec.model.
std::unique_ptr<ModelExecutor> make_gpu_runner(const GpuExecutorSpec& spec,
                                               std::unique_ptr<GpuRuntime> runtime);

}  // namespace kvcrush
