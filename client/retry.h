// When a call is tried again, and after what wait.
#pragma once

#include <chrono>
#include <optional>

#include "client/status.h"

namespace kvcrush::client {

struct RetryOptions {
  int max_retries = 0;                             // tries after the first
  std::chrono::milliseconds initial_backoff{100};  // where the server says nothing; doubles with each try
  std::chrono::milliseconds max_backoff{10'000};
  std::chrono::milliseconds max_retry_after{60'000};  // a server that asks for more is taken for gone
};

// The wait before try number `tried` + 1, or none when the failure is final. Only RESOURCE_EXHAUSTED and
// UNAVAILABLE pass; the caller asks only where nothing of an answer has come yet. `jitter` is in [0, 1) and
// keeps clients that failed together from coming back together: the wait is at least what the server asked
// for and up to a quarter more, or between half and the whole of the backoff.
std::optional<std::chrono::milliseconds> retry_wait(const RetryOptions& options, const Status& status,
                                                    int tried, double jitter);

}  // namespace kvcrush::client
