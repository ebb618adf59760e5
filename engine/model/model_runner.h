// Runs one step's batch: forks, forward pass, then pruning of the sequences that are over budget. Owns
// everything with a tensor in it.
#pragma once

#include <memory>
#include <unordered_map>

#include "engine/model/decoder.h"
#include "engine/model/observation.h"
#include "engine/model/pruner.h"

namespace kvcrush {

class ModelRunner {
 public:
  ModelRunner(const ModelConfig& config, ModelWeights weights, const KvLayout& kv_layout, int num_blocks,
              int max_batch_tokens, at::Device device);

  // Carries out the plan's forks, then runs its chunks. Logits [rows, vocab] float32 on the CPU, in the order
  // of plan.chunks and their num_logit_rows; valid until the next call. Undefined: no logits are wanted.
  at::Tensor run(const StepPlan& plan);
  // What pruning and packing did in the last run's forks, in the order of plan.forks.
  const std::vector<PruneReport>& fork_reports() const { return fork_reports_; }
  // Prunes and packs a sequence whose chunk (of the last run) reached a boundary;
  // sequence.num_computed_tokens is up to date.
  PruneReport settle(Sequence& sequence, const Settling& settling);
  // What a trunk observes beside its own needs: its children's. Before its first run.
  void expect_children(SequenceId trunk, const ObservationNeeds& needs) { trunk_needs_[trunk] = needs; }
  // Drops what is kept for a sequence that has ended or was preempted; `for_good`: it will not come back.
  void forget(SequenceId id, bool for_good);

 private:
  void fork(const Fork& fork);
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
  std::vector<PruneReport> fork_reports_;
};

}  // namespace kvcrush
