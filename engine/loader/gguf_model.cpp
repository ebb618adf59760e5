#include "engine/loader/gguf_model.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <utility>
#include <vector>

#include "engine/core/readable.h"
#include "engine/loader/config_check.h"
#include "engine/loader/gguf.h"
#include "engine/loader/gguf_metadata.h"
#include "engine/loader/stop_tokens.h"
#include "engine/loader/weight_map.h"
#include "engine/loader/weight_type.h"

namespace kvcrush {
namespace {

constexpr std::string_view kArchitecture = "llama";

void read_rope(MetadataReader& metadata, ModelConfig& config) {
  RopeConfig& rope = config.rope;
  rope.base = metadata.number_or("llama.rope.freq_base", rope.base, 1.0, kMaxRopeBase);
  const std::int64_t rotated =
      metadata.integer_or("llama.rope.dimension_count", config.head_dim, 1, kMaxHeadDim);
  if (rotated != config.head_dim) {
    metadata.fail("metadata key 'llama.rope.dimension_count' is " + std::to_string(rotated) +
                  "; rotating a part of a head is not supported, it must be head_dim = " +
                  std::to_string(config.head_dim));
  }
  const std::string type = metadata.text_or("llama.rope.scaling.type", "none");
  if (metadata.has("llama.rope.scale_linear")) {  // how older files say it
    rope.type = RopeScalingType::kLinear;
    rope.factor = metadata.number("llama.rope.scale_linear", 1.0, kMaxRopeFactor);
  }
  if (type == "none") return;
  if (type != "linear" && type != "yarn") {
    return metadata.fail("metadata key 'llama.rope.scaling.type' is " + in_quotes(type) +
                         "; supported: none, linear, yarn");
  }
  rope.type = type == "linear" ? RopeScalingType::kLinear : RopeScalingType::kYarn;
  rope.factor = metadata.number("llama.rope.scaling.factor", 1.0, kMaxRopeFactor);
  if (rope.type == RopeScalingType::kLinear) return;
  rope.original_max_position = static_cast<int>(metadata.integer_or(
      "llama.rope.scaling.original_context_length", config.max_context_tokens, 1, kMaxContextTokens));
  rope.beta_fast =
      metadata.number_or("llama.rope.scaling.yarn_beta_fast", rope.beta_fast, 0.0, kMaxRopeFactor);
  rope.beta_slow =
      metadata.number_or("llama.rope.scaling.yarn_beta_slow", rope.beta_slow, 0.0, kMaxRopeFactor);
  if (metadata.has("llama.rope.scaling.attn_factor")) {
    // GGUF's factor multiplies the usual one; ours replaces it.
    rope.attention_factor = metadata.number("llama.rope.scaling.attn_factor", 1e-6, kMaxRopeFactor) *
                            (0.1 * std::log(rope.factor) + 1.0);
  }
}

Result<ModelConfig> read_config(const GgufFile& file, const std::string& source) {
  MetadataReader metadata(file, source);
  const auto integer = [&](const char* key, std::int64_t max) {
    return static_cast<int>(metadata.integer(key, 1, max));
  };
  ModelConfig config;
  config.architecture = kArchitecture;
  config.name = metadata.text_or("general.name", std::filesystem::path(source).stem().string());
  config.num_layers = integer("llama.block_count", kMaxLayers);
  config.hidden_size = integer("llama.embedding_length", kMaxHiddenSize);
  config.intermediate_size = integer("llama.feed_forward_length", kMaxIntermediateSize);
  config.max_context_tokens = integer("llama.context_length", kMaxContextTokens);
  config.num_heads = integer("llama.attention.head_count", kMaxHeads);
  config.num_kv_heads =
      static_cast<int>(metadata.integer_or("llama.attention.head_count_kv", config.num_heads, 1, kMaxHeads));
  config.rms_norm_eps =
      static_cast<float>(metadata.number("llama.attention.layer_norm_rms_epsilon", 0.0, 1.0));
  const std::int64_t key_dim = metadata.integer_or("llama.attention.key_length",
                                                   config.hidden_size / config.num_heads, 1, kMaxHeadDim);
  const std::int64_t value_dim = metadata.integer_or("llama.attention.value_length", key_dim, 1, kMaxHeadDim);
  if (key_dim != value_dim) {
    metadata.fail("metadata key 'llama.attention.value_length' is " + std::to_string(value_dim) +
                  "; it must equal the key length " + std::to_string(key_dim));
  }
  config.head_dim = static_cast<int>(key_dim);
  if (metadata.integer_or("llama.expert_count", 0, 0, kMaxIntermediateSize) != 0) {
    metadata.fail("metadata key 'llama.expert_count' is not 0: mixtures of experts are not supported");
  }
  const std::int64_t num_tokens = static_cast<std::int64_t>(metadata.strings("tokenizer.ggml.tokens").count);
  config.vocab_size = static_cast<int>(
      metadata.integer_or("llama.vocab_size", std::min(num_tokens, kMaxVocabSize), 1, kMaxVocabSize));
  read_rope(metadata, config);
  if (!metadata.status().ok()) return metadata.status();
  return config;
}

TokenKind token_kind(std::int64_t stored, MetadataReader& metadata) {
  switch (stored) {
    case 1:
      return TokenKind::kNormal;
    case 2:
      return TokenKind::kUnknown;
    case 3:
      return TokenKind::kControl;
    case 4:
      return TokenKind::kUserDefined;
    case 5:
      return TokenKind::kUnused;
    case 6:
      return TokenKind::kByte;
    default:
      break;
  }
  metadata.fail("metadata key 'tokenizer.ggml.token_type' holds " + std::to_string(stored) +
                "; known: 1 to 6");
  return TokenKind::kNormal;
}

void read_vocabulary(const ModelConfig& config, MetadataReader& metadata, TokenizerSpec& spec) {
  const GgufArray& tokens = metadata.strings("tokenizer.ggml.tokens");
  if (static_cast<std::int64_t>(tokens.count) > config.vocab_size) {
    return metadata.fail("metadata key 'tokenizer.ggml.tokens' has " + std::to_string(tokens.count) +
                         " entries; the vocabulary size is " + std::to_string(config.vocab_size));
  }
  spec.tokens.assign(tokens.strings.begin(), tokens.strings.end());
  spec.kinds.assign(spec.tokens.size(), TokenKind::kNormal);
  if (metadata.has("tokenizer.ggml.token_type")) {
    const GgufArray& kinds = metadata.integers("tokenizer.ggml.token_type");
    if (kinds.count != spec.tokens.size()) {
      return metadata.fail("metadata key 'tokenizer.ggml.token_type' has " + std::to_string(kinds.count) +
                           " entries; there are " + std::to_string(spec.tokens.size()) + " tokens");
    }
    for (std::size_t i = 0; i < spec.kinds.size(); ++i)
      spec.kinds[i] = token_kind(kinds.integer_at(i), metadata);
  }
  const GgufArray& merges = metadata.strings("tokenizer.ggml.merges");
  spec.merges.assign(merges.strings.begin(), merges.strings.end());
  for (const std::string& merge : spec.merges) {
    const std::size_t space = merge.find(' ');
    if (space == 0 || space == std::string::npos || space + 1 == merge.size()) {
      return metadata.fail("metadata key 'tokenizer.ggml.merges' holds " + in_quotes(merge) +
                           "; two tokens are expected");
    }
  }
}

Result<TokenizerSpec> read_tokenizer(const GgufFile& file, const ModelConfig& config,
                                     const std::string& source) {
  MetadataReader metadata(file, source);
  TokenizerSpec spec;
  spec.model = metadata.text("tokenizer.ggml.model");
  if (metadata.status().ok() && spec.model != "gpt2") {
    metadata.fail("metadata key 'tokenizer.ggml.model' is " + in_quotes(spec.model) + "; supported: gpt2");
  }
  spec.pre_tokenizer = metadata.text_or("tokenizer.ggml.pre", "default");
  read_vocabulary(config, metadata, spec);
  const auto id = [&](const char* key) {
    const std::int64_t last = static_cast<std::int64_t>(spec.tokens.size()) - 1;
    return static_cast<TokenId>(metadata.integer_or(key, -1, 0, last));
  };
  spec.bos_id = id("tokenizer.ggml.bos_token_id");
  spec.eos_id = id("tokenizer.ggml.eos_token_id");
  spec.unknown_id = id("tokenizer.ggml.unknown_token_id");
  spec.padding_id = id("tokenizer.ggml.padding_token_id");
  const TokenId turn_ends[] = {id("tokenizer.ggml.eot_token_id"), id("tokenizer.ggml.eom_token_id")};
  spec.add_bos = metadata.flag_or("tokenizer.ggml.add_bos_token", false);
  spec.add_space_prefix = metadata.flag_or("tokenizer.ggml.add_space_prefix", false);
  spec.chat_template = metadata.text_or("tokenizer.chat_template", "");
  if (metadata.status().ok() && spec.add_bos && spec.bos_id < 0) {
    metadata.fail(
        "metadata key 'tokenizer.ggml.add_bos_token' is true without a 'tokenizer.ggml.bos_token_id'");
  }
  if (!metadata.status().ok()) return metadata.status();
  KVCRUSH_RETURN_IF_ERROR(set_stop_ids(turn_ends, source, spec));
  return spec;
}

// Llama 3 files carry the divisors of their scaled frequencies as a tensor.
Status read_frequency_divisors(const std::vector<NamedWeight>& weights, const std::string& source,
                               RopeConfig& rope) {
  const auto found = std::find_if(weights.begin(), weights.end(), [](const NamedWeight& weight) {
    return weight.name == "rope_freqs.weight";
  });
  if (found == weights.end()) return {};
  if (found->view.shape.size() != 1 || found->view.shape[0] > kMaxHeadDim) {
    return invalid_argument(source + ": tensor 'rope_freqs.weight' has shape " +
                            shape_text(found->view.shape) + "; [head_dim / 2] is expected");
  }
  rope.frequency_divisors.resize(static_cast<std::size_t>(found->view.shape[0]));
  read_f32(found->view, rope.frequency_divisors);
  return {};
}

}  // namespace

Result<ModelFile> read_gguf_model(std::span<const std::byte> bytes, const std::string& source) {
  Result<GgufFile> file = parse_gguf(bytes, source, kArchitecture);
  if (!file.ok()) return file.status();
  std::vector<NamedWeight> weights;
  weights.reserve(file->tensors.size());
  for (const GgufTensor& tensor : file->tensors) weights.push_back({std::string(tensor.name), tensor.view});

  Result<ModelConfig> config = read_config(*file, source);
  if (!config.ok()) return config.status();
  ModelFile model;
  model.config = std::move(*config);
  model.config.tied_embeddings = !has_weight(weights, "output.weight");
  KVCRUSH_RETURN_IF_ERROR(read_frequency_divisors(weights, source, model.config.rope));
  KVCRUSH_RETURN_IF_ERROR(check_config(model.config, source));
  Result<TokenizerSpec> tokenizer = read_tokenizer(*file, model.config, source);
  if (!tokenizer.ok()) return tokenizer.status();
  model.tokenizer = std::move(*tokenizer);
  const bool has_bias = has_weight(weights, "blk.0.attn_q.bias");
  KVCRUSH_RETURN_IF_ERROR(map_weights(weights, NameScheme::kGguf, has_bias, source, model));
  return model;
}

}  // namespace kvcrush
