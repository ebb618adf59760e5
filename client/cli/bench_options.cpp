#include "client/cli/bench_options.h"

#include "client/cli/compression_options.h"
#include "client/cli/prompt_source.h"
#include "client/cli/request_options.h"

namespace kvcrush::cli {
namespace {

constexpr double kMaxSeconds = 86400;
constexpr const char* kLoad = "Load";
constexpr const char* kRequests = "Requests";

client::Status invalid(const std::string& message) {
  return {client::Code::kInvalidArgument, message};
}

void add_load(CLI::App& app, BenchOptions& options) {
  bench::LoadPlan& plan = options.plan;
  auto* rate =
      app.add_option("--rate", plan.rate_per_s,
                     "Open loop: requests a second, arriving at random (Poisson), whatever the server does")
          ->check(CLI::Range(1e-3, 1e6))
          ->group(kLoad);
  app.add_option("--concurrency", options.concurrency,
                 "Closed loop: requests in flight at any time, a new one for each that ends")
      ->check(CLI::Range(1, 1'000'000))
      ->excludes(rate)
      ->group(kLoad);
  auto* duration =
      app.add_option("--duration", plan.duration_s, "Seconds of load to measure, after the warm-up")
          ->check(CLI::Range(0.1, kMaxSeconds))
          ->capture_default_str()
          ->group(kLoad);
  app.add_option("--requests", plan.num_requests, "Requests to measure, instead of a duration")
      ->check(CLI::Range(1, 100'000'000))
      ->excludes(duration)
      ->group(kLoad);
  app.add_option("--warmup", plan.warmup_s, "Seconds of the same load before anything counts")
      ->check(CLI::Range(0.0, kMaxSeconds))
      ->capture_default_str()
      ->group(kLoad);
  app.add_option("--grace", plan.grace_s,
                 "Seconds that the last requests may still take before they are cut off")
      ->check(CLI::Range(0.0, kMaxSeconds))
      ->capture_default_str()
      ->group(kLoad);
  app.add_option("--connections", options.num_connections, "TCP connections that requests are spread over")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str()
      ->group(kLoad);
}

void add_range(CLI::App& app, const char* name, bench::TokenRange& range, const char* help) {
  app.add_option_function<std::string>(
         name,
         [name, &range](const std::string& text) {
           const auto parsed = bench::parse_token_range(text);
           if (!parsed.ok()) throw CLI::ValidationError(name, parsed.status().message);
           range = *parsed;
         },
         help)
      ->type_name("N|MIN:MAX")
      ->group(kRequests);
}

void add_requests(CLI::App& app, BenchOptions& options) {
  bench::WorkloadOptions& workload = options.workload;
  add_range(app, "--prompt-tokens", workload.prompt_tokens,
            "Random tokens of a prompt; a range is drawn from uniformly (default 256)");
  add_range(app, "--output-tokens", workload.output_tokens,
            "Tokens of an answer; the model's end tokens do not end it (default 128)");
  auto* shared = app.add_option("--shared-prefix-tokens", workload.shared_prefix_tokens,
                                "First tokens of the random prompts that are the same in all requests")
                     ->check(CLI::Range(0, 10'000'000))
                     ->capture_default_str()
                     ->group(kRequests);
  app.add_option(
         "--prompt-file", options.prompt_file,
         "Prompts to send in turn instead of random tokens: one a line; a line that starts with a quote "
         "is a JSON string; '-' reads standard input")
      ->type_name("FILE")
      ->excludes("--prompt-tokens")
      ->excludes(shared)
      ->group(kRequests);
  app.add_option_function<std::string>(
         "--tenants",
         [&workload](const std::string& text) {
           auto shares = bench::parse_shares(text);
           if (!shares.ok()) throw CLI::ValidationError("--tenants", shares.status().message);
           workload.tenants = std::move(*shares);
         },
         "Spread requests over tenants by weight, e.g. gold:3,free:1; the report has a row for each")
      ->type_name("NAME:WEIGHT,...")
      ->group(kRequests);
  app.add_option("--seed", workload.seed, "Same seed, same prompts, lengths, tenants and arrivals")
      ->capture_default_str()
      ->group(kRequests);
}

}  // namespace

void add_bench_options(CLI::App& app, BenchOptions& options) {
  constexpr const char* kReport = "Report";
  add_load(app, options);
  add_requests(app, options);
  const auto slo = [&app](const char* name, std::optional<double>& limit, const char* help) {
    app.add_option(name, limit, help)->check(CLI::Range(1e-3, 1e9))->group(kReport);
  };
  slo("--slo-ttft-ms", options.slo.ttft_ms, "Goodput: time to first token that a good request keeps");
  slo("--slo-itl-ms", options.slo.itl_ms, "Goodput: mean time between its tokens that a good request keeps");
  app.add_option("--json", options.json_file, "Write everything to this file; tools/plot_bench.py draws it")
      ->type_name("FILE")
      ->group(kReport);
  add_compression_options(app, options.workload.base);
  add_speculation_options(app, options.workload.base);
}

client::Status settle(BenchOptions& options, const ServerOptions& server) {
  if (!options.plan.rate_per_s && !options.concurrency)
    return invalid("give the load: --rate R (open loop) or --concurrency N (closed loop)");
  if (!options.workload.tenants.empty() && !server.tenant.empty())
    return invalid("give --tenant or --tenants, not both");
  options.plan.concurrency = options.concurrency.value_or(0);
  options.plan.seed = options.workload.seed;
  options.plan.timeout_s = server.timeout_s;
  options.plan.retry.max_retries = server.retries;
  options.workload.base.mutable_sampling()->set_temperature(0);
  if (!options.prompt_file) return {};
  const auto text = read_file(*options.prompt_file);
  if (!text.ok()) return text.status();
  auto prompts = bench::parse_prompt_lines(*options.prompt_file, *text);
  if (!prompts.ok()) return prompts.status();
  options.workload.prompts = std::move(*prompts);
  return {};
}

}  // namespace kvcrush::cli
