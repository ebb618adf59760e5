#include "server/call_deadline.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cstdint>

namespace kvcrush {

std::optional<SteadyTime> to_steady(gpr_timespec deadline, gpr_timespec now, SteadyTime steady_now) {
  constexpr std::int64_t kFarAway = std::int64_t{10} * 365 * 24 * 3600;
  if (deadline.tv_sec > now.tv_sec + kFarAway) return std::nullopt;
  const std::chrono::seconds whole{std::max(deadline.tv_sec, now.tv_sec - kFarAway) - now.tv_sec};
  return steady_now + whole + std::chrono::nanoseconds(deadline.tv_nsec - now.tv_nsec);
}

std::optional<SteadyTime> deadline_of(const grpc::CallbackServerContext& context) {
  // Not context.deadline(): its nanoseconds since 1970 overflow in 2262, and a deadline of then is long past.
  const gpr_timespec deadline = context.raw_deadline();
  return to_steady(deadline, gpr_now(deadline.clock_type), std::chrono::steady_clock::now());
}

Status check_deadline(std::optional<SteadyTime> deadline, SteadyTime now) {
  if (!deadline || now < *deadline) return {};
  const std::chrono::duration<double, std::milli> late = now - *deadline;
  return {StatusCode::kDeadlineExceeded,
          fmt::format("deadline passed {:.0f} ms before the request could be queued", late.count())};
}

bool is_over_deadline(std::optional<SteadyTime> deadline, SteadyTime arrived_at, SteadyTime now) {
  if (!deadline) return false;
  constexpr std::chrono::milliseconds kTransit{20};
  return now + (*deadline - arrived_at) / 100 + kTransit >= *deadline;
}

}  // namespace kvcrush
