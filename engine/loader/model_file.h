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

// A tensor inside a mapping. Shape is row-major, outermost first (GGUF's order reversed): a projection is
// [out_features, in_features].
struct WeightView {
  WeightDtype dtype = WeightDtype::kF32;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
  // Non-zero: rows of this [num_heads * head_dim, hidden] matrix are stored in llama.cpp's interleaved RoPE
  // order, per head of this many rows; read_f32 returns them in the split-half order that the engine rotates.
  std::int64_t interleaved_head_dim = 0;

  std::int64_t num_elements() const;
  // Bytes of row `row` of a matrix, counted in canonical order.
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
// Row `row` of a matrix of such a type, counted in canonical order. blocks.size(): row's elements / 32.
void read_coded_row(const WeightView& view, std::int64_t row, std::span<CodedBlock> blocks);
// Row `row` of a matrix in float32, counted in canonical order.
void read_row_f32(const WeightView& view, std::int64_t row, std::span<float> out);

// Converts to float32 in canonical order. out.size() must equal view.num_elements().
void read_f32(const WeightView& view, std::span<float> out);

struct ModelFile {
  ModelConfig config;
  TokenizerSpec tokenizer;
  // Canonical names, whatever the source: "embed_tokens", "norm", "lm_head" (absent when tied), and per layer
  // i "layers.i." +
  // {"input_norm","q_proj","k_proj","v_proj","o_proj","post_attention_norm","gate_proj","up_proj","down_proj"},
  // optionally "q_bias","k_bias","v_bias". Every tensor's shape has been checked against `config`.
  std::map<std::string, WeightView> weights;
  std::uint64_t weight_bytes = 0;  // as stored
  std::uint64_t num_parameters = 0;
  std::string weight_dtype;             // most bytes are of this type, e.g. "Q4_1"
  std::shared_ptr<const void> mapping;  // keeps the bytes alive
  // Gives the bytes' memory back until they are read again; empty where they are not a file's.
  std::function<void()> release_pages;
};

// Loads a `.gguf` file or a Hugging Face directory (config.json, *.safetensors, tokenizer.json).
// Errors: NOT_FOUND (no such path), INVALID_ARGUMENT (broken, truncated or unsupported file; the message
// names what and where).
Result<ModelFile> load_model_file(const std::string& path);

}  // namespace kvcrush
