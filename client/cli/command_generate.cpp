#include <iostream>
#include <map>

#include "client/cli/commands.h"
#include "client/cli/compression_options.h"
#include "client/cli/prompt_source.h"
#include "client/cli/request_options.h"
#include "client/cli/run_report.h"

namespace kvcrush::cli {
namespace {

struct GenerateOptions {
  v1::GenerateRequest request;
  PromptSource prompt;
  Variants variants;
  bool json = false;
  bool stats = false;
};

// Writes what comes: one sample as it comes, several each whole when it is finished, as their chunks arrive
// mixed.
class ChunkPrinter {
 public:
  explicit ChunkPrinter(const GenerateOptions& options)
      : json_(options.json),
        stats_(options.stats),
        several_(options.request.sampling().n() > 1 || options.request.variants_size() > 1) {}

  void print(const v1::GenerateResponse& chunk) {
    if (json_) {
      std::cout << to_json_line(chunk) << std::endl;
    } else {
      auto& sample = samples_[chunk.index()];
      sample.logprobs.MergeFrom(chunk.logprobs());
      if (several_)
        sample.text += chunk.text();
      else
        std::cout << chunk.text() << std::flush;
      if (chunk.has_finish()) finish_text(chunk.index(), sample);
    }
    if (chunk.has_finish() && stats_) print_summary(std::cerr, chunk.finish());
  }

 private:
  struct Sample {
    std::string text;
    google::protobuf::RepeatedPtrField<v1::PositionLogprobs> logprobs;
  };

  void finish_text(int index, const Sample& sample) const {
    if (several_) std::cout << "--- sample " << index << " ---\n" << sample.text;
    std::cout << std::endl;
    print_logprobs(std::cout, sample.logprobs);
    std::cout << std::flush;
  }

  bool json_;
  bool stats_;
  bool several_;
  std::map<int, Sample> samples_;
};

int run_generate(GenerateOptions& options, const ServerOptions& server, Interrupt& interrupt) {
  const auto filled = fill_prompt(options.prompt, options.request);
  if (!filled.ok()) return fail_usage(filled.message);
  for (const auto& variant : options.variants.parsed) *options.request.add_variants() = variant;
  const auto stop = interrupt.arm();
  auto client = connect(server, stop);
  if (!client.ok()) return fail(client.status(), stop);
  ChunkPrinter printer(options);
  const auto status = client->generate(
      options.request,
      [&printer](const v1::GenerateResponse& chunk) {
        printer.print(chunk);
        return true;
      },
      stop);
  if (stop.stop_requested()) std::cout << std::endl;
  return status.ok() ? kExitOk : fail(status, stop);
}

}  // namespace

void add_generate_command(CLI::App& app, const ServerOptions& server, Interrupt& interrupt, Command& chosen) {
  auto* command = app.add_subcommand("generate", "Generate text from a prompt and stream it");
  const auto options = std::make_shared<GenerateOptions>();
  add_prompt_options(*command, options->prompt);
  command->add_option_function<std::string>(
      "--request-id", [o = options.get()](const std::string& id) { o->request.set_request_id(id); },
      "Name of the request in logs, stats and abort (default: the server's choice)");
  command->add_flag("--json", options->json, "Print one JSON object per chunk");
  command->add_flag("--stats", options->stats, "Print usage and compression to stderr at the end");
  add_sampling_options(*command, options->request);
  add_compression_options(*command, options->request);
  add_variant_option(*command, options->variants,
                     "A sample with a compression of its own, all from one prefill, e.g. "
                     "policy=snapkv,budget=0.25,kv_dtype=int4 (the options above by name); may be repeated");
  command->callback([=, &server, &interrupt, &chosen] {
    chosen = [=, &server, &interrupt] { return run_generate(*options, server, interrupt); };
  });
}

}  // namespace kvcrush::cli
