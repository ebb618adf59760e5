// How long prunes take on the GPU, without a wait for them.
#pragma once

#include <functional>
#include <vector>

#include "engine/gpu/gpu_runtime.h"
#include "engine/model/model_executor.h"

namespace kvcrush {

class PruneTimer {
 public:
  explicit PruneTimer(GpuRuntime& runtime) : runtime_(runtime) {}

  // launch() starts the prunes of these sequences.
  void time(std::vector<SequenceId> sequences, const std::function<void()>& launch);
  // Of launches that are done. Prunes that were launched together, forks of a step, get even shares.
  std::vector<PruneTime> take();

 private:
  struct Launch {
    int timer = 0;
    std::vector<SequenceId> sequences;
  };
  GpuRuntime& runtime_;
  std::vector<Launch> launches_;  // on their way
};

}  // namespace kvcrush
