#include "engine/gpu/prune_timer.h"

namespace kvcrush {

namespace {

double& seconds_of(PruneStage stage, PruneTime& time) {
  switch (stage) {
    case PruneStage::kScore:
      return time.score_seconds;
    case PruneStage::kSelect:
      return time.select_seconds;
    case PruneStage::kCompact:
      break;
  }
  return time.compact_seconds;
}

}  // namespace

void PruneTimer::time(std::vector<SequenceId> sequences,
                      const std::function<void(const OnPruneStage&)>& launch) {
  if (sequences.empty()) return launch([](PruneStage) {});
  Launch timed{std::move(sequences), runtime_.note_time(), {}};
  try {
    launch([&](PruneStage stage) { timed.ends.emplace_back(stage, runtime_.note_time()); });
  } catch (...) {
    give_back(timed);
    throw;
  }
  launches_.push_back(std::move(timed));
}

void PruneTimer::give_back(const Launch& launch) {
  runtime_.give_back(launch.start);
  for (const auto& [stage, note] : launch.ends) runtime_.give_back(note);
}

std::optional<PruneTime> PruneTimer::time_of(const Launch& launch) {
  PruneTime time;
  int from = launch.start;
  for (const auto& [stage, note] : launch.ends) {
    const std::optional<double> seconds = runtime_.seconds_between(from, note);
    if (!seconds) return std::nullopt;
    seconds_of(stage, time) += *seconds / static_cast<double>(launch.sequences.size());
    from = note;
  }
  return time;
}

std::vector<PruneTime> PruneTimer::take() {
  std::vector<PruneTime> times;
  std::erase_if(launches_, [&](const Launch& launch) {
    std::optional<PruneTime> time = time_of(launch);
    if (!time) return false;
    for (const SequenceId id : launch.sequences) {
      time->id = id;
      times.push_back(*time);
    }
    give_back(launch);
    return true;
  });
  return times;
}

}  // namespace kvcrush
