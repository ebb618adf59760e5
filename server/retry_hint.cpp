#include "server/retry_hint.h"

#include <algorithm>
#include <string>

#include "engine/core/splitmix64.h"

namespace kvcrush {
namespace {

using std::chrono::milliseconds;

constexpr std::size_t kRememberedDepartures = 64;
constexpr milliseconds kWhenNothingIsKnown{1000};

milliseconds clamped(milliseconds wait) {
  return std::clamp(wait, kLeastRetryWait, kMostRetryWait);
}

// Bounds first: what is cut afterwards would gather at the bound.
milliseconds between(milliseconds least, milliseconds most, std::uint64_t ordinal) {
  constexpr double kTwoTo64 = 18446744073709551616.0;
  const double share = static_cast<double>(splitmix64(ordinal)) / kTwoTo64;  // [0, 1]
  least = clamped(least);
  const auto range = static_cast<double>((clamped(most) - least).count());
  return least + milliseconds(static_cast<std::int64_t>(range * share));
}

}  // namespace

void add_retry_hint(grpc::CallbackServerContext& context, milliseconds wait) {
  const std::string text = std::to_string(clamped(wait).count());
  context.AddTrailingMetadata("retry-after-ms", text);
  context.AddTrailingMetadata("grpc-retry-pushback-ms", text);
}

milliseconds spread(milliseconds wait, std::uint64_t ordinal) {
  wait = clamped(wait);
  return between(wait * 3 / 4, wait * 5 / 4, ordinal);
}

milliseconds spread_later(milliseconds wait, std::uint64_t ordinal) {
  wait = clamped(wait);
  return between(wait, wait * 5 / 4, ordinal);
}

void QueueOutflow::set_waiting(int num_waiting, Clock::time_point now) {
  num_waiting_ = num_waiting;
  std::lock_guard lock(mutex_);
  if (num_waiting > 0) {
    if (!waiting_since_) waiting_since_ = now;
    return;
  }
  departures_.clear();
  waiting_since_.reset();
}

void QueueOutflow::left(Clock::time_point now) {
  std::lock_guard lock(mutex_);
  departures_.push_back(now);
  if (departures_.size() > kRememberedDepartures) departures_.pop_front();
}

milliseconds QueueOutflow::time_to_leave(int num_waiting, Clock::time_point now) const {
  std::lock_guard lock(mutex_);
  if (departures_.empty()) {
    if (!waiting_since_) return kWhenNothingIsKnown;
    const auto waited = std::chrono::duration_cast<milliseconds>(now - *waiting_since_);
    return clamped(std::max(waited, kWhenNothingIsKnown));
  }
  // Up to now, not up to the newest: a queue that stands still must not look fast.
  const std::chrono::duration<double, std::milli> span = now - departures_.front();
  const double wait_ms = span.count() * std::max(num_waiting, 1) / static_cast<double>(departures_.size());
  const double most_ms = static_cast<double>(kMostRetryWait.count());
  return clamped(milliseconds(static_cast<std::int64_t>(std::min(wait_ms, most_ms))));
}

}  // namespace kvcrush
