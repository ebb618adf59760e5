// Sends requests as planned and records what comes of each. One thread starts them; what comes back is
// handled on gRPC's few threads, so that thousands of streams in flight cost little.
//
//   open loop    requests arrive by a Poisson process, whatever the server does: how users behave
//   closed loop  so many requests are in flight at any time, a new one for each that ends: how batch jobs
//   behave
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <stop_token>
#include <vector>

#include "client/bench/arrivals.h"
#include "client/bench/request_record.h"
#include "client/bench/workload.h"
#include "client/kvcrush_client.h"

namespace kvcrush::bench {

struct LoadPlan {
  std::optional<double> rate_per_s = {};  // of an open loop
  int concurrency = 1;                    // of a closed loop, where no rate is given
  double warmup_s = 0;                    // requests that are due before it ends are sent and not counted
  double duration_s = 60;                 // after the warm-up, unless num_requests says how many
  std::optional<std::int64_t> num_requests = {};
  double grace_s = 60;  // how long the last requests may take before they are cancelled
  std::uint64_t seed = 0;
  std::optional<double> timeout_s = {};  // deadline of a request, from when it was due, retries included
  client::RetryOptions retry = {};
};

struct LoadResult {
  std::vector<RequestRecord> records;  // in the order they ended
  // Rates count what happened between these, seconds since the load began.
  double measure_from_s = 0;
  double measure_to_s = 0;
  bool interrupted = false;
};

// What a progress line shows.
struct LiveCounts {
  double elapsed_s = 0;
  std::int64_t num_started = 0;
  std::int64_t num_ok = 0;
  std::int64_t num_failed = 0;
  std::int64_t num_measured = 0;  // started after the warm-up
  int in_flight = 0;
  std::optional<double> recent_ttft_p50_ms;
};

class LoadGenerator {
 public:
  // `clients` are taken in turn. All arguments must outlive run().
  LoadGenerator(std::vector<client::Client>& clients, const Workload& workload, const LoadPlan& plan);

  // Blocks until every request has ended; `stop` cancels what runs. Once only.
  LoadResult run(const std::stop_token& stop);
  // From any thread while run() goes on.
  LiveCounts live() const;

 private:
  class Call;
  using Clock = std::chrono::steady_clock;
  using CallPtr = std::shared_ptr<Call>;

  double now_s() const;
  Clock::time_point at(double since_start_s) const;

  // Those that say so want mutex_ held.
  std::vector<CallPtr> take_due(double now);                     // held
  CallPtr new_call(double due_s);                                // held
  bool more_to_start(double now) const;                          // held
  std::optional<double> next_event_s(double now) const;          // held
  void give_up(std::unique_lock<std::mutex>& lock, bool asked);  // held, let go in between
  void start(const CallPtr& call);                               // not held
  void note_first_token(double ttft_ms);                         // not held
  void end(const CallPtr& call, const client::Status& status);   // not held
  void keep_record(const CallPtr& call);                         // held
  LoadResult result();                                           // held

  std::vector<client::Client>& clients_;
  const Workload& workload_;
  const LoadPlan& plan_;
  const Clock::time_point started_at_ = Clock::now();
  std::stop_source cancel_;  // of all calls

  mutable std::mutex mutex_;
  std::condition_variable_any wake_;
  // Guarded by mutex_.
  bool changed_ = false;  // a call has ended or waits for its next try
  std::optional<PoissonArrivals> arrivals_;
  double next_arrival_s_ = 0;
  std::multimap<double, CallPtr> retries_;  // by when they are due
  std::mt19937_64 jitter_;
  std::vector<RequestRecord> records_;
  std::deque<double> recent_ttft_ms_;
  LiveCounts counts_;
  double last_start_s_ = 0;
  std::optional<double> given_up_s_;
  bool interrupted_ = false;
};

}  // namespace kvcrush::bench
