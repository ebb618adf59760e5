#include <chrono>
#include <iostream>

#include "client/cli/commands.h"
#include "client/cli/prompt_source.h"
#include "client/cli/run_report.h"
#include "client/cli/table.h"

namespace kvcrush::cli {
namespace {

std::string chat_of(const v1::GetModelInfoResponse& info) {
  if (info.chat_template().empty()) return "none";
  return std::string("yes") + (info.chat_takes_system() ? ", system messages" : "") +
         (info.chat_takes_tools() ? ", tools" : "");
}

void print_info(const v1::GetModelInfoResponse& info) {
  Table table({"", info.model_name()});
  table.add_row({"architecture", info.architecture()});
  table.add_row({"parameters", with_thousands(info.num_parameters())});
  table.add_row({"layers", std::to_string(info.num_layers())});
  table.add_row({"query heads / KV heads / head size", std::to_string(info.num_heads()) + " / " +
                                                           std::to_string(info.num_kv_heads()) + " / " +
                                                           std::to_string(info.head_dim())});
  table.add_row({"context, tokens", with_thousands(info.max_context_tokens())});
  table.add_row({"vocabulary", with_thousands(info.vocab_size())});
  table.add_row({"weights / KV cache", info.weight_dtype() + " / " + info.kv_dtype()});
  table.add_row({"KV blocks", with_thousands(info.num_blocks()) + " of " +
                                  std::to_string(info.block_size_tokens()) + " tokens, " +
                                  mib(info.num_blocks() * info.block_bytes()) + " MiB"});
  table.add_row({"chat template", chat_of(info)});
  table.add_row({"device", info.device()});
  table.add_row({"server", info.server_version()});
  table.print(std::cout);
  std::cout << "default compression: " << to_json_line(info.default_compression()) << '\n';
}

void print_stats(const v1::GetStatsResponse& stats) {
  std::cout << "requests   " << stats.requests_running() << " running, " << stats.requests_waiting()
            << " waiting\n"
            << "KV blocks  " << with_thousands(stats.blocks_used()) << " of "
            << with_thousands(stats.blocks_total()) << " used (" << mib(stats.kv_bytes_used()) << " MiB), "
            << mib(stats.kv_bytes_saved()) << " MiB saved by pruning now\n"
            << "totals     " << with_thousands(stats.prompt_tokens()) << " prompt and "
            << with_thousands(stats.generation_tokens()) << " generated tokens, "
            << with_thousands(stats.tokens_evicted()) << " tokens evicted, "
            << with_thousands(stats.blocks_freed_by_pruning()) << " blocks freed, " << stats.preemptions()
            << " preemptions, up " << fixed(stats.uptime_s(), 0) << " s\n";
  if (stats.requests().empty()) return;
  Table table({"request", "sample", "state", "prompt", "generated", "blocks", "age s"});
  for (const auto& r : stats.requests())
    table.add_row({r.request_id(), std::to_string(r.index()), r.state(), with_thousands(r.prompt_tokens()),
                   with_thousands(r.completion_tokens()), with_thousands(r.blocks()),
                   fixed(r.age_ms() / 1000, 1)});
  table.print(std::cout);
}

int run_info(const ServerOptions& server, bool json) {
  auto client = connect(server);
  if (!client.ok()) return fail(client.status());
  const auto info = client->model_info();
  if (!info.ok()) return fail(info.status());
  if (json)
    std::cout << to_json_line(*info) << '\n';
  else
    print_info(*info);
  return kExitOk;
}

int run_stats(const ServerOptions& server, Interrupt& interrupt, double watch_s, bool json) {
  const auto stop = interrupt.arm();
  auto client = connect(server, stop);
  if (!client.ok()) return fail(client.status(), stop);
  do {
    const auto stats = client->stats();
    if (!stats.ok()) return fail(stats.status(), stop);
    if (json)
      std::cout << to_json_line(*stats) << std::endl;
    else
      print_stats(*stats);
    if (watch_s == 0) return kExitOk;
    std::cout << std::endl;
  } while (wait_for(std::chrono::duration<double>(watch_s), stop));
  return kExitInterrupted;
}

int run_tokenize(const ServerOptions& server, const PromptSource& source) {
  v1::TokenizeRequest request;
  if (const auto filled = fill_prompt(source, request); !filled.ok()) return fail_usage(filled.message);
  auto client = connect(server);
  if (!client.ok()) return fail(client.status());
  const auto response = client->tokenize(request);
  if (!response.ok()) return fail(response.status());
  for (int i = 0; i < response->token_ids_size(); ++i)
    std::cout << response->token_ids(i) << '\t' << printable(response->tokens(i)) << '\n';
  std::cerr << response->token_ids_size() << " tokens\n";
  return kExitOk;
}

int run_abort(const ServerOptions& server, const std::string& request_id) {
  auto client = connect(server);
  if (!client.ok()) return fail(client.status());
  const auto status = client->abort(request_id);
  return status.ok() ? kExitOk : fail(status);
}

}  // namespace

void add_info_commands(CLI::App& app, const ServerOptions& server, Interrupt& interrupt, Command& chosen) {
  struct InfoOptions {
    PromptSource prompt;
    std::string request_id;
    double watch_s = 0;
    bool json = false;
  };
  const auto options = std::make_shared<InfoOptions>();
  const auto pick = [&chosen](CLI::App* command, Command run) {
    command->callback([run = std::move(run), &chosen] { chosen = run; });
  };
  auto* info = app.add_subcommand("info", "Tell about the model, the KV pool and the default compression");
  info->add_flag("--json", options->json, "Print one JSON object");
  pick(info, [=, &server] { return run_info(server, options->json); });

  auto* stats = app.add_subcommand("stats", "Tell what the server does now");
  stats->add_option("--watch", options->watch_s, "Repeat every so many seconds until Ctrl-C")
      ->check(CLI::Range(0.1, 86400.0));
  stats->add_flag("--json", options->json, "Print JSON, one object per line");
  pick(stats,
       [=, &server, &interrupt] { return run_stats(server, interrupt, options->watch_s, options->json); });

  auto* tokenize = app.add_subcommand("tokenize", "Print the tokens of a text: id and bytes, one per line");
  add_prompt_options(*tokenize, options->prompt);
  pick(tokenize, [=, &server] { return run_tokenize(server, options->prompt); });

  auto* abort = app.add_subcommand("abort", "End a running or waiting request");
  abort->add_option("id", options->request_id, "Its request id")->required();
  pick(abort, [=, &server] { return run_abort(server, options->request_id); });
}

}  // namespace kvcrush::cli
