// Answers that gRPC has and the client has not taken yet. Their requests have ended, so nothing else knows of
// them; a client that never takes them would keep them in memory for as long as its connection lives.
#pragma once

#include <grpcpp/server_context.h>

#include <chrono>
#include <mutex>
#include <string>
#include <unordered_map>

#include "server/metrics.h"

namespace kvcrush {

class UnsentAnswers {
 public:
  using Clock = std::chrono::steady_clock;

  // `metrics` outlives it.
  explicit UnsentAnswers(ServerMetrics& metrics) : metrics_(metrics) {}

  // Before Finish(); `context` lives until remove(). Id and traceparent are for the log, empty: it has none.
  void add(grpc::CallbackServerContext* context, const std::string& request_id,
           const std::string& traceparent);
  void remove(grpc::CallbackServerContext* context);  // from OnDone(), which says that it has left

  // Cancels the calls whose answers have waited for longer than `timeout`; frees what gRPC holds of them.
  void cut_off(Clock::time_point now, Clock::duration timeout);

 private:
  struct Entry {
    Clock::time_point added_at;
    std::string request_id;
    std::string traceparent;
    bool cancelled = false;
  };

  ServerMetrics& metrics_;
  std::mutex mutex_;
  std::unordered_map<grpc::CallbackServerContext*, Entry> entries_;  // guarded by mutex_
};

}  // namespace kvcrush
