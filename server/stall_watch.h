// Ends calls whose clients have stopped reading, so that their answers do not stay in memory for ever.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <stop_token>
#include <thread>

#include "server/live_requests.h"
#include "server/unsent_answers.h"

namespace kvcrush {

class StallWatch {
 public:
  // `timeout` 0: never looks. The others outlive the watch.
  StallWatch(const LiveRequests& live, UnsentAnswers& unsent, std::chrono::milliseconds timeout);

 private:
  void run(const std::stop_token& stop);

  const LiveRequests& live_;
  UnsentAnswers& unsent_;
  const std::chrono::milliseconds timeout_;
  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::jthread thread_;  // last: stops before the rest goes
};

}  // namespace kvcrush
