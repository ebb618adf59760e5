// The figures of a bench: everything is worked out from the records.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "client/bench/load_generator.h"
#include "client/bench/percentiles.h"
#include "client/bench/request_record.h"

namespace kvcrush::bench {

// What a request must keep to count as good. ITL is judged by the request's mean (its TPOT). Unset: not
// judged.
struct Slo {
  std::optional<double> ttft_ms = {};
  std::optional<double> itl_ms = {};

  bool any() const { return ttft_ms || itl_ms; }
};

struct Counts {
  std::int64_t measured = 0;  // due in the time that is measured; the rest of the counts is of these
  std::int64_t ok = 0;
  std::int64_t failed = 0;
  std::int64_t cut_off = 0;  // still going when the load generator's patience ended, or interrupted
  std::int64_t retries = 0;
  std::map<client::Code, std::int64_t> by_code;  // of the ones that ended by themselves
  std::int64_t prompt_tokens = 0;
  std::int64_t generated_tokens = 0;
  std::int64_t warmup = 0;  // requests sent before
  std::int64_t warmup_generated_tokens = 0;
};

// Of what happened within the measured time, whichever request it belonged to.
struct Throughput {
  double requests_per_s = 0;          // that ended well
  double prompt_tokens_per_s = 0;     // of requests that ended well
  double generated_tokens_per_s = 0;  // that arrived
};

struct Goodput {
  std::int64_t met = 0;       // measured requests that ended well and kept the SLO
  double share = 0;           // of those measured
  double requests_per_s = 0;  // of the throughput's, those that kept it
};

// In ms, of measured requests: TTFT and ITL of all that got so far, the rest of those that ended well.
struct Latencies {
  Distribution ttft;
  Distribution itl;  // between chunks that carried tokens
  Distribution tpot;
  Distribution e2e;
  Distribution server_queue;  // as the server tells
  Distribution start_lag;     // due to sent: high values say that the load generator did not keep up
};

struct Second {
  std::int64_t due = 0;
  std::int64_t ok = 0;
  std::int64_t failed = 0;
  std::int64_t generated_tokens = 0;
  std::int64_t in_flight = 0;  // at its end
};

struct TenantSummary {
  std::string name;
  Counts counts;
  Throughput throughput;
  Latencies latencies;
};

struct Summary {
  double measured_s = 0;
  bool interrupted = false;
  Counts counts;
  Throughput throughput;
  std::optional<Goodput> goodput;
  Latencies latencies;
  std::vector<Second> seconds;         // from the start of the load to the last end, warm-up included
  std::vector<TenantSummary> tenants;  // where requests were spread over several
};

// `tenants` are the names that the records' indices mean.
Summary summarise(const LoadResult& load, const Slo& slo, const std::vector<std::string>& tenants = {});

}  // namespace kvcrush::bench
