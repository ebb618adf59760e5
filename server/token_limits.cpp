#include "server/token_limits.h"

#include <algorithm>
#include <cmath>

namespace kvcrush {
namespace {

constexpr double kMsPerMinute = 60'000.0;
// Nobody knows when a running request ends.
constexpr std::chrono::milliseconds kRetryWhenOneHasEnded{1000};

}  // namespace

std::optional<std::chrono::milliseconds> TokenBucket::take(int per_minute, SteadyTime now) {
  const double per_ms = per_minute / kMsPerMinute;
  const std::chrono::duration<double, std::milli> elapsed = now - filled_at_;
  const double level = level_ ? std::min<double>(per_minute, *level_ + elapsed.count() * per_ms) : per_minute;
  filled_at_ = now;
  level_ = level;
  // A call that comes as late as it was told finds its token, in spite of rounding.
  constexpr double kRounding = 1e-6;
  if (level < 1.0 - kRounding)
    return std::chrono::milliseconds(static_cast<std::int64_t>(std::ceil((1.0 - level) / per_ms)));
  level_ = std::max(0.0, level - 1.0);
  return std::nullopt;
}

std::optional<LimitRefusal> TokenUsage::enter(const AuthToken& token, SteadyTime now, RunningSlot* slot) {
  const TokenLimits& limits = token.limits;
  std::lock_guard lock(mutex_);
  Usage& usage = by_name_[token.name];
  const int most_running = limits.max_concurrent_requests;
  if (slot != nullptr && most_running > 0 && usage.running() >= most_running)
    return LimitRefusal{TokenLimit::kConcurrentRequests, most_running, kRetryWhenOneHasEnded};
  if (const int per_minute = limits.max_requests_per_minute; per_minute > 0) {
    if (const auto wait = usage.bucket.take(per_minute, now))
      return LimitRefusal{TokenLimit::kRequestsPerMinute, per_minute, *wait};
  }
  if (slot != nullptr) *slot = RunningSlot(usage.marker);
  return std::nullopt;
}

void TokenUsage::keep_only(const TokenSet& set) {
  std::lock_guard lock(mutex_);
  std::erase_if(by_name_, [&set](const auto& entry) { return set.by_name(entry.first) == nullptr; });
}

}  // namespace kvcrush
