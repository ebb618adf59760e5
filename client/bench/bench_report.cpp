#include "client/bench/bench_report.h"

#include <cmath>
#include <ostream>

#include "client/cli/table.h"

namespace kvcrush::bench {
namespace {

using cli::fixed;
using cli::Table;
using cli::with_thousands;

// Three significant digits or so: 0.123, 12.3, 1,234.
std::string figure(double value) {
  if (value >= 1000) return with_thousands(std::llround(value));
  return fixed(value, value < 1 ? 3 : value < 100 ? 2 : 1);
}

std::string words(const TokenRange& range) {
  return std::to_string(range.min) + (range.min == range.max ? "" : " to " + std::to_string(range.max));
}

void print_heading(std::ostream& out, const BenchSetting& setting, const Summary& summary) {
  const WorkloadOptions& workload = setting.workload;
  out << setting.model.model_name() << " at " << setting.server << ": " << describe(setting.plan) << ", "
      << fixed(summary.measured_s, 1) << " s measured after " << fixed(setting.plan.warmup_s, 1)
      << " s of warm-up\n";
  if (workload.prompts.empty())
    out << "prompts of " << words(workload.prompt_tokens) << " random tokens";
  else
    out << workload.prompts.size() << " prompts in turn";
  if (workload.shared_prefix_tokens > 0) out << ", the first " << workload.shared_prefix_tokens << " shared";
  out << "; answers of " << words(workload.output_tokens) << " tokens; seed " << workload.seed << "\n\n";
}

void print_counts(std::ostream& out, const Counts& counts) {
  Table table({"status", "requests"});
  for (const auto& [code, number] : counts.by_code)
    table.add_row({client::to_string(code), with_thousands(number)});
  if (counts.cut_off > 0) table.add_row({"cut off by the bench", with_thousands(counts.cut_off)});
  table.add_row({"in all", with_thousands(counts.measured)});
  table.print(out);
  if (counts.retries > 0) out << with_thousands(counts.retries) << " retries\n";
  out << '\n';
}

void print_rates(std::ostream& out, const BenchSetting& setting, const Summary& summary) {
  const Throughput& rates = summary.throughput;
  out << "throughput  " << figure(rates.requests_per_s) << " requests/s, "
      << figure(rates.prompt_tokens_per_s) << " prompt tokens/s, " << figure(rates.generated_tokens_per_s)
      << " generated tokens/s\n";
  if (!summary.goodput) return;
  out << "goodput     " << figure(summary.goodput->requests_per_s) << " requests/s, "
      << fixed(summary.goodput->share * 100, 1) << " % of the requests kept";
  if (setting.slo.ttft_ms) out << " TTFT <= " << figure(*setting.slo.ttft_ms) << " ms";
  if (setting.slo.ttft_ms && setting.slo.itl_ms) out << " and";
  if (setting.slo.itl_ms) out << " mean ITL <= " << figure(*setting.slo.itl_ms) << " ms";
  out << '\n';
}

void print_latencies(std::ostream& out, const Latencies& latencies) {
  Table table({"ms", "mean", "p50", "p90", "p95", "p99", "max", "samples"});
  const auto add = [&table](const char* name, const Distribution& d) {
    if (d.count == 0) return;
    table.add_row({name, figure(d.mean), figure(d.p50), figure(d.p90), figure(d.p95), figure(d.p99),
                   figure(d.max), with_thousands(d.count)});
  };
  add("TTFT", latencies.ttft);
  add("ITL, between chunks", latencies.itl);
  add("TPOT, mean of a request", latencies.tpot);
  add("end to end", latencies.e2e);
  add("queue, as the server tells", latencies.server_queue);
  add("start lag of the bench", latencies.start_lag);
  out << '\n';
  table.print(out);
}

void print_tenants(std::ostream& out, const std::vector<TenantSummary>& tenants) {
  if (tenants.empty()) return;
  Table table(
      {"tenant", "requests", "ok", "generated tokens/s", "TTFT p50 ms", "TTFT p99 ms", "TPOT p50 ms"});
  for (const auto& tenant : tenants)
    table.add_row({tenant.name, with_thousands(tenant.counts.measured), with_thousands(tenant.counts.ok),
                   figure(tenant.throughput.generated_tokens_per_s), figure(tenant.latencies.ttft.p50),
                   figure(tenant.latencies.ttft.p99), figure(tenant.latencies.tpot.p50)});
  out << '\n';
  table.print(out);
}

}  // namespace

std::string describe(const LoadPlan& plan) {
  if (plan.rate_per_s) return "open loop, " + figure(*plan.rate_per_s) + " requests/s";
  return "closed loop, " + std::to_string(plan.concurrency) + " in flight";
}

void print_report(std::ostream& out, const BenchSetting& setting, const Summary& summary) {
  print_heading(out, setting, summary);
  print_counts(out, summary.counts);
  print_rates(out, setting, summary);
  print_latencies(out, summary.latencies);
  print_tenants(out, summary.tenants);
  out << "\nthe bench itself took " << fixed(setting.client_cpu_s, 2) << " s of processor time in "
      << fixed(setting.wall_s, 1) << " s\n";
}

}  // namespace kvcrush::bench
