// One loaded model directory or file: configuration, tokenizer and memory-mapped weights, free of torch.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/core/status.h"
#include "engine/model/model_config.h"
#include "engine/tokenizer/tokenizer_spec.h"

namespace kvcrush {

enum class WeightDtype {
  kF32,
  kF16,
  kBF16,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_NL,
  kIQ4_XS
};

// How the rows of one head lie in a file, where that is not how the engine has them: the pairs that RoPE
// rotates half a head apart, whatever part of a head it rotates. Queries and keys are permuted alike, so
// their products are the same.
struct HeadRows {
  std::int64_t head_dim = 0;    // 0: as the engine has them
  std::int64_t rotary_dim = 0;  // rows that are rotated: the head's first
  bool interleaved = false;     // pairs lie side by side (llama.cpp); else half of rotary_dim apart

  // Where the engine's row `row` is stored.
  std::int64_t stored(std::int64_t row) const;
};

// Where a tensor comes from, for messages.
struct StoredTensor {
  std::string file;
  std::string name;            // as the file spells it
  std::int64_t first_row = 0;  // of it, where a view shows a part
};

// A tensor inside a mapping. Shape is row-major, outermost first (GGUF's order reversed): a projection is
// [out_features, in_features]. Rows are counted as the engine has them.
struct WeightView {
  WeightDtype dtype = WeightDtype::kF32;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
  HeadRows head_rows = {};
  // Of read_f32: x * scale + offset.
  float scale = 1.0f;
  float offset = 0.0f;
  StoredTensor stored = {};

  std::int64_t num_elements() const;
  // Bytes of row `row` of a matrix.
  std::span<const std::byte> row_bytes(std::int64_t row) const;
};

// 32 weights in 4 bits: step * code + minimum, codes in [0, 15].
struct CodedBlock {
  float step = 0.0f;
  float minimum = 0.0f;
  std::array<std::uint8_t, 32> codes = {};
};
// Whether a type's values are such blocks.
bool has_coded_blocks(WeightDtype dtype);
// Row `row` of a matrix of such a type. blocks.size(): row's elements / 32.
void read_coded_row(const WeightView& view, std::int64_t row, std::span<CodedBlock> blocks);
// Row `row` of a matrix in float32.
void read_row_f32(const WeightView& view, std::int64_t row, std::span<float> out);

// Converts to float32, rows in the engine's order. out.size() must equal view.num_elements().
void read_f32(const WeightView& view, std::span<float> out);

struct ModelFile {
  std::string path;  // of the file, a split model's first one, or the folder that was read
  ModelConfig config;
  TokenizerSpec tokenizer;
  // Canonical names, whatever the source: "embed_tokens", "norm", "lm_head" (absent when tied), and per layer
  // i "layers.i." + {"input_norm", "q_proj", "k_proj", "v_proj", "o_proj", "mlp_norm", "gate_proj",
  // "up_proj", "down_proj"}, and as `config` has them {"q_bias", "k_bias", "v_bias"}, "o_bias", {"q_norm",
  // "k_norm"},
  // {"attention_output_norm", "mlp_output_norm"}. Fused tensors are views of their parts. Every tensor's
  // shape has been checked against `config`.
  std::map<std::string, WeightView> weights;
  std::uint64_t weight_bytes = 0;  // as stored
  std::uint64_t num_parameters = 0;
  std::string weight_dtype;             // most bytes are of this type, e.g. "Q4_1"
  std::shared_ptr<const void> mapping;  // keeps the bytes alive
  // Has the system fetch the bytes before they are read; empty where they are not a file's, like the next.
  std::function<void()> read_ahead;
  // Gives the bytes' memory back until they are read again.
  std::function<void()> release_pages;
};

// Loads the model that `path` leads to (model_path.h): GGUF, in one file or in parts, or a Hugging Face
// directory (config.json, *.safetensors, tokenizer.json).
// Errors: NOT_FOUND (no such path), INVALID_ARGUMENT (broken, truncated or unsupported file; the message
// names what and where): the first of those that read_model finds. The system begins to fetch the weights.
Result<ModelFile> load_model_file(const std::string& path);

}  // namespace kvcrush
