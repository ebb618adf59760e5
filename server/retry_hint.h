// When a refused client should come back: an estimate from what the server has seen of its own queue.
#pragma once

#include <grpcpp/server_context.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>

namespace kvcrush {

inline constexpr std::chrono::milliseconds kLeastRetryWait{100};
inline constexpr std::chrono::milliseconds kMostRetryWait{60'000};

// Puts `wait`, cut to [kLeastRetryWait, kMostRetryWait], into the trailing metadata, in milliseconds: as
// `retry-after-ms` for whoever reads it, and as `grpc-retry-pushback-ms`, which gRPC clients with a retry
// policy obey by themselves. Call before the call is finished.
void add_retry_hint(grpc::CallbackServerContext& context, std::chrono::milliseconds wait);

// `wait`, an estimate, up to a quarter shorter or longer, so that clients refused together do not come back
// together; within the bounds, and only shorter at the upper one. A pure function of `ordinal`: neighbours
// differ, and a test knows what to expect.
std::chrono::milliseconds spread(std::chrono::milliseconds wait, std::uint64_t ordinal);
// The same where coming earlier is known to be in vain: only longer.
std::chrono::milliseconds spread_later(std::chrono::milliseconds wait, std::uint64_t ordinal);

// How fast samples have left the queue since it was last empty: an empty queue says nothing of how fast a
// full one is served. Thread-safe; the engine loop writes, refused calls read.
class QueueOutflow {
 public:
  using Clock = std::chrono::steady_clock;

  void left(Clock::time_point now);                          // a sample was scheduled for the first time
  void set_waiting(int num_waiting, Clock::time_point now);  // after a step
  int num_waiting() const { return num_waiting_; }           // as of the engine's last step

  // Until `num_waiting` samples have left at that rate. Where none has left for long, the rate counts as
  // falling with every second; where none has left yet, as long again as they have waited, or a second.
  std::chrono::milliseconds time_to_leave(int num_waiting, Clock::time_point now) const;

 private:
  std::atomic<int> num_waiting_{0};
  mutable std::mutex mutex_;
  std::deque<Clock::time_point> departures_;        // guarded by mutex_; the newest, oldest first
  std::optional<Clock::time_point> waiting_since_;  // guarded by mutex_; nullopt: nobody waits
};

}  // namespace kvcrush
