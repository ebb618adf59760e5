// A bench's summary as text and as JSON.
#pragma once

#include <iosfwd>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "client/bench/load_generator.h"
#include "client/bench/summary.h"
#include "client/bench/workload.h"
#include "kvcrush/v1/inference.pb.h"

namespace kvcrush::bench {

// What was run, beside the figures.
struct BenchSetting {
  LoadPlan plan = {};
  WorkloadOptions workload = {};
  Slo slo = {};
  std::string server = {};
  v1::GetModelInfoResponse model = {};
  int num_connections = 1;
  std::string started_at = {};  // UTC, ISO 8601
  double client_cpu_s = 0;      // processor time that the load generator took itself
  double wall_s = 0;
};

// "open loop, 2 requests/s", "closed loop, 16 in flight"
std::string describe(const LoadPlan& plan);

void print_report(std::ostream& out, const BenchSetting& setting, const Summary& summary);
nlohmann::json to_json(const BenchSetting& setting, const Summary& summary);

}  // namespace kvcrush::bench
