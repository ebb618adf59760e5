// What the load generator saw of one request. All figures of a bench are worked out from these, afterwards.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "client/status.h"

namespace kvcrush::bench {

// A chunk that carried tokens. Times are seconds since the load began, of this machine's steady clock.
struct Arrival {
  double at_s = 0;
  int num_tokens = 0;
};

enum class Outcome {
  kOk,      // the stream ended well
  kFailed,  // with another status, after its retries
  kCutOff,  // the load generator cancelled it: out of patience at the end, or interrupted
};

struct RequestRecord {
  std::int64_t number = 0;
  int tenant = 0;       // index into the workload's
  bool warmup = false;  // counts in no latency and no status
  // When the request wanted to start. Latencies count from here: in an open loop what delays the client is
  // part of what a user waits for.
  double due_s = 0;
  double sent_s = 0;
  double end_s = 0;
  Outcome outcome = Outcome::kOk;
  client::Code code = client::Code::kOk;
  int retries = 0;
  std::vector<Arrival> arrivals;
  int prompt_tokens = 0;                  // as the server tells; 0 when it did not come to that
  std::optional<double> server_queue_ms;  // the same

  int num_tokens() const {
    int sum = 0;
    for (const Arrival& arrival : arrivals) sum += arrival.num_tokens;
    return sum;
  }
  // Time to first token. Unset: none came.
  std::optional<double> ttft_ms() const {
    if (arrivals.empty()) return std::nullopt;
    return (arrivals.front().at_s - due_s) * 1000;
  }
  // Time per output token: the mean after the first. Unset with fewer than two tokens.
  std::optional<double> tpot_ms() const {
    const int after_first = num_tokens() - 1;
    if (after_first < 1) return std::nullopt;
    return (arrivals.back().at_s - arrivals.front().at_s) * 1000 / after_first;
  }
  double e2e_ms() const { return (end_s - due_s) * 1000; }
};

}  // namespace kvcrush::bench
