// What the engine needs of whatever runs the model: one implementation for the CPU and the reference
// operations (ModelRunner), one for GPUs with their own kernels (GpuRunner).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/core/observer.h"
#include "engine/model/observation_needs.h"
#include "engine/sampling/sampler.h"
#include "engine/scheduler/scheduler.h"

namespace kvcrush {

// A row of logits that becomes a sequence's next token.
struct SampleJob {
  const Sequence* sequence = nullptr;
  int row = 0;
  int step = 0;                  // token number of the output
  std::uint64_t stream_key = 0;  // Sampler::stream_key()
  std::span<const TokenId> banned = {};
};

// Of a sequence's prune or packing.
struct PruneTime {
  SequenceId id = 0;
  double score_seconds = 0;
  double select_seconds = 0;
  double compact_seconds = 0;
  double seconds() const { return score_seconds + select_seconds + compact_seconds; }
};

class ModelExecutor {
 public:
  virtual ~ModelExecutor() = default;

  // Carries out the plan's forks, then runs its chunks. Logits [rows, vocab] float32, in the order of
  // plan.chunks and their num_logit_rows, where the executor keeps them; valid until the next call.
  // Undefined: no logits are wanted.
  virtual at::Tensor run(const StepPlan& plan) = 0;
  // Those logits on the CPU.
  virtual at::Tensor to_host(const at::Tensor& logits) { return logits; }
  // Whether sample() serves: logits need not come to the CPU then.
  virtual bool samples() const { return false; }
  // Tokens as Sampler::sample() gives them; overwrites logits.
  virtual std::vector<SampleResult> sample(std::span<const SampleJob> /*jobs*/,
                                           const at::Tensor& /*logits*/) {
    return {};
  }
  // What pruning and packing did in the last run's forks, in the order of plan.forks.
  virtual const std::vector<PruneReport>& fork_reports() const = 0;
  // Prunes and packs a sequence whose chunk (of the last run) reached a boundary;
  // sequence.num_computed_tokens is up to date.
  virtual PruneReport settle(Sequence& sequence, const Settling& settling) = 0;
  // Of prunes and packings that were reported without their time: what has become known since the last call.
  // Neither waits nor throws.
  virtual std::vector<PruneTime> take_prune_times() { return {}; }
  // Keeps the content of a sequence's blocks on the host, until it is moved into as many others or forgotten.
  virtual void swap_out(SequenceId id, std::span<const BlockId> blocks) = 0;
  virtual void swap_in(SequenceId id, std::span<const BlockId> blocks) = 0;
  // What that takes of a block, one way; unset: as long as the calls take to return.
  virtual std::optional<double> seconds_per_swapped_block() const { return {}; }
  // What a trunk observes beside its own needs: its children's. Before its first run.
  virtual void expect_children(SequenceId trunk, const ObservationNeeds& needs) = 0;
  // Drops what is kept for a sequence that has ended or was preempted; `for_good`: it will not come back.
  virtual void forget(SequenceId id, bool for_good) = 0;
};

}  // namespace kvcrush
