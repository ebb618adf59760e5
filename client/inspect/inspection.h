// What a person wants to know of a model before it is deployed, told from its files on this machine. The one
// part of the client that looks into the engine: at its loader and its block accounting, never at torch.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace kvcrush::inspect {

struct Question {
  std::string model;  // as for the server's --model
  std::uint64_t kv_memory_bytes = 0;
  std::vector<int> lengths;  // tokens of a sequence, prompt and output together
  std::vector<std::string> kv_dtypes;
  std::optional<double> budget_fraction;  // of the prompt; this or tokens
  std::optional<int> budget_tokens;       // per layer
};
// What is wrong with the question; empty: nothing.
std::string refusal(const Question& question);

// One line about the model.
struct Fact {
  std::string key;    // in JSON
  std::string label;  // for people
  nlohmann::json value;
  std::string text;
};

struct TensorType {
  std::string name;
  bool supported = true;
  int num_tensors = 0;
  std::uint64_t num_elements = 0;
  std::uint64_t num_bytes = 0;  // 0 where it is not supported
};

// Sequences of one length; unset: longer than the context.
struct Fit {
  int num_tokens = 0;
  std::optional<std::int64_t> full;
  std::optional<std::int64_t> pruned;
};

struct KvFigures {
  std::string dtype;
  double bytes_per_token = 0;  // of all layers, in full blocks
  int tokens_per_block = 0;
  std::int64_t block_bytes = 0;
  std::int64_t num_blocks = 0;
  std::vector<Fit> fits;  // one for each length
};

struct Inspection {
  std::string path;    // what was read; empty: nothing
  std::string format;  // "GGUF in 3 parts"
  std::vector<Fact> facts;
  std::vector<TensorType> types;
  std::vector<KvFigures> kv;          // none where the sizes are not known
  std::vector<std::string> problems;  // what keeps the server from starting; none: it would
  std::vector<std::string> notes;     // what it would start without
};

// Maps files and reads no weights: NaN among them is for the server's start to find.
Inspection inspect_model(const Question& question);

}  // namespace kvcrush::inspect
