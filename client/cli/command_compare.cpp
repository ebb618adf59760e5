#include <unistd.h>

#include <iostream>
#include <utility>
#include <vector>

#include "client/cli/commands.h"
#include "client/cli/comparison.h"
#include "client/cli/compression_options.h"
#include "client/cli/progress.h"
#include "client/cli/prompt_source.h"
#include "client/cli/request_options.h"
#include "client/cli/run_report.h"

namespace kvcrush::cli {
namespace {

struct CompareOptions {
  v1::GenerateRequest request;
  PromptSource prompt;
  bool separate = false;
};

// A run by its heading and how its cache is kept.
struct Side {
  std::string heading;
  v1::KvCompression compression;
};

// Both runs must differ in nothing but the cache: greedy unless sampling was asked for, and then with one
// seed.
void settle_defaults(v1::GenerateRequest& request) {
  auto& sampling = *request.mutable_sampling();
  if (!sampling.has_temperature()) sampling.set_temperature(0);
  if (!sampling.has_seed()) sampling.set_seed(0);
  if (!sampling.has_max_tokens()) sampling.set_max_tokens(96);
  auto& compression = *request.mutable_compression();
  if (compression.has_target_compression() || compression.policy() == v1::BASE_POLICY_OFF) return;
  if (compression.policy() == v1::BASE_POLICY_UNSPECIFIED) compression.set_policy(v1::BASE_POLICY_SNAPKV);
  if (compression.budget_case() == v1::KvCompression::BUDGET_NOT_SET) compression.set_budget_fraction(0.25);
}

std::string heading_of(const v1::KvCompression& compression) {
  if (compression.has_target_compression())
    return "KVCrush, target " + std::to_string(compression.target_compression()) + "x";
  const std::string dtype =
      compression.kv_dtype() == v1::KV_DTYPE_UNSPECIFIED ? "" : ", " + describe(compression.kv_dtype());
  if (compression.policy() == v1::BASE_POLICY_OFF) return "all tokens" + dtype;
  if (compression.budget_case() == v1::KvCompression::kBudgetTokens)
    return "KVCrush, budget " + with_thousands(compression.budget_tokens()) + " tokens a layer" + dtype;
  return "KVCrush, budget " + fixed(compression.budget_fraction() * 100, 1) + " % of the prompt" + dtype;
}

// What the server says about a request that has not answered yet.
std::string waiting_words(client::Client& client, const std::string& request_id) {
  const auto stats = client.stats();
  if (!stats.ok()) return "waiting for the server";
  for (const auto& r : stats->requests())
    if (r.request_id() == request_id)
      return r.state() + ": " + with_thousands(r.prompt_tokens()) + " prompt tokens, " +
             with_thousands(r.blocks()) + " KV blocks";
  return "sending the prompt";
}

void print_heading(const std::string& words) {
  const bool colour = isatty(STDOUT_FILENO) != 0;
  std::cout << (colour ? "\033[1m" : "") << "== " << words << " ==" << (colour ? "\033[0m" : "") << std::endl;
}

// All sides in one request, from one prefill. The first is shown as it comes, the others whole after it.
client::Result<std::vector<RunRecord>> run_together(client::Client& client, client::Client& observer,
                                                    const v1::GenerateRequest& base,
                                                    const std::vector<Side>& sides,
                                                    const std::stop_token& stop) {
  v1::GenerateRequest request = base;
  request.clear_compression();
  for (const Side& side : sides) *request.add_variants() = side.compression;
  std::vector<RunRecord> records(sides.size());
  print_heading(sides.front().heading);
  Progress progress([&] { return waiting_words(observer, request.request_id()); });
  const auto status = client.generate(
      request,
      [&](const v1::GenerateResponse& chunk) {
        progress.stop();
        RunRecord& record = records.at(static_cast<std::size_t>(chunk.index()));
        record.text += chunk.text();
        if (chunk.index() == 0) std::cout << chunk.text() << std::flush;
        if (chunk.has_finish()) record.finish = chunk.finish();
        return true;
      },
      stop);
  progress.stop();
  std::cout << "\n" << std::endl;
  if (!status.ok()) return status;
  for (std::size_t i = 1; i < sides.size(); ++i) {
    print_heading(sides[i].heading);
    std::cout << records[i].text << "\n" << std::endl;
  }
  return records;
}

// One request after the other, each from nothing: the first must not leave its prompt to the second.
client::Result<std::vector<RunRecord>> run_separately(client::Client& client, client::Client& observer,
                                                      v1::GenerateRequest request,
                                                      const std::vector<Side>& sides,
                                                      const std::stop_token& stop) {
  request.mutable_prefix_cache()->set_bypass(true);
  std::vector<RunRecord> records;
  for (const Side& side : sides) {
    auto record = run_together(client, observer, request, {side}, stop);
    if (!record.ok()) return record.status();
    records.push_back(std::move(record->front()));
  }
  return records;
}

int run_compare(CompareOptions& options, const ServerOptions& server, Interrupt& interrupt) {
  const auto filled = fill_prompt(options.prompt, options.request);
  if (!filled.ok()) return fail_usage(filled.message);
  settle_defaults(options.request);
  const auto stop = interrupt.arm();
  auto client = connect(server, stop);
  if (!client.ok()) return fail(client.status(), stop);
  // The progress line asks over calls that end soon, so that a server that hangs cannot hold up Ctrl-C.
  ServerOptions quick = server;
  quick.timeout_s = 1;
  auto observer = connect(quick, stop);
  if (!observer.ok()) return fail(observer.status(), stop);
  const auto model = client->model_info();
  if (!model.ok()) return fail(model.status(), stop);

  Side full{"full cache", {}};
  full.compression.set_policy(v1::BASE_POLICY_OFF);
  const std::vector<Side> sides = {
      full, {heading_of(options.request.compression()), options.request.compression()}};
  options.request.set_request_id("compare-" + std::to_string(getpid()));
  // Samples of one request have seeds of their own.
  const bool separate = options.separate || options.request.sampling().temperature() > 0;
  const auto records = separate ? run_separately(*client, *observer, options.request, sides, stop)
                                : run_together(*client, *observer, options.request, sides, stop);
  if (!records.ok()) return fail(records.status(), stop);
  const RunRecord& first = records->at(0);
  const RunRecord& second = records->at(1);
  comparison_table(*model, first, second).print(std::cout);
  if (!separate) std::cout << "(times of one shared batch; --separate runs one after the other)\n";
  std::cout << "\ntexts: " << describe(first_difference(first.text, second.text)) << '\n';
  return kExitOk;
}

}  // namespace

void add_compare_command(CLI::App& app, const ServerOptions& server, Interrupt& interrupt, Command& chosen) {
  auto* command = app.add_subcommand(
      "compare",
      "Run one prompt with the full KV cache and with KVCrush (default: --budget 0.25, greedy, 96 tokens)");
  const auto options = std::make_shared<CompareOptions>();
  add_prompt_options(*command, options->prompt);
  add_sampling_options(*command, options->request);
  for (const char* name : {"--n", "--logprobs"}) command->remove_option(command->get_option(name));
  command->add_flag(
      "--separate", options->separate,
      "Run one after the other instead of both from one prefill, so that times are each one's own; "
      "so it is whenever the temperature is not 0");
  add_compression_options(*command, options->request);
  command->callback([=, &server, &interrupt, &chosen] {
    chosen = [=, &server, &interrupt] { return run_compare(*options, server, interrupt); };
  });
}

}  // namespace kvcrush::cli
