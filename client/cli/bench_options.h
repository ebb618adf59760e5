// Command-line options of `kvcrush bench`.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "client/bench/load_generator.h"
#include "client/bench/summary.h"
#include "client/bench/workload.h"
#include "client/cli/connection.h"

namespace kvcrush::cli {

struct BenchOptions {
  bench::LoadPlan plan;
  bench::WorkloadOptions workload;
  bench::Slo slo;
  std::optional<int> concurrency;
  std::optional<std::string> prompt_file;
  std::optional<std::string> json_file;
  int num_connections = 1;
};

// `options` must outlive the parse.
void add_bench_options(CLI::App& app, BenchOptions& options);

// Fills in what the options leave open, and reads the prompt file. INVALID_ARGUMENT: they do not go together.
client::Status settle(BenchOptions& options, const ServerOptions& server);

}  // namespace kvcrush::cli
