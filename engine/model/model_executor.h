// What the engine needs of whatever runs the model: one implementation for the CPU and the reference
// operations (ModelRunner), one for GPUs with their own kernels (GpuRunner).
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "engine/core/observer.h"
#include "engine/model/observation_needs.h"
#include "engine/scheduler/scheduler.h"

namespace kvcrush {

class ModelExecutor {
 public:
  virtual ~ModelExecutor() = default;

  // Carries out the plan's forks, then runs its chunks. Logits [rows, vocab] float32 on the CPU, in the order
  // of plan.chunks and their num_logit_rows; valid until the next call. Undefined: no logits are wanted.
  virtual at::Tensor run(const StepPlan& plan) = 0;
  // What pruning and packing did in the last run's forks, in the order of plan.forks.
  virtual const std::vector<PruneReport>& fork_reports() const = 0;
  // Prunes and packs a sequence whose chunk (of the last run) reached a boundary;
  // sequence.num_computed_tokens is up to date.
  virtual PruneReport settle(Sequence& sequence, const Settling& settling) = 0;
  // What a trunk observes beside its own needs: its children's. Before its first run.
  virtual void expect_children(SequenceId trunk, const ObservationNeeds& needs) = 0;
  // Drops what is kept for a sequence that has ended or was preempted; `for_good`: it will not come back.
  virtual void forget(SequenceId id, bool for_good) = 0;
};

}  // namespace kvcrush
