#include "server/step_watch.h"

#include <algorithm>
#include <utility>

namespace kvcrush {

std::optional<StepProgress::Clock::duration> StepProgress::running_for(Clock::time_point now) const {
  const Clock::duration began_at = began_at_;
  if (began_at == kNone) return std::nullopt;
  return std::max(now.time_since_epoch() - began_at, Clock::duration::zero());
}

StepWatch::StepWatch(const StepProgress& progress, std::chrono::milliseconds timeout, OnChange on_change)
    : progress_(progress), timeout_(timeout), on_change_(std::move(on_change)) {}

void StepWatch::start() {
  if (timeout_.count() > 0) thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
}

std::optional<StepWatch::Clock::duration> StepWatch::stalled_for(Clock::time_point now) const {
  if (timeout_.count() == 0) return std::nullopt;
  const std::optional<Clock::duration> running_for = progress_.running_for(now);
  return running_for && *running_for >= timeout_ ? running_for : std::nullopt;
}

void StepWatch::check(Clock::time_point now) {
  const std::optional<Clock::duration> found = stalled_for(now);
  Clock::duration before{};
  {
    std::lock_guard lock(mutex_);
    before = std::exchange(stalled_for_, found.value_or(Clock::duration::zero()));
  }
  const bool was_stalled = before > Clock::duration::zero();
  if (found && !was_stalled) on_change_(true, *found);
  if (!found && was_stalled) on_change_(false, before);
}

void StepWatch::run(const std::stop_token& stop) {
  using std::chrono::milliseconds;
  const auto interval = std::clamp(timeout_ / 4, milliseconds(10), milliseconds(250));
  while (!stop.stop_requested()) {
    {
      std::unique_lock lock(mutex_);
      wake_.wait_for(lock, stop, interval, [] { return false; });
    }
    if (!stop.stop_requested()) check(Clock::now());
  }
}

}  // namespace kvcrush
