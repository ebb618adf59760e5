#include "engine/loader/hf_config.h"

#include <algorithm>
#include <cmath>

#include "engine/core/readable.h"
#include "engine/loader/config_check.h"
#include "engine/loader/hf_rope.h"
#include "engine/loader/json_fields.h"

namespace kvcrush {
namespace {

using nlohmann::json;

// Gemma 3's larger models see pictures; their text model is what is served.
constexpr std::string_view kGemmaWithPictures = "gemma3";
constexpr std::string_view kGemmaWithPicturesClass = "Gemma3ForConditionalGeneration";

std::string_view activation_name(Activation activation) {
  return activation == Activation::kSilu ? "silu" : "gelu_pytorch_tanh";
}

void check_class(JsonFields& fields, std::string_view model_class) {
  const json* classes = fields.find("architectures");
  if (classes == nullptr) return;
  if (classes->is_array() && std::find(classes->begin(), classes->end(), model_class) != classes->end())
    return;
  fields.fail("field 'architectures' does not list the supported " + std::string(model_class));
}

void check_supported(JsonFields& fields, const Architecture& architecture) {
  const std::string expected(activation_name(architecture.activation));
  for (const char* key : {"hidden_act", "hidden_activation"}) {
    const std::string activation = fields.text_or(key, expected);
    if (activation != expected)
      fields.fail("field '" + std::string(key) + "' is " + in_quotes(activation) +
                  "; supported: " + expected);
  }
  for (const char* key : {"mlp_bias", "use_bidirectional_attention"}) {
    if (fields.flag_or(key, false)) fields.fail("field '" + std::string(key) + "' is true; supported: false");
  }
  for (const char* key :
       {"quantization_config", "attn_logit_softcapping", "final_logit_softcapping", "num_experts"}) {
    if (fields.has(key)) fields.fail("field '" + std::string(key) + "' is set; it is not supported");
  }
}

// Whether each layer has a window, by config.json's own list.
std::vector<bool> windowed_by_list(JsonFields& fields, const json& list, int num_layers) {
  std::vector<bool> windowed;
  const bool long_enough = list.is_array() && list.size() >= static_cast<std::size_t>(num_layers);
  if (!long_enough)
    fields.fail("field 'layer_types' must be an array of " + std::to_string(num_layers) + " names");
  for (int layer = 0; layer < num_layers && long_enough; ++layer) {
    const json& type = list[static_cast<std::size_t>(layer)];
    windowed.push_back(type == "sliding_attention");
    if (type == "sliding_attention" || type == "full_attention") continue;
    fields.fail("field 'layer_types' has " + type.dump() + " for layer " + std::to_string(layer) +
                "; supported: full_attention, sliding_attention");
    return {};
  }
  return windowed;
}

std::vector<bool> windowed_by_rule(JsonFields& fields, WindowLayers rule, int num_layers) {
  std::vector<bool> windowed(static_cast<std::size_t>(num_layers), rule == WindowLayers::kAll);
  if (rule == WindowLayers::kFromConfiguredLayer && fields.flag_or("use_sliding_window", false)) {
    const std::int64_t first = fields.integer("max_window_layers", 0, kMaxLayers);
    for (std::int64_t layer = first; layer < num_layers; ++layer)
      windowed[static_cast<std::size_t>(layer)] = true;
  } else if (rule == WindowLayers::kAllButEveryNth) {
    const std::int64_t pattern = fields.integer("sliding_window_pattern", 1, kMaxLayers);
    for (int layer = 0; layer < num_layers; ++layer)
      windowed[static_cast<std::size_t>(layer)] = (layer + 1) % pattern != 0;
  }
  return windowed;
}

void read_windows(JsonFields& fields, const Architecture& architecture, ModelConfig& model) {
  const WindowLayers rule = architecture.windows;
  if (rule == WindowLayers::kNone || !fields.has("sliding_window")) return;
  const bool on = rule != WindowLayers::kFromConfiguredLayer || fields.flag_or("use_sliding_window", false);
  if (!on) return;
  const auto window = static_cast<int>(fields.integer("sliding_window", 1, kMaxContextTokens));
  // Phi-3's and Mistral's layers are all alike, whatever a list says.
  const json* list = rule == WindowLayers::kAll ? nullptr : fields.find("layer_types");
  const std::vector<bool> windowed = list != nullptr ? windowed_by_list(fields, *list, model.num_layers)
                                                     : windowed_by_rule(fields, rule, model.num_layers);
  for (const bool has_window : windowed) model.windows.push_back(has_window ? window : 0);
}

void read_traits(JsonFields& fields, const Architecture& architecture, ModelConfig& model) {
  const bool configured = fields.flag_or("attention_bias", false);
  model.activation = architecture.activation;
  model.qkv_bias = architecture.qkv_bias == Presence::kAlways ||
                   (architecture.qkv_bias == Presence::kConfigured && configured);
  model.output_bias = architecture.output_bias && configured;
  model.qk_norm = architecture.qk_norm;
  model.output_norms = architecture.output_norms;
  if (architecture.scaled_embedding) model.embedding_scale = std::sqrt(static_cast<float>(model.hidden_size));
  if (fields.has("query_pre_attn_scalar")) {
    const double scalar = fields.number("query_pre_attn_scalar", 1e-3, 1e9);
    model.query_scale = static_cast<float>(std::sqrt(model.head_dim / scalar));
  }
}

void read_unrotated_layers(JsonFields& fields, ModelConfig& model) {
  const auto count = static_cast<std::size_t>(model.num_layers);
  const json* list = fields.find("no_rope_layers");  // 1: with RoPE
  if (list == nullptr) {
    const std::int64_t interval = fields.integer("no_rope_layer_interval", 1, kMaxLayers);
    for (int layer = 0; layer < model.num_layers; ++layer)
      model.unrotated_layers.push_back((layer + 1) % interval == 0);
    return;
  }
  const bool numbers =
      list->is_array() && list->size() == count &&
      std::all_of(list->begin(), list->end(), [](const json& flag) { return flag == 0 || flag == 1; });
  if (!numbers)
    return fields.fail("field 'no_rope_layers' must be an array of " + std::to_string(count) +
                       " numbers, 0 or 1");
  for (const json& flag : *list) model.unrotated_layers.push_back(flag == 0);
}

Status read_numbers(const json& config, const Architecture& architecture, const std::string& source,
                    ModelConfig& model) {
  JsonFields fields(config, source);
  check_supported(fields, architecture);
  if (!fields.status().ok()) return fields.status();
  const auto integer = [&](const char* key, std::int64_t max) {
    return static_cast<int>(fields.integer(key, 1, max));
  };
  const auto integer_or = [&](const char* key, int fallback, std::int64_t max) {
    return static_cast<int>(fields.integer_or(key, fallback, 1, max));
  };
  model.architecture = architecture.name;
  model.num_layers = integer("num_hidden_layers", kMaxLayers);
  model.hidden_size = integer("hidden_size", kMaxHiddenSize);
  model.intermediate_size = integer("intermediate_size", kMaxIntermediateSize);
  model.num_heads = integer("num_attention_heads", kMaxHeads);
  model.num_kv_heads = integer_or("num_key_value_heads", model.num_heads, kMaxHeads);
  model.head_dim = integer_or("head_dim", model.hidden_size / std::max(model.num_heads, 1), kMaxHeadDim);
  model.vocab_size = integer("vocab_size", kMaxVocabSize);
  model.max_context_tokens = integer("max_position_embeddings", kMaxContextTokens);
  model.rms_norm_eps = static_cast<float>(fields.number("rms_norm_eps", 0.0, 1.0));
  model.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
  if (!fields.status().ok()) return fields.status();
  read_traits(fields, architecture, model);
  read_windows(fields, architecture, model);
  if (architecture.unrotated_layers) read_unrotated_layers(fields, model);
  if (!fields.status().ok()) return fields.status();
  return read_hf_rope(config, source, model);
}

}  // namespace

Result<HfConfig> read_hf_config(const json& config, const std::string& source) {
  JsonFields fields(config, source);
  const std::string model_type = fields.text_or("model_type", "");
  HfConfig result;
  result.text_part = model_type == kGemmaWithPictures;
  result.architecture = architecture_of_model_type(result.text_part ? "gemma3_text" : model_type);
  if (result.architecture == nullptr) {
    fields.fail("field 'model_type' is " + in_quotes(model_type) + "; supported: " + known_model_types() +
                ", " + std::string(kGemmaWithPictures));
  } else {
    check_class(fields, result.text_part ? kGemmaWithPicturesClass : result.architecture->model_class);
  }
  if (result.text_part && !fields.has("text_config")) fields.fail("field 'text_config' is missing");
  if (!fields.status().ok()) return fields.status();
  const json& text = result.text_part ? config["text_config"] : config;
  if (!text.is_object()) return invalid_argument(source + ": field 'text_config' is no object");
  json complete = json::parse(result.architecture->config_defaults);
  complete.update(text);
  const std::string where = result.text_part ? source + ": text_config" : source;
  KVCRUSH_RETURN_IF_ERROR(read_numbers(complete, *result.architecture, where, result.model));
  KVCRUSH_RETURN_IF_ERROR(check_config(result.model, source));
  return result;
}

}  // namespace kvcrush
