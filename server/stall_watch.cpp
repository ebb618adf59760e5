#include "server/stall_watch.h"

#include <algorithm>

#include "server/generate_session.h"

namespace kvcrush {

StallWatch::StallWatch(const LiveRequests& live, UnsentAnswers& unsent, std::chrono::milliseconds timeout)
    : live_(live), unsent_(unsent), timeout_(timeout) {
  if (timeout_.count() > 0) {
    thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
  }
}

void StallWatch::run(const std::stop_token& stop) {
  using std::chrono::milliseconds;
  const auto interval = std::clamp(timeout_ / 4, milliseconds(20), milliseconds(1000));
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    wake_.wait_for(lock, stop, interval, [] { return false; });
    const auto now = GenerateSession::Clock::now();
    for (const auto& session : live_.snapshot()) session->check_stalled(now, timeout_);
    unsent_.cut_off(now, timeout_);
  }
}

}  // namespace kvcrush
