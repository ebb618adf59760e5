// Speed of the engine on a real model, full cache against KVCrush, interleaved in one run so that ratios mean
// something on a noisy machine. Prints a Markdown table.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/loader/model_file.h"
#include "tests/bench/bench_requests.h"

namespace kvcrush {
namespace {

using bench::make_request;
using bench::run_one;
using bench::Waiter;

struct Options {
  std::string model = ".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  int context = 4096;
  int new_tokens = 64;
  int rounds = 3;
  double budget = 0.25;
  std::string kv_dtype = "f32";
  std::string weight_dtype = "auto";
};

double decode_ms(const FinishEvent& finish) {
  return (finish.total_ms - finish.time_to_first_token_ms) / (finish.completion_tokens - 1);
}

class Samples {
 public:
  void add(const std::string& name, double value) {
    if (!values_.contains(name)) order_.push_back(name);
    values_[name].push_back(value);
  }
  double median(const std::string& name) const {
    std::vector<double> sorted = values_.at(name);
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
  void print() const {
    std::printf("| what | median | min | max |\n|---|---|---|---|\n");
    for (const std::string& name : order_) {
      const auto [low, high] = std::minmax_element(values_.at(name).begin(), values_.at(name).end());
      std::printf("| %s | %.2f | %.2f | %.2f |\n", name.c_str(), median(name), *low, *high);
    }
  }

 private:
  std::vector<std::string> order_;
  std::map<std::string, std::vector<double>> values_;
};

void measure_speed(Engine& engine, int vocab, int round, Samples& samples) {
  const FinishEvent prefill = run_one(engine, make_request(512, 1, vocab, round));
  samples.add("prefill of 512 tokens, tokens/s", 512e3 / prefill.time_to_first_token_ms);
  samples.add("decode, 1 sequence, short context, tokens/s",
              1e3 / decode_ms(run_one(engine, make_request(16, 64, vocab, round))));
  samples.add("decode, 1 sequence, after 2048 tokens, tokens/s",
              1e3 / decode_ms(run_one(engine, make_request(2048, 32, vocab, round))));
  std::vector<std::unique_ptr<Waiter>> waiters;
  for (int i = 0; i < 8; ++i) {
    waiters.push_back(std::make_unique<Waiter>());
    if (!engine.submit(make_request(512, 64, vocab, round * 8 + i), waiters.back()->stream()).ok())
      std::exit(1);
  }
  // All eight decode together from the last one's first token to the first one's end; prefill steps before
  // that are excluded.
  double last_start_ms = 0;
  double first_end_ms = 1e18;
  double token_rate = 0;
  for (const auto& waiter : waiters) {
    const FinishEvent finish = waiter->wait();
    last_start_ms = std::max(last_start_ms, finish.time_to_first_token_ms);
    first_end_ms = std::min(first_end_ms, finish.total_ms);
    token_rate =
        1e3 / decode_ms(finish);  // of the last to arrive: it decodes with all others from start to end
  }
  if (last_start_ms < first_end_ms)
    samples.add("decode, 8 sequences of 512, tokens/s together", 8 * token_rate);
}

void measure_compression(Engine& engine, const Options& options, int vocab, int round, Samples& samples) {
  EngineRequest full = make_request(options.context, options.new_tokens, vocab, round);
  EngineRequest pruned = full;
  pruned.request_id += "-kvcrush";
  pruned.cache_policies[0].compression = preset_params(Preset::kDefault, BasePolicy::kSnapKv);
  pruned.cache_policies[0].compression->budget_fraction = options.budget;
  // Who goes first changes from round to round.
  FinishEvent full_finish;
  FinishEvent pruned_finish;
  std::vector<double> gaps_ms;
  if (round % 2 == 0) full_finish = run_one(engine, full);
  pruned_finish = run_one(engine, pruned, &gaps_ms);
  if (round % 2 != 0) full_finish = run_one(engine, full);

  const CompressionOutcome& outcome = pruned_finish.compression;
  const double prune_ms = outcome.prune_ms;
  samples.add("full: time to first token, ms", full_finish.time_to_first_token_ms);
  samples.add("KVCrush: time to first token, ms", pruned_finish.time_to_first_token_ms);
  samples.add("TTFT ratio", pruned_finish.time_to_first_token_ms / full_finish.time_to_first_token_ms);
  samples.add("full: decode, ms per token", decode_ms(full_finish));
  samples.add("KVCrush: decode, ms per token", decode_ms(pruned_finish));
  samples.add("decode ratio (below 1: KVCrush is faster)", decode_ms(pruned_finish) / decode_ms(full_finish));
  samples.add("KV bytes ratio",
              static_cast<double>(outcome.kv_bytes_after) / static_cast<double>(outcome.kv_bytes_before));
  samples.add("KVCrush: score, ms", outcome.score_ms);
  samples.add("KVCrush: select, ms", outcome.select_ms);
  samples.add("KVCrush: compact, ms", outcome.compact_ms);
  samples.add("KVCrush: score, select, compact: share of request time, %",
              100 * prune_ms / pruned_finish.total_ms);
  // Looking ahead and the prune come between the first token and the second; drafts save a step each.
  const double lookahead_ms = gaps_ms.front() - prune_ms;
  std::nth_element(gaps_ms.begin(), gaps_ms.begin() + static_cast<std::ptrdiff_t>(gaps_ms.size() / 2),
                   gaps_ms.end());
  const double step_ms = gaps_ms[gaps_ms.size() / 2];
  const double cost_ms = lookahead_ms - step_ms * (1 + outcome.lookahead_tokens_used);
  samples.add("KVCrush: one decode step, ms", step_ms);
  samples.add("KVCrush: lookahead, ms", lookahead_ms - step_ms);
  samples.add("KVCrush: drafts that were right", outcome.lookahead_tokens_used);
  samples.add("KVCrush: all of it, drafts taken off: share of request time, %",
              100 * (prune_ms + cost_ms) / pruned_finish.total_ms);
}

int run(const Options& options) {
  Result<ModelFile> file = load_model_file(options.model);
  if (!file.ok()) {
    std::fprintf(stderr, "%s\n", file.status().message().c_str());
    return 1;
  }
  auto model = std::make_shared<const ModelFile>(std::move(file).value());
  EngineObserver observer;
  EngineConfig config;
  config.kv_memory_bytes = std::uint64_t{2} << 30;
  config.kv_dtype = options.kv_dtype;
  config.weight_dtype = options.weight_dtype;
  Result<std::unique_ptr<Engine>> engine = Engine::create(model, config, observer);
  if (!engine.ok()) {
    std::fprintf(stderr, "%s\n", engine.status().message().c_str());
    return 1;
  }
  Samples samples;
  run_one(**engine, make_request(64, 4, model->config.vocab_size, 0));  // warms up
  for (int round = 0; round < options.rounds; ++round) {
    std::fprintf(stderr, "\rround %d of %d", round + 1, options.rounds);
    measure_speed(**engine, model->config.vocab_size, round, samples);
    measure_compression(**engine, options, model->config.vocab_size, round, samples);
  }
  std::fprintf(stderr, "\n");
  samples.print();
  return 0;
}

}  // namespace
}  // namespace kvcrush

int main(int argc, char** argv) {
  kvcrush::Options options;
  CLI::App app("Speed of the engine, full cache against KVCrush");
  app.add_option("--model", options.model, "Path of a .gguf file or Hugging Face folder")
      ->capture_default_str();
  app.add_option("--context", options.context, "Prompt tokens of the comparison")->capture_default_str();
  app.add_option("--new-tokens", options.new_tokens, "Output tokens of the comparison")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  app.add_option("--rounds", options.rounds, "Repetitions; medians are printed")->capture_default_str();
  app.add_option("--budget", options.budget, "Share of the prompt that KVCrush keeps")->capture_default_str();
  app.add_option("--kv-dtype", options.kv_dtype, "f32, bf16 or f16")->capture_default_str();
  app.add_option("--weight-dtype", options.weight_dtype, "auto or f32")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return kvcrush::run(options);
}
