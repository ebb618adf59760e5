#include "client/inspect/facts.h"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "client/cli/table.h"
#include "engine/core/readable.h"
#include "engine/loader/weight_memory.h"

namespace kvcrush::inspect {
namespace {

using cli::mib;
using cli::with_thousands;
using nlohmann::json;

std::string short_number(double value) {
  if (value == std::floor(value) && value < 1e15) return with_thousands(static_cast<std::int64_t>(value));
  std::ostringstream out;
  out << value;
  return out.str();
}

const char* name_of(RopeScalingType type) {
  switch (type) {
    case RopeScalingType::kLinear:
      return "linear";
    case RopeScalingType::kDynamic:
      return "dynamic";
    case RopeScalingType::kLlama3:
      return "llama3";
    case RopeScalingType::kLongRope:
      return "longrope";
    case RopeScalingType::kYarn:
      return "yarn";
    case RopeScalingType::kNone:
      break;
  }
  return "none";
}

Fact rope_fact(const RopeConfig& rope) {
  json value = {{"base", rope.base}, {"scaling", name_of(rope.type)}};
  std::string text = "base " + short_number(rope.base);
  if (rope.type != RopeScalingType::kNone) {
    value["factor"] = rope.factor;
    text += ", " + std::string(name_of(rope.type)) + " scaling by " + short_number(rope.factor);
  }
  if (rope.original_max_position > 0) {
    value["original_context_tokens"] = rope.original_max_position;
    text += " of " + with_thousands(rope.original_max_position) + " tokens";
  }
  if (rope.rotary_dim > 0) value["rotated_channels"] = rope.rotary_dim;
  if (!rope.frequency_divisors.empty() && !rope.has_long_positions()) {
    value["scaling"] = "frequency divisors";
    text += ", divided frequencies";
  }
  return {"rope", "RoPE", std::move(value), std::move(text)};
}

class FactList {
 public:
  void number(const char* key, const char* label, std::int64_t value) {
    if (value > 0) facts_.push_back({key, label, value, with_thousands(value)});
  }
  void text(const char* key, const char* label, const std::string& value) {
    if (!value.empty()) facts_.push_back({key, label, readable(value), readable(value)});
  }
  void bytes(const char* key, const char* label, std::uint64_t value) {
    const auto signed_value = static_cast<std::int64_t>(value);
    if (value > 0) facts_.push_back({key, label, value, mib(signed_value) + " MiB"});
  }
  void add(Fact fact) { facts_.push_back(std::move(fact)); }
  std::vector<Fact> take() { return std::move(facts_); }

 private:
  std::vector<Fact> facts_;
};

void add_windows(const ModelConfig& config, FactList& facts) {
  int num_layers = 0;
  int tokens = 0;
  for (const int window : config.windows_within(config.max_context_tokens)) {
    num_layers += window > 0 ? 1 : 0;
    tokens = std::max(tokens, window);
  }
  if (num_layers == 0) return;
  facts.add({"sliding_window",
             "sliding window",
             {{"layers", num_layers}, {"tokens", tokens}},
             std::to_string(tokens) + " tokens in " + std::to_string(num_layers) + " of " +
                 std::to_string(config.num_layers) + " layers"});
}

void add_tokenizer(const TokenizerSpec& spec, FactList& facts) {
  if (spec.tokens.empty()) return;
  const bool byte_level = !spec.pre_tokenizer.empty();
  const std::string text =
      readable(spec.model) + (byte_level ? ", pre-tokenizer " + readable(spec.pre_tokenizer) : "");
  facts.add({"tokenizer",
             "tokenizer",
             {{"model", readable(spec.model)},
              {"pre_tokenizer", readable(spec.pre_tokenizer)},
              {"tokens", spec.tokens.size()}},
             text});
  json stops = json::array();
  std::string listed;
  for (const TokenId id : spec.stop_ids) {
    const std::string token = readable(spec.tokens[static_cast<std::size_t>(id)]);
    stops.push_back({{"id", id}, {"text", token}});
    listed += (listed.empty() ? "" : ", ") + token + " (" + std::to_string(id) + ")";
  }
  facts.add({"stop_tokens", "stop tokens", std::move(stops), listed.empty() ? "none" : listed});
}

}  // namespace

std::vector<Fact> facts_of(const ModelReading& reading, const std::string& chat_template) {
  const ModelConfig& config = reading.model.config;
  FactList facts;
  facts.text("name", "name", config.name);
  facts.text("architecture", "architecture", config.architecture);
  std::uint64_t num_parameters = 0;
  std::uint64_t file_bytes = 0;
  for (const TensorTypeTotal& total : reading.types) {
    num_parameters += total.num_elements;
    file_bytes += total.num_bytes;
  }
  facts.number("parameters", "parameters", static_cast<std::int64_t>(num_parameters));
  facts.number("layers", "layers", config.num_layers);
  facts.number("hidden_size", "hidden size", config.hidden_size);
  facts.number("intermediate_size", "intermediate size", config.intermediate_size);
  facts.number("query_heads", "query heads", config.num_heads);
  facts.number("kv_heads", "KV heads", config.num_kv_heads);
  facts.number("head_dim", "head size", config.head_dim);
  facts.number("context_tokens", "context, tokens", config.max_context_tokens);
  facts.number("vocabulary", "vocabulary", config.vocab_size);
  if (reading.has_config) {
    facts.add({"tied_embeddings", "output projection", config.tied_embeddings,
               config.tied_embeddings ? "the embedding" : "its own"});
    facts.add(rope_fact(config.rope));
    add_windows(config, facts);
  }
  add_tokenizer(reading.model.tokenizer, facts);
  if (!reading.model.tokenizer.tokens.empty()) facts.text("chat_template", "chat template", chat_template);
  facts.bytes("file_weight_bytes", "weights in the file", file_bytes);
  if (!reading.problems.empty()) return facts.take();
  facts.bytes("cpu_weight_bytes", "weights in memory, CPU", kept_weight_bytes(reading.model));
  facts.bytes("gpu_weight_bytes", "weights in memory, GPU in bf16", 2 * reading.model.num_parameters);
  return facts.take();
}

}  // namespace kvcrush::inspect
