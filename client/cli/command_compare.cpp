#include <unistd.h>

#include <iostream>

#include "client/cli/commands.h"
#include "client/cli/comparison.h"
#include "client/cli/progress.h"
#include "client/cli/prompt_source.h"
#include "client/cli/request_options.h"
#include "client/cli/run_report.h"

namespace kvcrush::cli {
namespace {

struct CompareOptions {
  v1::GenerateRequest request;
  PromptSource prompt;
};

// Both runs must differ in nothing but the cache: greedy unless sampling was asked for, and then with one
// seed.
void settle_defaults(v1::GenerateRequest& request) {
  auto& sampling = *request.mutable_sampling();
  if (!sampling.has_temperature()) sampling.set_temperature(0);
  if (!sampling.has_seed()) sampling.set_seed(0);
  if (!sampling.has_max_tokens()) sampling.set_max_tokens(96);
  auto& compression = *request.mutable_compression();
  if (compression.policy() == v1::BASE_POLICY_UNSPECIFIED) compression.set_policy(v1::BASE_POLICY_SNAPKV);
  if (compression.budget_case() == v1::KvCompression::BUDGET_NOT_SET) compression.set_budget_fraction(0.25);
}

std::string budget_in_words(const v1::KvCompression& compression) {
  if (compression.budget_case() == v1::KvCompression::kBudgetTokens)
    return with_thousands(compression.budget_tokens()) + " tokens a layer";
  return fixed(compression.budget_fraction() * 100, 1) + " % of the prompt";
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

client::Result<RunRecord> run_once(client::Client& client, client::Client& observer,
                                   const v1::GenerateRequest& request, const std::stop_token& stop) {
  RunRecord record;
  Progress progress([&] { return waiting_words(observer, request.request_id()); });
  const auto status = client.generate(
      request,
      [&](const v1::GenerateResponse& chunk) {
        progress.stop();
        record.text += chunk.text();
        std::cout << chunk.text() << std::flush;
        if (chunk.has_finish()) record.finish = chunk.finish();
        return true;
      },
      stop);
  progress.stop();
  std::cout << "\n" << std::endl;
  if (!status.ok()) return status;
  return record;
}

void print_heading(const std::string& words) {
  const bool colour = isatty(STDOUT_FILENO) != 0;
  std::cout << (colour ? "\033[1m" : "") << "== " << words << " ==" << (colour ? "\033[0m" : "") << std::endl;
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

  const std::string id = "compare-" + std::to_string(getpid());
  v1::GenerateRequest full_request = options.request;
  full_request.set_request_id(id + "-full");
  full_request.mutable_compression()->Clear();
  full_request.mutable_compression()->set_policy(v1::BASE_POLICY_OFF);
  print_heading("full cache");
  const auto full = run_once(*client, *observer, full_request, stop);
  if (!full.ok()) return fail(full.status(), stop);

  options.request.set_request_id(id + "-kvcrush");
  print_heading("KVCrush, budget " + budget_in_words(options.request.compression()));
  const auto pruned = run_once(*client, *observer, options.request, stop);
  if (!pruned.ok()) return fail(pruned.status(), stop);

  comparison_table(*model, *full, *pruned).print(std::cout);
  std::cout << "\ntexts: " << describe(first_difference(full->text, pruned->text)) << '\n';
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
  add_compression_options(*command, options->request);
  command->callback([=, &server, &interrupt, &chosen] {
    chosen = [=, &server, &interrupt] { return run_compare(*options, server, interrupt); };
  });
}

}  // namespace kvcrush::cli
