// Ends calls whose clients have stopped reading, so that their text does not stay in memory for ever.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <stop_token>
#include <thread>

#include "server/live_requests.h"

namespace kvcrush {

class StallWatch {
 public:
  // `timeout` 0: never looks. `live` outlives the watch.
  StallWatch(const LiveRequests& live, std::chrono::milliseconds timeout);

 private:
  void run(const std::stop_token& stop);

  const LiveRequests& live_;
  const std::chrono::milliseconds timeout_;
  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::jthread thread_;  // last: stops before the rest goes
};

}  // namespace kvcrush
