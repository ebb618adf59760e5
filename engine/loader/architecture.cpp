#include "engine/loader/architecture.h"

#include <algorithm>
#include <array>
#include <vector>

namespace kvcrush {
namespace {

constexpr std::array<Architecture, 7> kArchitectures = {{
    {.name = "llama",
     .families = "Llama 2, 3, 3.1, 3.2, 3.3; SmolLM, SmolLM2; others of the same build",
     .gguf_name = "llama",
     .model_type = "llama",
     .model_class = "LlamaForCausalLM",
     .config_defaults = R"({"max_position_embeddings": 2048, "rms_norm_eps": 1e-6})",
     .qkv_bias = Presence::kConfigured,
     .output_bias = true,
     .interleaved_in_gguf = true},
    {.name = "smollm3",
     .families = "SmolLM3",
     .gguf_name = "smollm3",
     .model_type = "smollm3",
     .model_class = "SmolLM3ForCausalLM",
     .config_defaults = R"({"max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 2000000.0,
                            "num_key_value_heads": 4, "no_rope_layer_interval": 4,
                            "tie_word_embeddings": true})",
     .qkv_bias = Presence::kConfigured,
     .output_bias = true,
     .interleaved_in_gguf = true,
     .unrotated_layers = true},
    {.name = "mistral",
     .families = "Mistral 7B, Nemo, Small",
     .gguf_name = "llama",
     .model_type = "mistral",
     .model_class = "MistralForCausalLM",
     .config_defaults = R"({"max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "sliding_window": 4096,
                            "num_key_value_heads": 8})",
     .interleaved_in_gguf = true,
     .windows = WindowLayers::kAll},
    {.name = "qwen2",
     .families = "Qwen2, Qwen2.5",
     .gguf_name = "qwen2",
     .model_type = "qwen2",
     .model_class = "Qwen2ForCausalLM",
     .config_defaults = R"({"max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "sliding_window": 4096,
                            "max_window_layers": 28, "num_key_value_heads": 32})",
     .qkv_bias = Presence::kAlways,
     .windows = WindowLayers::kFromConfiguredLayer},
    {.name = "qwen3",
     .families = "Qwen3 (dense)",
     .gguf_name = "qwen3",
     .model_type = "qwen3",
     .model_class = "Qwen3ForCausalLM",
     .config_defaults = R"({"max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "sliding_window": 4096,
                            "max_window_layers": 28, "num_key_value_heads": 32, "head_dim": 128})",
     .qkv_bias = Presence::kConfigured,
     .output_bias = true,
     .qk_norm = true,
     .windows = WindowLayers::kFromConfiguredLayer},
    {.name = "gemma3",
     .families = "Gemma 3 (text)",
     .gguf_name = "gemma3",
     .model_type = "gemma3_text",
     .model_class = "Gemma3ForCausalLM",
     .config_defaults = R"({"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216,
                            "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4,
                            "head_dim": 256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-6,
                            "hidden_activation": "gelu_pytorch_tanh", "rope_theta": 1000000.0,
                            "rope_local_base_freq": 10000.0, "query_pre_attn_scalar": 256,
                            "sliding_window": 4096, "sliding_window_pattern": 6,
                            "tie_word_embeddings": true})",
     .activation = Activation::kGeluTanh,
     .qkv_bias = Presence::kConfigured,
     .output_bias = true,
     .qk_norm = true,
     .output_norms = true,
     .scaled_embedding = true,
     .norms_from_one = true,
     .windows = WindowLayers::kAllButEveryNth},
    {.name = "phi3",
     .families = "Phi-3, Phi-3.5-mini, Phi-4, Phi-4-mini",
     .gguf_name = "phi3",
     .model_type = "phi3",
     .model_class = "Phi3ForCausalLM",
     .config_defaults = R"({"max_position_embeddings": 4096, "original_max_position_embeddings": 4096,
                            "rms_norm_eps": 1e-5})",
     .fused_projections = true,
     .windows = WindowLayers::kAll},
}};

template <typename Name>
std::string join_names(const Name& name) {
  std::vector<std::string_view> seen;
  std::string text;
  for (const Architecture& architecture : kArchitectures) {
    const std::string_view one = name(architecture);
    if (std::find(seen.begin(), seen.end(), one) != seen.end()) continue;
    seen.push_back(one);
    text += (text.empty() ? "" : ", ") + std::string(one);
  }
  return text;
}

std::string traits_of(const Architecture& architecture) {
  std::string text;
  const auto add = [&text](std::string_view trait) {
    text += (text.empty() ? "" : ", ") + std::string(trait);
  };
  if (architecture.qkv_bias == Presence::kAlways) add("q/k/v bias");
  if (architecture.qkv_bias == Presence::kConfigured) add("optional attention bias");
  if (architecture.qk_norm) add("q/k norm");
  if (architecture.output_norms) add("pre and post norms");
  if (architecture.scaled_embedding) add("scaled embedding");
  if (architecture.activation == Activation::kGeluTanh) add("GELU");
  if (architecture.unrotated_layers) add("no RoPE in every fourth layer");
  if (architecture.fused_projections) add("fused projections, partial rotary");
  switch (architecture.windows) {
    case WindowLayers::kNone:
      break;
    case WindowLayers::kAll:
      add("sliding window");
      break;
    case WindowLayers::kFromConfiguredLayer:
      add("sliding window in upper layers where configured");
      break;
    case WindowLayers::kAllButEveryNth:
      add("sliding window but for every sixth layer");
      break;
  }
  return text;
}

}  // namespace

std::span<const Architecture> architectures() {
  return kArchitectures;
}

const Architecture* architecture_of_gguf(std::string_view name) {
  const auto* const found =
      std::find_if(kArchitectures.begin(), kArchitectures.end(),
                   [name](const Architecture& architecture) { return architecture.gguf_name == name; });
  return found == kArchitectures.end() ? nullptr : found;
}

const Architecture* architecture_of_model_type(std::string_view model_type) {
  const auto* const found = std::find_if(
      kArchitectures.begin(), kArchitectures.end(),
      [model_type](const Architecture& architecture) { return architecture.model_type == model_type; });
  return found == kArchitectures.end() ? nullptr : found;
}

std::string known_gguf_architectures() {
  return join_names([](const Architecture& architecture) { return architecture.gguf_name; });
}

std::string known_model_types() {
  return join_names([](const Architecture& architecture) { return architecture.model_type; });
}

std::string architecture_table() {
  std::string text =
      "| families | GGUF architecture | config.json model_type | of its own |\n|---|---|---|---|\n";
  for (const Architecture& architecture : kArchitectures) {
    text += "| " + std::string(architecture.families) + " | `" + std::string(architecture.gguf_name) +
            "` | `" + std::string(architecture.model_type) + "` | " + traits_of(architecture) + " |\n";
  }
  return text;
}

}  // namespace kvcrush
