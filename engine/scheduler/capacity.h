// How many sequences a pool holds.
#pragma once

#include <cstdint>

#include "engine/scheduler/cache_schedule.h"

namespace kvcrush {

// Sequences of `num_tokens` tokens under `schedule` that a pool of `num_blocks` holds at a time without one
// giving way: all of them at their largest, and one still at its prompt, which is pruned and packed last.
std::int64_t sequences_that_fit(const CacheSchedule& schedule, int num_tokens, std::int64_t num_blocks);

}  // namespace kvcrush
