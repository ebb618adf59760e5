// to_json of bench_report.h. docs/operations/bench.md explains the fields.
#include <nlohmann/json.hpp>

#include "client/bench/bench_report.h"
#include "client/cli/run_report.h"

namespace kvcrush::bench {
namespace {

using nlohmann::json;

template <typename T>
json or_null(const std::optional<T>& value) {
  return value ? json(*value) : json(nullptr);
}

json to_json(const TokenRange& range) {
  return json::array({range.min, range.max});
}

json to_json(const LoadPlan& plan) {
  return {{"rate_per_s", or_null(plan.rate_per_s)},
          {"concurrency", plan.rate_per_s ? json(nullptr) : json(plan.concurrency)},
          {"warmup_s", plan.warmup_s},
          {"duration_s", plan.num_requests ? json(nullptr) : json(plan.duration_s)},
          {"num_requests", or_null(plan.num_requests)},
          {"grace_s", plan.grace_s},
          {"timeout_s", or_null(plan.timeout_s)},
          {"max_retries", plan.retry.max_retries}};
}

json to_json(const WorkloadOptions& workload) {
  json tenants = json::object();
  for (const Share& share : workload.tenants) tenants[share.name] = share.weight;
  const bool random = workload.prompts.empty();
  return {{"prompt_tokens", random ? to_json(workload.prompt_tokens) : json(nullptr)},
          {"num_prompts", random ? json(nullptr) : json(workload.prompts.size())},
          {"shared_prefix_tokens", workload.shared_prefix_tokens},
          {"output_tokens", to_json(workload.output_tokens)},
          {"tenants", tenants},
          {"seed", workload.seed},
          {"lookup_tokens", workload.base.speculation().lookup_tokens()},
          {"compression", json::parse(cli::to_json_line(workload.base.compression()))}};
}

json to_json(const Counts& counts) {
  json by_code = json::object();
  for (const auto& [code, number] : counts.by_code) by_code[client::to_string(code)] = number;
  return {{"measured", counts.measured},
          {"ok", counts.ok},
          {"failed", counts.failed},
          {"cut_off", counts.cut_off},
          {"retries", counts.retries},
          {"by_code", by_code},
          {"prompt_tokens", counts.prompt_tokens},
          {"generated_tokens", counts.generated_tokens},
          {"warmup", counts.warmup},
          {"warmup_generated_tokens", counts.warmup_generated_tokens}};
}

json to_json(const Throughput& throughput) {
  return {{"requests_per_s", throughput.requests_per_s},
          {"prompt_tokens_per_s", throughput.prompt_tokens_per_s},
          {"generated_tokens_per_s", throughput.generated_tokens_per_s}};
}

json to_json(const Distribution& d) {
  return {{"count", d.count}, {"mean", d.mean}, {"p50", d.p50}, {"p90", d.p90},
          {"p95", d.p95},     {"p99", d.p99},   {"max", d.max}, {"quantiles", d.quantiles}};
}

json to_json(const Latencies& latencies) {
  return {{"ttft_ms", to_json(latencies.ttft)},
          {"itl_ms", to_json(latencies.itl)},
          {"tpot_ms", to_json(latencies.tpot)},
          {"e2e_ms", to_json(latencies.e2e)},
          {"server_queue_ms", to_json(latencies.server_queue)},
          {"start_lag_ms", to_json(latencies.start_lag)}};
}

// Columns: a long run has thousands of seconds, and a plot wants them so.
json to_json(const std::vector<Second>& seconds) {
  json columns = {{"due", json::array()},
                  {"ok", json::array()},
                  {"failed", json::array()},
                  {"generated_tokens", json::array()},
                  {"in_flight", json::array()}};
  for (const Second& second : seconds) {
    columns["due"].push_back(second.due);
    columns["ok"].push_back(second.ok);
    columns["failed"].push_back(second.failed);
    columns["generated_tokens"].push_back(second.generated_tokens);
    columns["in_flight"].push_back(second.in_flight);
  }
  return columns;
}

}  // namespace

json to_json(const BenchSetting& setting, const Summary& summary) {
  json result = {{"format", "kvcrush-bench-1"},
                 {"started_at", setting.started_at},
                 {"server",
                  {{"target", setting.server},
                   {"version", setting.model.server_version()},
                   {"model", setting.model.model_name()},
                   {"device", setting.model.device()},
                   {"weight_dtype", setting.model.weight_dtype()},
                   {"kv_dtype", setting.model.kv_dtype()},
                   {"num_blocks", setting.model.num_blocks()},
                   {"block_bytes", setting.model.block_bytes()}}},
                 {"load", to_json(setting.plan)},
                 {"workload", to_json(setting.workload)},
                 {"num_connections", setting.num_connections},
                 {"interrupted", summary.interrupted},
                 {"measured_s", summary.measured_s},
                 {"counts", to_json(summary.counts)},
                 {"throughput", to_json(summary.throughput)},
                 {"latency", to_json(summary.latencies)},
                 {"seconds", to_json(summary.seconds)},
                 {"client", {{"cpu_s", setting.client_cpu_s}, {"wall_s", setting.wall_s}}}};
  result["slo"] = {{"ttft_ms", or_null(setting.slo.ttft_ms)}, {"itl_ms", or_null(setting.slo.itl_ms)}};
  result["goodput"] = nullptr;
  if (summary.goodput)
    result["goodput"] = {{"met", summary.goodput->met},
                         {"share", summary.goodput->share},
                         {"requests_per_s", summary.goodput->requests_per_s}};
  result["tenants"] = json::object();
  for (const TenantSummary& tenant : summary.tenants)
    result["tenants"][tenant.name] = {{"counts", to_json(tenant.counts)},
                                      {"throughput", to_json(tenant.throughput)},
                                      {"latency", to_json(tenant.latencies)}};
  return result;
}

}  // namespace kvcrush::bench
