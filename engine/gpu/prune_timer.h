// How long prunes take on the GPU, without a wait for them.
#pragma once

#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "engine/gpu/gpu_pruner.h"
#include "engine/gpu/gpu_runtime.h"
#include "engine/model/model_executor.h"

namespace kvcrush {

class PruneTimer {
 public:
  explicit PruneTimer(GpuRuntime& runtime) : runtime_(runtime) {}

  // launch(on_stage) starts the prunes of these sequences and calls on_stage after each stage it has started.
  void time(std::vector<SequenceId> sequences, const std::function<void(const OnPruneStage&)>& launch);
  // Of launches that are done. Prunes that were launched together, forks of a step, get even shares.
  std::vector<PruneTime> take();

 private:
  struct Launch {
    std::vector<SequenceId> sequences;
    int start = 0;  // a note of the runtime, as the ints that follow
    std::vector<std::pair<PruneStage, int>> ends;
  };
  // Unset: it is not done yet.
  std::optional<PruneTime> time_of(const Launch& launch);
  void give_back(const Launch& launch);

  GpuRuntime& runtime_;
  std::vector<Launch> launches_;  // on their way
};

}  // namespace kvcrush
