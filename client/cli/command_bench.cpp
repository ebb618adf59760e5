#include <sys/resource.h>

#include <algorithm>
#include <ctime>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "client/bench/bench_report.h"
#include "client/cli/bench_options.h"
#include "client/cli/commands.h"
#include "client/cli/progress.h"
#include "client/cli/table.h"

namespace kvcrush::cli {
namespace {

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  return {text, std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts)};
}

std::string bar(double share) {
  constexpr double kWidth = 16;
  const auto full = static_cast<std::size_t>(std::clamp(share, 0.0, 1.0) * kWidth);
  return "[" + std::string(full, '#') + std::string(static_cast<std::size_t>(kWidth) - full, '.') + "]";
}

// Rates of the last moments come from what changed since the words were asked for last.
class LiveWords {
 public:
  LiveWords(const bench::LoadGenerator& load, const bench::LoadPlan& plan) : load_(load), plan_(plan) {}

  std::string operator()() {
    const bench::LiveCounts now = load_.live();
    const std::int64_t ended = now.num_ok + now.num_failed;
    if (now.elapsed_s - since_s_ >= 1) {
      rate_ = static_cast<double>(ended - ended_before_) / (now.elapsed_s - since_s_);
      since_s_ = now.elapsed_s;
      ended_before_ = ended;
    }
    const double share = plan_.num_requests ? static_cast<double>(now.num_measured - now.in_flight) /
                                                  static_cast<double>(*plan_.num_requests)
                                            : now.elapsed_s / (plan_.warmup_s + plan_.duration_s);
    std::string words = bar(share) + (now.elapsed_s < plan_.warmup_s ? " warm-up  " : "  ");
    words += fixed(rate_, 1) + " requests/s  " + with_thousands(now.in_flight) + " in flight  ";
    if (now.recent_ttft_p50_ms) words += "TTFT p50 " + fixed(*now.recent_ttft_p50_ms, 0) + " ms  ";
    return words + with_thousands(now.num_ok) + " ok, " + with_thousands(now.num_failed) + " failed";
  }

 private:
  const bench::LoadGenerator& load_;
  const bench::LoadPlan& plan_;
  double since_s_ = 0;
  double rate_ = 0;
  std::int64_t ended_before_ = 0;
};

client::Result<std::vector<client::Client>> connect_all(const ServerOptions& server, int count,
                                                        const std::stop_token& stop) {
  std::vector<client::Client> clients;
  for (int i = 0; i < count; ++i) {
    auto client = connect(server, stop, count > 1);
    if (!client.ok()) return client.status();
    clients.push_back(std::move(*client));
  }
  return clients;
}

client::Status write_json(const std::string& path, const nlohmann::json& json) {
  std::ofstream out(path);
  out << json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
  out.close();
  if (out) return {};
  return {client::Code::kInvalidArgument, "cannot write '" + path + "'"};
}

bench::LoadResult run_load(std::vector<client::Client>& clients, const bench::Workload& workload,
                           const bench::LoadPlan& plan, const std::stop_token& stop,
                           bench::BenchSetting& setting) {
  bench::LoadGenerator load(clients, workload, plan);
  LiveWords words(load, plan);
  Progress progress([&words] { return words(); });
  const double cpu_before_s = cpu_seconds();
  setting.started_at = utc_now();
  auto result = load.run(stop);
  setting.wall_s = load.live().elapsed_s;
  setting.client_cpu_s = cpu_seconds() - cpu_before_s;
  return result;
}

int run_bench(BenchOptions& options, const ServerOptions& server, Interrupt& interrupt) {
  const auto settled = settle(options, server);
  if (!settled.ok()) return fail_usage(settled.message);
  const auto stop = interrupt.arm();
  auto clients = connect_all(server, options.num_connections, stop);
  if (!clients.ok()) return fail(clients.status(), stop);
  const auto model = clients->front().model_info();
  if (!model.ok()) return fail(model.status(), stop);
  const auto workload = bench::Workload::make(options.workload, *model);
  if (!workload.ok()) return fail_usage(workload.status().message);

  bench::BenchSetting setting{.plan = options.plan,
                              .workload = options.workload,
                              .slo = options.slo,
                              .server = server.target,
                              .model = *model,
                              .num_connections = options.num_connections,
                              .started_at = {}};
  const auto result = run_load(*clients, *workload, options.plan, stop, setting);
  std::vector<std::string> tenants;
  for (const auto& share : options.workload.tenants) tenants.push_back(share.name);
  const auto summary = bench::summarise(result, options.slo, tenants);
  bench::print_report(std::cout, setting, summary);
  if (options.json_file) {
    const auto written = write_json(*options.json_file, to_json(setting, summary));
    if (!written.ok()) return fail(written);
  }
  if (summary.interrupted) return kExitInterrupted;
  return summary.counts.ok > 0 ? kExitOk : kExitRpcError;
}

}  // namespace

void add_bench_command(CLI::App& app, const ServerOptions& server, Interrupt& interrupt, Command& chosen) {
  auto* command = app.add_subcommand("bench",
                                     "Load the server and measure throughput, latency and goodput; --timeout "
                                     "and --retries are each request's");
  const auto options = std::make_shared<BenchOptions>();
  add_bench_options(*command, *options);
  command->callback([=, &server, &interrupt, &chosen] {
    chosen = [=, &server, &interrupt] { return run_bench(*options, server, interrupt); };
  });
}

}  // namespace kvcrush::cli
