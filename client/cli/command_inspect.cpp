#include <iostream>
#include <memory>

#include "client/cli/commands.h"
#include "client/cli/compression_options.h"
#include "client/inspect/inspection.h"
#include "client/inspect/inspection_output.h"

namespace kvcrush::cli {
namespace {

struct InspectOptions {
  inspect::Question question;
  bool json = false;
};

constexpr const char* kDtypes[] = {"f32", "bf16", "f16", "int8", "int4"};

int run_inspect(const InspectOptions& options) {
  if (const std::string refusal = inspect::refusal(options.question); !refusal.empty())
    return fail_usage(refusal);
  const inspect::Inspection inspection = inspect::inspect_model(options.question);
  if (options.json)
    std::cout << inspect::to_json(inspection, options.question)
                     .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)
              << '\n';
  else
    inspect::print_inspection(inspection, options.question, std::cout);
  return inspection.problems.empty() ? kExitOk : kExitRpcError;
}

void set_budget(const std::string& text, inspect::Question& question) {
  v1::KvCompression parsed;
  if (!parse_budget(text, parsed))
    throw CLI::ValidationError("--budget",
                               "'" + text + "' is neither a fraction (0.25, 25%) nor tokens (1024)");
  question.budget_fraction.reset();
  if (parsed.has_budget_tokens())
    question.budget_tokens = parsed.budget_tokens();
  else
    question.budget_fraction = parsed.budget_fraction();
}

}  // namespace

void add_inspect_command(CLI::App& app, Command& chosen) {
  auto* command = app.add_subcommand(
      "inspect", "Tell what a model on this machine is, what it takes, and whether the server can run it");
  command->footer(
      "Reads headers alone, and asks no server. Exit codes: 0 the server can run the model; 1 it cannot, and "
      "why is told;\n2 wrong usage.");
  const auto options = std::make_shared<InspectOptions>();
  inspect::Question& question = options->question;
  question.kv_memory_bytes = std::uint64_t{4} << 30;
  question.lengths = {1024, 4096, 32768};
  question.kv_dtypes.assign(std::begin(kDtypes), std::end(kDtypes));
  question.budget_fraction = 0.25;
  command
      ->add_option(
          "model", question.model,
          "A .gguf file (of a split model the first), a folder that holds one, or a Hugging Face folder or "
          "cache: what the server's --model takes")
      ->required();
  command->add_flag("--json", options->json, "Print one JSON object");
  command
      ->add_option(
          "--kv-memory", question.kv_memory_bytes,
          "Bytes of the KV pool, as the server's --kv-memory; with suffix KiB, MiB, GiB (1024) or KB, "
          "MB, GB (1000)")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true))
      ->default_str("4GiB");
  command->add_option("--tokens", question.lengths, "Lengths of sequences, prompt and output together")
      ->delimiter(',')
      ->capture_default_str();
  command
      ->add_option_function<std::string>(
          "--budget", [&question](const std::string& text) { set_budget(text, question); },
          "What pruning keeps: 0.25 or 25% of the prompt, or 1024 tokens per layer")
      ->type_name("FRACTION|TOKENS")
      ->default_str("0.25");
  command->add_option("--kv-dtype", question.kv_dtypes, "How K and V are stored")
      ->delimiter(',')
      ->check(CLI::IsMember(question.kv_dtypes).description(""))
      ->default_str("all of f32,bf16,f16,int8,int4");
  command->callback([options, &chosen] { chosen = [options] { return run_inspect(*options); }; });
}

}  // namespace kvcrush::cli
