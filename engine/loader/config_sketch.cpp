#include "engine/loader/config_sketch.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "engine/loader/config_check.h"
#include "engine/loader/gguf_metadata.h"
#include "engine/loader/json_fields.h"

namespace kvcrush {
namespace {

// Fills `config` with what `integer(field, max)` finds; names as Hugging Face and GGUF call them.
template <typename Integer>
void fill_sizes(bool gguf, const Integer& integer, ModelConfig& config) {
  const auto pick = [&](const char* hugging_face, const char* gguf_name, std::int64_t max) {
    return static_cast<int>(integer(gguf ? gguf_name : hugging_face, max));
  };
  config.num_layers = pick("num_hidden_layers", "block_count", kMaxLayers);
  config.hidden_size = pick("hidden_size", "embedding_length", kMaxHiddenSize);
  config.intermediate_size = pick("intermediate_size", "feed_forward_length", kMaxIntermediateSize);
  config.num_heads = pick("num_attention_heads", "attention.head_count", kMaxHeads);
  config.num_kv_heads = pick("num_key_value_heads", "attention.head_count_kv", kMaxHeads);
  config.head_dim = pick("head_dim", "attention.key_length", kMaxHeadDim);
  config.vocab_size = pick("vocab_size", "vocab_size", kMaxVocabSize);
  config.max_context_tokens = pick("max_position_embeddings", "context_length", kMaxContextTokens);
  if (config.num_kv_heads == 0) config.num_kv_heads = config.num_heads;
  if (config.head_dim == 0 && config.num_heads > 0) config.head_dim = config.hidden_size / config.num_heads;
}

}  // namespace

ModelConfig sketch_gguf_config(const GgufFile& file, const std::string& source) {
  ModelConfig config;
  config.architecture = MetadataReader(file, source).text_or("general.architecture", "");
  const std::string stem = std::filesystem::path(source).stem().string();
  config.name = MetadataReader(file, source).text_or("general.name", stem);
  const auto integer = [&](const std::string& field, std::int64_t max) {
    MetadataReader metadata(file, source);  // one for each, since the first failure stays
    const std::int64_t value = metadata.integer_or(config.architecture + "." + field, 0, 0, max);
    return metadata.status().ok() ? value : 0;
  };
  fill_sizes(/*gguf=*/true, integer, config);
  if (config.vocab_size == 0) {
    MetadataReader metadata(file, source);
    const std::uint64_t num_tokens = metadata.strings("tokenizer.ggml.tokens").count;
    if (num_tokens <= static_cast<std::uint64_t>(kMaxVocabSize))
      config.vocab_size = static_cast<int>(num_tokens);
  }
  return config;
}

ModelConfig sketch_hf_config(const nlohmann::json& config_json) {
  ModelConfig config;
  config.architecture = JsonFields(config_json, "").text_or("model_type", "");
  const auto integer = [&](const std::string& field, std::int64_t max) {
    JsonFields fields(config_json, "");
    const std::int64_t value = fields.integer_or(field.c_str(), 0, 0, max);
    return fields.status().ok() ? value : 0;
  };
  fill_sizes(/*gguf=*/false, integer, config);
  return config;
}

}  // namespace kvcrush
