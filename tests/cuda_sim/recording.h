// What a graph of the simulated GPU holds: launches of one thread, kept instead of run.
#pragma once

#include <functional>
#include <vector>

namespace kvcrush::cuda_sim {

using Recording = std::vector<std::function<void()>>;
void record_into(Recording* recording);  // of this thread; null: launches run at once
bool is_recording();
void start(std::function<void()> launch);

}  // namespace kvcrush::cuda_sim
