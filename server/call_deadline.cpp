#include "server/call_deadline.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>

namespace kvcrush {

std::optional<SteadyTime> to_steady(std::chrono::system_clock::time_point deadline,
                                    std::chrono::system_clock::time_point system_now, SteadyTime steady_now) {
  constexpr std::chrono::hours kFarAway{24 * 365 * 10};
  if (deadline > system_now + kFarAway) return std::nullopt;
  return steady_now + (std::max(deadline, system_now - kFarAway) - system_now);
}

std::optional<SteadyTime> deadline_of(const grpc::CallbackServerContext& context) {
  return to_steady(context.deadline(), std::chrono::system_clock::now(), std::chrono::steady_clock::now());
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
