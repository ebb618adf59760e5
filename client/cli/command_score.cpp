#include <iostream>

#include "client/cli/commands.h"
#include "client/cli/compression_options.h"
#include "client/cli/prompt_source.h"
#include "client/cli/run_report.h"
#include "client/cli/score_report.h"

namespace kvcrush::cli {
namespace {

struct ScoreOptions {
  v1::ScoreRequest request;
  PromptSource prompt;
  std::optional<std::string> continuation;
  std::optional<std::string> continuation_file;
  Variants variants;
  bool json = false;
};

client::Status fill_continuation(const ScoreOptions& options, v1::ScoreRequest& request) {
  if (options.continuation.has_value() == options.continuation_file.has_value())
    return {client::Code::kInvalidArgument,
            "give the continuation with --continuation or --continuation-file, one of the two"};
  if (options.continuation) {
    request.set_continuation_text(*options.continuation);
    return {};
  }
  const auto text = read_file(*options.continuation_file);
  if (!text.ok()) return text.status();
  request.set_continuation_text(*text);
  return {};
}

void print_notes(const v1::ScoreResponse& response) {
  for (const auto& variant : response.variants())
    if (!variant.compression().note().empty())
      std::cout << "note on variant " << variant.index() << ": " << printable(variant.compression().note())
                << '\n';
}

int run_score(ScoreOptions& options, const ServerOptions& server, Interrupt& interrupt) {
  const auto filled = fill_prompt(options.prompt, options.request);
  if (!filled.ok()) return fail_usage(filled.message);
  const auto continued = fill_continuation(options, options.request);
  if (!continued.ok()) return fail_usage(continued.message);
  for (const auto& variant : options.variants.parsed) *options.request.add_variants() = variant;
  const auto stop = interrupt.arm();
  auto client = connect(server, stop);
  if (!client.ok()) return fail(client.status(), stop);
  const auto response = client->score(options.request, stop);
  if (!response.ok()) return fail(response.status(), stop);
  if (options.json) {
    std::cout << to_json_line(*response) << '\n';
    return kExitOk;
  }
  score_table(*response, options.variants.labels).print(std::cout);
  std::cout
      << "\n"
      << response->continuation_token_ids_size()
      << " tokens scored; logprob, perplexity over all of them; KL (nats, to the full cache) and agreement "
         "(of the likeliest token) without the first,\nwhich comes before any pruning; bytes: a full "
         "16-bit cache over what was held\n";
  print_notes(*response);
  return kExitOk;
}

}  // namespace

void add_score_command(CLI::App& app, const ServerOptions& server, Interrupt& interrupt, Command& chosen) {
  auto* command = app.add_subcommand(
      "score", "Tell what compressions of a prompt's KV cache cost on a continuation that is known");
  const auto options = std::make_shared<ScoreOptions>();
  add_prompt_options(*command, options->prompt);
  command->add_option("--continuation", options->continuation, "The text whose tokens are scored");
  command->add_option("--continuation-file", options->continuation_file,
                      "Read it from a file; '-' reads standard input");
  command->add_option_function<std::string>(
      "--request-id", [o = options.get()](const std::string& id) { o->request.set_request_id(id); },
      "Name of the request in logs, stats and abort (default: the server's choice)");
  command->add_flag_function(
      "--compare,!--no-compare",
      [o = options.get()](std::int64_t count) { o->request.set_compare_to_full(count > 0); },
      "Compare with the full cache (default: for continuations of at most 128 tokens)");
  command->add_flag("--json", options->json, "Print the response as one JSON object");
  add_variant_option(*command, options->variants,
                     "A compression to score, e.g. policy=snapkv,budget=0.25,kv_dtype=int4: the names and "
                     "values are those of generate's KV compression options; may be repeated (default: the "
                     "server's default compression)");
  command->callback([=, &server, &interrupt, &chosen] {
    chosen = [=, &server, &interrupt] { return run_score(*options, server, interrupt); };
  });
}

}  // namespace kvcrush::cli
