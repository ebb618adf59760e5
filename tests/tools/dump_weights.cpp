// Shows what the loader makes of a model, for comparison with other readers.
//   dump_weights MODEL list              one line per tensor: canonical name, type, shape
//   dump_weights MODEL config            key=value lines of configuration and tokenizer
//   dump_weights MODEL read NAME...      float32 values of the tensors, raw, to standard output
//   dump_weights MODEL time              seconds to load, to check and to read all weights
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

#include "engine/loader/model_file.h"
#include "engine/loader/weight_check.h"
#include "engine/loader/weight_type.h"

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void list(const kvcrush::ModelFile& model) {
  for (const auto& [name, view] : model.weights) {
    std::printf("%s %s %s\n", name.c_str(), std::string(kvcrush::weight_dtype_name(view.dtype)).c_str(),
                kvcrush::shape_text(view.shape).c_str());
  }
}

void print_config(const kvcrush::ModelFile& model) {
  const kvcrush::ModelConfig& config = model.config;
  const kvcrush::TokenizerSpec& tokenizer = model.tokenizer;
  std::printf(
      "num_layers=%d\nhidden_size=%d\nintermediate_size=%d\nnum_heads=%d\nnum_kv_heads=%d\nhead_dim=%d\n",
      config.num_layers, config.hidden_size, config.intermediate_size, config.num_heads, config.num_kv_heads,
      config.head_dim);
  std::printf("vocab_size=%d\nmax_context_tokens=%d\nrope_base=%g\ntied_embeddings=%d\n", config.vocab_size,
              config.max_context_tokens, config.rope.base, config.tied_embeddings ? 1 : 0);
  std::printf("pre_tokenizer=%s\nnum_tokens=%zu\nnum_merges=%zu\nbos_id=%d\neos_id=%d\nadd_bos=%d\n",
              tokenizer.pre_tokenizer.c_str(), tokenizer.tokens.size(), tokenizer.merges.size(),
              tokenizer.bos_id, tokenizer.eos_id, tokenizer.add_bos ? 1 : 0);
  std::printf("num_parameters=%llu\nweight_bytes=%llu\nweight_dtype=%s\n",
              static_cast<unsigned long long>(model.num_parameters),
              static_cast<unsigned long long>(model.weight_bytes), model.weight_dtype.c_str());
}

int read(const kvcrush::ModelFile& model, std::span<char*> names) {
  for (const char* name : names) {
    const auto found = model.weights.find(name);
    if (found == model.weights.end()) {
      std::fprintf(stderr, "no tensor '%s'\n", name);
      return 1;
    }
    std::vector<float> values(static_cast<std::size_t>(found->second.num_elements()));
    kvcrush::read_f32(found->second, values);
    if (std::fwrite(values.data(), sizeof(float), values.size(), stdout) != values.size()) return 1;
  }
  return 0;
}

void time_reads(const kvcrush::ModelFile& model, double load_seconds) {
  std::int64_t largest = 0;
  for (const auto& [name, view] : model.weights) largest = std::max(largest, view.num_elements());
  std::vector<float> values(static_cast<std::size_t>(largest));
  std::printf("load: %.1f ms\n", load_seconds * 1e3);
  for (const int num_threads : {1, 2}) {
    const auto start = Clock::now();
    const kvcrush::Status status = kvcrush::check_finite(model, num_threads);
    const double seconds = seconds_since(start);
    std::printf("check_finite, %d threads: %.1f ms, %.2f GB/s of stored bytes%s\n", num_threads,
                seconds * 1e3, static_cast<double>(model.weight_bytes) / seconds * 1e-9,
                status.ok() ? "" : ", refused");
  }
  for (const char* pass : {"first", "second"}) {
    const auto start = Clock::now();
    for (const auto& [name, view] : model.weights) {
      kvcrush::read_f32(view, std::span(values).first(static_cast<std::size_t>(view.num_elements())));
    }
    const double seconds = seconds_since(start);
    std::printf("read_f32 of all weights, %s pass: %.1f ms, %.2f G elements/s, %.2f GB/s of stored bytes\n",
                pass, seconds * 1e3, static_cast<double>(model.num_parameters) / seconds * 1e-9,
                static_cast<double>(model.weight_bytes) / seconds * 1e-9);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string command = argc > 2 ? argv[2] : "";
  if (command != "list" && command != "config" && command != "read" && command != "time") {
    std::fprintf(stderr, "usage: dump_weights MODEL list|config|time|read NAME...\n");
    return 2;
  }
  const auto start = Clock::now();
  const kvcrush::Result<kvcrush::ModelFile> model = kvcrush::load_model_file(argv[1]);
  const double load_seconds = seconds_since(start);
  if (!model.ok()) {
    std::fprintf(stderr, "%s\n", model.status().message().c_str());
    return 1;
  }
  if (command == "read") return read(*model, {argv + 3, argv + argc});
  if (command == "list") list(*model);
  if (command == "config") print_config(*model);
  if (command == "time") time_reads(*model, load_seconds);
  return 0;
}
