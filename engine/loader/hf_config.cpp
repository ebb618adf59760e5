#include "engine/loader/hf_config.h"

#include <algorithm>

#include "engine/core/readable.h"
#include "engine/loader/config_check.h"
#include "engine/loader/json_fields.h"

namespace kvcrush {
namespace {

using nlohmann::json;

constexpr const char* kArchitecture = "llama";

void check_supported(JsonFields& fields) {
  const std::string model_type = fields.text_or("model_type", "");
  if (model_type != kArchitecture) {
    return fields.fail("field 'model_type' is " + in_quotes(model_type) + "; supported: " + kArchitecture);
  }
  if (const json* architectures = fields.find("architectures")) {
    const bool known = architectures->is_array() && std::find(architectures->begin(), architectures->end(),
                                                              "LlamaForCausalLM") != architectures->end();
    if (!known) return fields.fail("field 'architectures' does not list the supported LlamaForCausalLM");
  }
  const std::string activation = fields.text_or("hidden_act", "silu");
  if (activation != "silu")
    return fields.fail("field 'hidden_act' is " + in_quotes(activation) + "; supported: silu");
  if (fields.flag_or("mlp_bias", false)) return fields.fail("field 'mlp_bias' is true; supported: false");
  if (fields.has("quantization_config"))
    return fields.fail("field 'quantization_config' is set; it is not supported");
  if (fields.number_or("partial_rotary_factor", 1.0, 0.0, 1.0) != 1.0) {
    fields.fail("field 'partial_rotary_factor' is not 1; rotating a part of a head is not supported");
  }
}

void read_llama3(JsonFields& fields, RopeConfig& rope) {
  rope.type = RopeScalingType::kLlama3;
  rope.factor = fields.number("factor", 1.0, kMaxRopeFactor);
  rope.low_freq_factor = fields.number("low_freq_factor", 0.0, kMaxRopeFactor);
  rope.high_freq_factor = fields.number("high_freq_factor", 0.0, kMaxRopeFactor);
  rope.original_max_position =
      static_cast<int>(fields.integer("original_max_position_embeddings", 1, kMaxContextTokens));
}

void read_yarn(JsonFields& fields, int max_context_tokens, RopeConfig& rope) {
  rope.type = RopeScalingType::kYarn;
  rope.factor = fields.number("factor", 1.0, kMaxRopeFactor);
  rope.original_max_position = static_cast<int>(
      fields.integer_or("original_max_position_embeddings", max_context_tokens, 1, kMaxContextTokens));
  rope.beta_fast = fields.number_or("beta_fast", rope.beta_fast, 0.0, kMaxRopeFactor);
  rope.beta_slow = fields.number_or("beta_slow", rope.beta_slow, 0.0, kMaxRopeFactor);
  rope.attention_factor = fields.number_or("attention_factor", 0.0, 0.0, kMaxRopeFactor);
  for (const char* key : {"mscale", "mscale_all_dim"}) {
    if (fields.has(key)) fields.fail("field '" + std::string(key) + "' of yarn scaling is not supported");
  }
  if (!fields.flag_or("truncate", true))
    fields.fail("field 'truncate' of yarn scaling is false; supported: true");
}

// `scaling` is config.json's rope_scaling, or its newer rope_parameters, which carry the base as well.
Status read_rope(const json& scaling, const std::string& source, int max_context_tokens, RopeConfig& rope) {
  JsonFields fields(scaling, source);
  rope.base = fields.number_or("rope_theta", rope.base, 1.0, kMaxRopeBase);
  if (fields.number_or("partial_rotary_factor", 1.0, 0.0, 1.0) != 1.0) {
    fields.fail("field 'partial_rotary_factor' is not 1; rotating a part of a head is not supported");
  }
  const std::string type = fields.text_or("rope_type", fields.text_or("type", "default"));
  if (type == "linear") {
    rope.type = RopeScalingType::kLinear;
    rope.factor = fields.number("factor", 1.0, kMaxRopeFactor);
  } else if (type == "llama3") {
    read_llama3(fields, rope);
  } else if (type == "yarn") {
    read_yarn(fields, max_context_tokens, rope);
  } else if (type != "default") {
    fields.fail("rope type is " + in_quotes(type) + "; supported: default, linear, llama3, yarn");
  }
  return fields.status();
}

}  // namespace

Result<HfConfig> read_hf_config(const json& config, const std::string& source) {
  JsonFields fields(config, source);
  check_supported(fields);
  if (!fields.status().ok()) return fields.status();
  const auto integer = [&](const char* key, std::int64_t max) {
    return static_cast<int>(fields.integer(key, 1, max));
  };
  const auto integer_or = [&](const char* key, int fallback, std::int64_t max) {
    return static_cast<int>(fields.integer_or(key, fallback, 1, max));
  };
  HfConfig result;
  ModelConfig& model = result.model;
  model.architecture = kArchitecture;
  model.num_layers = integer("num_hidden_layers", kMaxLayers);
  model.hidden_size = integer("hidden_size", kMaxHiddenSize);
  model.intermediate_size = integer("intermediate_size", kMaxIntermediateSize);
  model.num_heads = integer("num_attention_heads", kMaxHeads);
  model.num_kv_heads = integer_or("num_key_value_heads", model.num_heads, kMaxHeads);
  model.head_dim = integer_or("head_dim", model.hidden_size / model.num_heads, kMaxHeadDim);
  model.vocab_size = integer("vocab_size", kMaxVocabSize);
  model.max_context_tokens = integer_or("max_position_embeddings", 2048, kMaxContextTokens);
  model.rms_norm_eps = static_cast<float>(fields.number_or("rms_norm_eps", 1e-6, 0.0, 1.0));
  model.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
  model.rope.base = fields.number_or("rope_theta", model.rope.base, 1.0, kMaxRopeBase);
  result.attention_bias = fields.flag_or("attention_bias", false);
  if (!fields.status().ok()) return fields.status();
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const json* scaling = fields.find(key);
    if (scaling == nullptr) continue;
    KVCRUSH_RETURN_IF_ERROR(read_rope(*scaling, source + ": " + key, model.max_context_tokens, model.rope));
    break;
  }
  KVCRUSH_RETURN_IF_ERROR(check_config(model, source));
  return result;
}

}  // namespace kvcrush
