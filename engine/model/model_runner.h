// Runs one step's batch: forks, forward pass, then pruning of the sequences that are over budget. Owns
// everything with a tensor in it.
#pragma once

#include <memory>
#include <unordered_map>

#include "engine/model/decoder.h"
#include "engine/model/model_executor.h"
#include "engine/model/observation.h"
#include "engine/model/pruner.h"
#include "engine/model/swap_space.h"

namespace kvcrush {

class ModelRunner final : public ModelExecutor {
 public:
  ModelRunner(const ModelConfig& config, ModelWeights weights, const KvLayout& kv_layout, int num_blocks,
              int max_batch_tokens, at::Device device);

  at::Tensor run(const StepPlan& plan) override;
  const std::vector<PruneReport>& fork_reports() const override { return fork_reports_; }
  PruneReport settle(Sequence& sequence, const Settling& settling) override;
  void swap_out(SequenceId id, std::span<const BlockId> blocks) override { swaps_.swap_out(id, blocks, kv_); }
  void swap_in(SequenceId id, std::span<const BlockId> blocks) override { swaps_.swap_in(id, blocks, kv_); }
  void expect_children(SequenceId trunk, const ObservationNeeds& needs) override {
    trunk_needs_[trunk] = needs;
  }
  void forget(SequenceId id, bool for_good) override;

 private:
  void fork(const Fork& fork);
  // The sums follow what has left the layers' windows.
  void drop_sums(const Sequence& sequence, Observation& observation) const;
  void prepare_observation(const Sequence& sequence);
  void observe(int layer, const at::Tensor& qkv, const at::Tensor& row_stats);

  ModelConfig config_;
  at::Device device_;
  KvStorage kv_;
  Decoder decoder_;
  Pruner pruner_;
  StepBatch batch_;
  std::unordered_map<SequenceId, Observation> observations_;  // of sequences that prune by attention
  std::unordered_map<SequenceId, ObservationNeeds> trunk_needs_;
  std::unordered_map<SequenceId, ReadingsMemo> memos_;  // by trunk
  SwapSpace swaps_;
  std::vector<PruneReport> fork_reports_;
};

}  // namespace kvcrush
