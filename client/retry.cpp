#include "client/retry.h"

#include <algorithm>

namespace kvcrush::client {

std::optional<std::chrono::milliseconds> retry_wait(const RetryOptions& options, const Status& status,
                                                    int tried, double jitter) {
  using std::chrono::milliseconds;
  const bool transient = status.code == Code::kResourceExhausted || status.code == Code::kUnavailable;
  if (!transient || tried > options.max_retries) return std::nullopt;
  const auto stretched = [](milliseconds wait, double factor) {
    return std::chrono::ceil<milliseconds>(
        std::chrono::duration<double, std::milli>(static_cast<double>(wait.count()) * factor));
  };
  if (status.retry_after) {
    if (*status.retry_after > options.max_retry_after) return std::nullopt;
    return stretched(*status.retry_after, 1 + jitter / 4);
  }
  milliseconds backoff = options.initial_backoff;
  for (int i = 1; i < tried && backoff < options.max_backoff; ++i) backoff *= 2;
  return stretched(std::min(backoff, options.max_backoff), (1 + jitter) / 2);
}

}  // namespace kvcrush::client
