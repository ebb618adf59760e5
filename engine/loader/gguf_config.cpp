#include "engine/loader/gguf_config.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "engine/core/readable.h"
#include "engine/loader/config_check.h"
#include "engine/loader/gguf_metadata.h"
#include "engine/loader/weight_type.h"

namespace kvcrush {
namespace {

constexpr double kLocalRopeBase = 10000.0;  // of Gemma 3's windowed layers; older files do not say
constexpr int kGemmaWindowPattern = 6;
constexpr int kUnrotatedInterval = 4;  // GGUF files do not say it
constexpr int kLayersOfLargestGemma = 62;

// Metadata keys that begin with the architecture's name.
struct ArchitectureKeys {
  std::string name;
  std::string operator()(std::string_view key) const { return name + "." + std::string(key); }
};

void read_yarn(MetadataReader& metadata, const ArchitectureKeys& key, RopeConfig& rope) {
  rope.beta_fast =
      metadata.number_or(key("rope.scaling.yarn_beta_fast"), rope.beta_fast, 0.0, kMaxRopeFactor);
  rope.beta_slow =
      metadata.number_or(key("rope.scaling.yarn_beta_slow"), rope.beta_slow, 0.0, kMaxRopeFactor);
  if (metadata.has(key("rope.scaling.yarn_attn_factor")))
    rope.attention_factor = metadata.number(key("rope.scaling.yarn_attn_factor"), 0.0, kMaxRopeFactor);
  if (metadata.has(key("rope.scaling.attn_factor"))) {
    // GGUF's factor multiplies the usual one; ours replaces it.
    rope.attention_factor = metadata.number(key("rope.scaling.attn_factor"), 1e-6, kMaxRopeFactor) *
                            (0.1 * std::log(rope.factor) + 1.0);
  }
}

void read_scaling(MetadataReader& metadata, const ArchitectureKeys& key, ModelConfig& config) {
  RopeConfig& rope = config.rope;
  const std::string type_key = key("rope.scaling.type");
  const std::string type = metadata.text_or(type_key, "none");
  if (metadata.has(key("rope.scale_linear"))) {  // how older files say it
    rope.type = RopeScalingType::kLinear;
    rope.factor = metadata.number(key("rope.scale_linear"), 1.0, kMaxRopeFactor);
  }
  if (type == "none" || type == "longrope") return;  // longrope: its tensors say more
  if (type != "linear" && type != "yarn") {
    return metadata.fail("metadata key '" + type_key + "' is " + in_quotes(type) +
                         "; supported: none, linear, yarn, longrope");
  }
  rope.type = type == "linear" ? RopeScalingType::kLinear : RopeScalingType::kYarn;
  rope.factor = metadata.number(key("rope.scaling.factor"), 1.0, kMaxRopeFactor);
  if (rope.type == RopeScalingType::kLinear) return;
  rope.original_max_position = static_cast<int>(metadata.integer_or(
      key("rope.scaling.original_context_length"), config.max_context_tokens, 1, kMaxContextTokens));
  read_yarn(metadata, key, rope);
}

Status read_divisors(const std::vector<NamedWeight>& weights, const char* name, const std::string& source,
                     std::vector<float>& divisors) {
  const auto found = std::find_if(weights.begin(), weights.end(),
                                  [name](const NamedWeight& weight) { return weight.name == name; });
  if (found == weights.end()) return {};
  if (found->view.shape.size() != 1 || found->view.shape[0] > kMaxHeadDim) {
    return invalid_argument(source + ": tensor '" + name + "' has shape " + shape_text(found->view.shape) +
                            "; [rotated channels of a head / 2] is expected");
  }
  divisors.resize(static_cast<std::size_t>(found->view.shape[0]));
  read_f32(found->view, divisors);
  return {};
}

// Frequencies that come as tensors: Llama 3's, scaled already, and longrope's two sets.
Status read_rope_tensors(MetadataReader& metadata, const ArchitectureKeys& key,
                         const std::vector<NamedWeight>& weights, const std::string& source,
                         ModelConfig& config) {
  RopeConfig& rope = config.rope;
  KVCRUSH_RETURN_IF_ERROR(read_divisors(weights, "rope_freqs.weight", source, rope.frequency_divisors));
  KVCRUSH_RETURN_IF_ERROR(
      read_divisors(weights, "rope_factors_long.weight", source, rope.long_frequency_divisors));
  if (!rope.has_long_positions()) return {};
  KVCRUSH_RETURN_IF_ERROR(
      read_divisors(weights, "rope_factors_short.weight", source, rope.frequency_divisors));
  rope.type = RopeScalingType::kLongRope;
  rope.original_max_position = static_cast<int>(metadata.integer_or(
      key("rope.scaling.original_context_length"), config.max_context_tokens, 1, kMaxContextTokens));
  rope.factor = std::max(1.0, static_cast<double>(config.max_context_tokens) / rope.original_max_position);
  if (metadata.has(key("rope.scaling.attn_factor")))  // the whole factor, unlike yarn's
    rope.attention_factor = metadata.number(key("rope.scaling.attn_factor"), 1e-6, kMaxRopeFactor);
  return metadata.status();
}

void read_rope(MetadataReader& metadata, const ArchitectureKeys& key, const Architecture& architecture,
               ModelConfig& config) {
  RopeConfig& rope = config.rope;
  rope.base = metadata.number_or(key("rope.freq_base"), rope.base, 1.0, kMaxRopeBase);
  rope.rotary_dim =
      static_cast<int>(metadata.integer_or(key("rope.dimension_count"), config.head_dim, 2, config.head_dim));
  read_scaling(metadata, key, config);
  if (architecture.windows != WindowLayers::kAllButEveryNth) return;
  config.has_window_rope = true;
  config.window_rope.base = metadata.number_or(key("rope.freq_base_swa"), kLocalRopeBase, 1.0, kMaxRopeBase);
  config.window_rope.rotary_dim = rope.rotary_dim;
}

void read_windows(MetadataReader& metadata, const ArchitectureKeys& key, const Architecture& architecture,
                  ModelConfig& config) {
  const std::string window_key = key("attention.sliding_window");
  if (!metadata.has(window_key)) return;
  const auto window = static_cast<int>(metadata.integer(window_key, 0, kMaxContextTokens));
  if (window == 0) return;
  const std::string pattern_key = key("attention.sliding_window_pattern");
  if (metadata.is_array(pattern_key)) {
    const GgufArray& pattern = metadata.flags(pattern_key);
    if (metadata.status().ok() && pattern.count != static_cast<std::uint64_t>(config.num_layers)) {
      return metadata.fail("metadata key '" + pattern_key + "' has " + std::to_string(pattern.count) +
                           " entries; there are " + std::to_string(config.num_layers) + " layers");
    }
    for (std::uint64_t layer = 0; layer < pattern.count; ++layer)
      config.windows.push_back(pattern.flag_at(layer) ? window : 0);
    return;
  }
  const int every_nth = architecture.windows == WindowLayers::kAllButEveryNth ? kGemmaWindowPattern : 0;
  const auto pattern = static_cast<int>(metadata.integer_or(pattern_key, every_nth, 0, kMaxLayers));
  for (int layer = 0; layer < config.num_layers; ++layer)
    config.windows.push_back(pattern > 0 && (layer + 1) % pattern == 0 ? 0 : window);
}

void read_sizes(MetadataReader& metadata, const ArchitectureKeys& key, ModelConfig& config) {
  const auto integer = [&](const char* name, std::int64_t max) {
    return static_cast<int>(metadata.integer(key(name), 1, max));
  };
  config.num_layers = integer("block_count", kMaxLayers);
  config.hidden_size = integer("embedding_length", kMaxHiddenSize);
  config.intermediate_size = integer("feed_forward_length", kMaxIntermediateSize);
  config.max_context_tokens = integer("context_length", kMaxContextTokens);
  config.num_heads = integer("attention.head_count", kMaxHeads);
  config.num_kv_heads =
      static_cast<int>(metadata.integer_or(key("attention.head_count_kv"), config.num_heads, 1, kMaxHeads));
  config.rms_norm_eps =
      static_cast<float>(metadata.number(key("attention.layer_norm_rms_epsilon"), 0.0, 1.0));
  const std::int64_t key_dim = metadata.integer_or(
      key("attention.key_length"), config.hidden_size / std::max(config.num_heads, 1), 1, kMaxHeadDim);
  const std::int64_t value_dim = metadata.integer_or(key("attention.value_length"), key_dim, 1, kMaxHeadDim);
  if (key_dim != value_dim) {
    metadata.fail("metadata key '" + key("attention.value_length") + "' is " + std::to_string(value_dim) +
                  "; it must equal the key length " + std::to_string(key_dim));
  }
  config.head_dim = static_cast<int>(key_dim);
  const std::string experts_key = key("expert_count");
  if (metadata.integer_or(experts_key, 0, 0, kMaxIntermediateSize) != 0)
    metadata.fail("metadata key '" + experts_key + "' is not 0: mixtures of experts are not supported");
  for (const char* name : {"attn_logit_softcapping", "final_logit_softcapping"}) {
    if (metadata.number_or(key(name), 0.0, 0.0, 1e9) != 0.0)
      metadata.fail("metadata key '" + key(name) + "' is not 0: it is not supported");
  }
  const auto num_tokens = static_cast<std::int64_t>(metadata.strings("tokenizer.ggml.tokens").count);
  config.vocab_size = static_cast<int>(
      metadata.integer_or(key("vocab_size"), std::min(num_tokens, kMaxVocabSize), 1, kMaxVocabSize));
}

void read_traits(const Architecture& architecture, const std::vector<NamedWeight>& weights,
                 ModelConfig& config) {
  config.activation = architecture.activation;
  config.qkv_bias =
      architecture.qkv_bias == Presence::kAlways ||
      (architecture.qkv_bias == Presence::kConfigured && has_weight(weights, "blk.0.attn_q.bias"));
  config.output_bias = architecture.output_bias && has_weight(weights, "blk.0.attn_output.bias");
  config.qk_norm = architecture.qk_norm;
  config.output_norms = architecture.output_norms;
  config.tied_embeddings = !has_weight(weights, "output.weight");
  for (int layer = 0; layer < config.num_layers && architecture.unrotated_layers; ++layer)
    config.unrotated_layers.push_back((layer + 1) % kUnrotatedInterval == 0);
  if (architecture.scaled_embedding)
    config.embedding_scale = std::sqrt(static_cast<float>(config.hidden_size));
  // GGUF files do not say it: Gemma 3's largest model alone does not scale by its head_dim.
  if (architecture.scaled_embedding && config.num_layers == kLayersOfLargestGemma) {
    config.query_scale = std::sqrt(static_cast<float>(config.head_dim * config.num_heads) /
                                   static_cast<float>(config.hidden_size));
  }
}

}  // namespace

Result<ModelConfig> read_gguf_config(const GgufFile& file, const Architecture& architecture,
                                     const std::vector<NamedWeight>& weights, const std::string& source) {
  MetadataReader metadata(file, source);
  const ArchitectureKeys key{std::string(architecture.gguf_name)};
  ModelConfig config;
  config.architecture = architecture.name;
  config.name = metadata.text_or("general.name", std::filesystem::path(source).stem().string());
  read_sizes(metadata, key, config);
  if (!metadata.status().ok()) return metadata.status();
  read_traits(architecture, weights, config);
  read_windows(metadata, key, architecture, config);
  read_rope(metadata, key, architecture, config);
  if (!metadata.status().ok()) return metadata.status();
  KVCRUSH_RETURN_IF_ERROR(read_rope_tensors(metadata, key, weights, source, config));
  KVCRUSH_RETURN_IF_ERROR(check_config(config, source));
  return config;
}

}  // namespace kvcrush
