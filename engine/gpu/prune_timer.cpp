#include "engine/gpu/prune_timer.h"

#include <optional>
#include <utility>

namespace kvcrush {

void PruneTimer::time(std::vector<SequenceId> sequences, const std::function<void()>& launch) {
  if (sequences.empty()) return launch();
  const int timer = runtime_.time(launch);
  launches_.push_back({timer, std::move(sequences)});
}

std::vector<PruneTime> PruneTimer::take() {
  std::vector<PruneTime> times;
  std::erase_if(launches_, [&](const Launch& launch) {
    const std::optional<double> seconds = runtime_.take_time(launch.timer);
    if (!seconds) return false;
    for (const SequenceId id : launch.sequences)
      times.push_back({id, *seconds / static_cast<double>(launch.sequences.size())});
    return true;
  });
  return times;
}

}  // namespace kvcrush
