// Notices that the engine does not get on: a step began and has not finished within a timeout.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <stop_token>
#include <thread>

namespace kvcrush {

// Whether a step is under way. The engine loop writes, anybody reads.
class StepProgress {
 public:
  using Clock = std::chrono::steady_clock;

  void began(Clock::time_point now) { began_at_ = now.time_since_epoch(); }
  void finished() { began_at_ = kNone; }
  // How long the present step has been running; nullopt: none is.
  std::optional<Clock::duration> running_for(Clock::time_point now) const;

 private:
  static constexpr Clock::duration kNone = Clock::duration::min();
  std::atomic<Clock::duration> began_at_{kNone};
};

class StepWatch {
 public:
  using Clock = StepProgress::Clock;
  // Told when the engine comes to be stalled, and when it gets on again; `duration`: of the step so far.
  using OnChange = std::function<void(bool stalled, Clock::duration duration)>;

  // `timeout` 0: no step is ever too long. `progress` outlives the watch.
  StepWatch(const StepProgress& progress, std::chrono::milliseconds timeout, OnChange on_change);

  // How long the present step has been running, while that is too long.
  std::optional<Clock::duration> stalled_for(Clock::time_point now) const;
  // Looks from a thread of its own, which calls `on_change`, until the watch goes.
  void start();
  // What that thread does again and again; for tests that bring their own clock.
  void check(Clock::time_point now);

 private:
  void run(const std::stop_token& stop);

  const StepProgress& progress_;
  const std::chrono::milliseconds timeout_;
  const OnChange on_change_;
  std::mutex mutex_;
  std::condition_variable_any wake_;
  Clock::duration stalled_for_{0};  // guarded by mutex_; 0: it was not, when last looked at
  std::jthread thread_;             // last: stops before the rest goes
};

}  // namespace kvcrush
