// What is done with a call that is refused for want of room: it is counted by reason, and its answer says
// when to come back.
#pragma once

#include <grpcpp/server_context.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>

#include "engine/core/status.h"
#include "server/metrics.h"
#include "server/retry_hint.h"

namespace kvcrush {

// Why Backend::submit refused, as its status tells (the bound of a queue by the words of queue_bound.h);
// nullopt: for a reason that waiting does not cure.
std::optional<ShedReason> shed_reason(const Status& status);

class LoadShedding {
 public:
  using Clock = std::chrono::steady_clock;

  // `metrics` and `outflow` outlive it. `max_waiting`: samples that the queue holds when it is full.
  LoadShedding(ServerMetrics& metrics, const QueueOutflow& outflow, int max_waiting)
      : metrics_(metrics), outflow_(outflow), max_waiting_(max_waiting) {}

  // Before the call is finished with its refusal.
  void shed(grpc::CallbackServerContext& context, ShedReason reason);
  // For a call that had begun and ends because the server shuts down.
  void hint_elsewhere(grpc::CallbackServerContext& context);

 private:
  std::chrono::milliseconds wait_for(ShedReason reason, Clock::time_point now) const;

  ServerMetrics& metrics_;
  const QueueOutflow& outflow_;
  const int max_waiting_;
  const Clock::time_point started_at_ = Clock::now();
  std::atomic<std::uint64_t> num_hints_{0};
};

}  // namespace kvcrush
