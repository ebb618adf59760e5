// What it costs, as measured while the engine runs, to move cached blocks to the host and back, and to
// compute them again instead.
#pragma once

#include <cstdint>

#include "engine/scheduler/scheduler.h"

namespace kvcrush {

class SwapMeter {
 public:
  SwapMeter(std::uint64_t swap_memory_bytes, std::int64_t block_bytes)
      : max_blocks_(static_cast<int>(swap_memory_bytes / static_cast<std::uint64_t>(block_bytes))),
        seconds_per_block_(static_cast<double>(block_bytes) / kFirstGuessBytesPerSecond) {}

  // A step of that plan took so long.
  void step(const StepPlan& plan, double seconds) {
    const int tokens = plan.num_prefill_tokens + plan.num_decode_tokens;
    if (plan.num_prefill_tokens > 0) blend(seconds_per_token_, seconds / tokens);
  }
  // So many blocks went one way.
  void moved(int num_blocks, double seconds) {
    if (num_blocks > 0) blend(seconds_per_block_, seconds / num_blocks);
  }
  // Nothing is swapped before a prompt was computed.
  SwapCosts costs() const {
    return {.max_blocks = max_blocks_,
            .seconds_per_block = 2 * seconds_per_block_,
            .seconds_per_token = seconds_per_token_};
  }

 private:
  static constexpr double kFirstGuessBytesPerSecond = 2e9;
  static constexpr double kNewest = 0.2;  // weight of what was measured last

  static void blend(double& mean, double latest) {
    mean = mean == 0 ? latest : mean + kNewest * (latest - mean);
  }

  int max_blocks_;
  double seconds_per_block_;
  double seconds_per_token_ = 0;
};

}  // namespace kvcrush
