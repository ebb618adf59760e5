#include "server/load_shedding.h"

#include <algorithm>
#include <string>

#include "engine/core/queue_bound.h"

namespace kvcrush {
namespace {

using std::chrono::milliseconds;

// While it drains another server has to answer, and may at once; a balancer needs about so long to notice.
constexpr milliseconds kUntilAnotherServer{1000};

}  // namespace

std::optional<ShedReason> shed_reason(const Status& status) {
  if (status.code() == StatusCode::kUnavailable) return ShedReason::kDraining;
  if (status.code() != StatusCode::kResourceExhausted) return std::nullopt;
  const bool by_tokens = status.message().find(kWaitingPromptTokens) != std::string::npos;
  return by_tokens ? ShedReason::kQueueTokens : ShedReason::kQueueRequests;
}

void LoadShedding::shed(grpc::CallbackServerContext& context, ShedReason reason) {
  metrics_.shed(reason);
  add_retry_hint(context, spread(wait_for(reason, Clock::now()), num_hints_++));
}

void LoadShedding::hint_elsewhere(grpc::CallbackServerContext& context) {
  add_retry_hint(context, spread(kUntilAnotherServer, num_hints_++));
}

milliseconds LoadShedding::wait_for(ShedReason reason, Clock::time_point now) const {
  switch (reason) {
    case ShedReason::kQueueRequests:
      // The last step may have seen less of a queue that has filled since.
      return outflow_.time_to_leave(std::max(outflow_.num_waiting(), max_waiting_), now);
    case ShedReason::kQueueTokens:
    case ShedReason::kTenantLimit:
      return outflow_.time_to_leave(outflow_.num_waiting(), now);
    case ShedReason::kLoading:
      // Nobody knows how long; that it takes as long again as it has taken is the best guess without more.
      return std::chrono::duration_cast<milliseconds>(now - started_at_);
    case ShedReason::kDraining:
      return kUntilAnotherServer;
  }
  return kUntilAnotherServer;
}

}  // namespace kvcrush
