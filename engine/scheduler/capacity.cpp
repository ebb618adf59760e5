#include "engine/scheduler/capacity.h"

namespace kvcrush {

std::int64_t sequences_that_fit(const CacheSchedule& schedule, int num_tokens, std::int64_t num_blocks) {
  const std::int64_t peak = schedule.peak_blocks(num_tokens, /*forked=*/false);
  if (peak > num_blocks) return 0;
  // A fork begins behind the prompt: its peak is what a sequence holds from then on.
  return 1 + (num_blocks - peak) / schedule.peak_blocks(num_tokens, /*forked=*/true);
}

}  // namespace kvcrush
