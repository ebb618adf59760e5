#include "engine/loader/hf_rope.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/core/readable.h"
#include "engine/loader/config_check.h"
#include "engine/loader/json_fields.h"

namespace kvcrush {
namespace {

using nlohmann::json;

constexpr const char* kOriginal = "original_max_position_embeddings";

bool has(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && !found->is_null();
}

// What transformers makes of it: the length beside the scaling goes before the one in it.
void read_original(JsonFields& fields, const json& config, int fallback, RopeConfig& rope) {
  JsonFields around(config, "config.json");
  rope.original_max_position =
      static_cast<int>(around.has(kOriginal) ? around.integer(kOriginal, 1, kMaxContextTokens)
                                             : fields.integer_or(kOriginal, fallback, 1, kMaxContextTokens));
  if (!around.status().ok()) fields.fail(around.status().message());
}

void read_llama3(JsonFields& fields, RopeConfig& rope) {
  rope.type = RopeScalingType::kLlama3;
  rope.factor = fields.number("factor", 1.0, kMaxRopeFactor);
  rope.low_freq_factor = fields.number("low_freq_factor", 0.0, kMaxRopeFactor);
  rope.high_freq_factor = fields.number("high_freq_factor", 0.0, kMaxRopeFactor);
}

void read_yarn(JsonFields& fields, RopeConfig& rope) {
  rope.type = RopeScalingType::kYarn;
  rope.factor = fields.number("factor", 1.0, kMaxRopeFactor);
  rope.beta_fast = fields.number_or("beta_fast", rope.beta_fast, 0.0, kMaxRopeFactor);
  rope.beta_slow = fields.number_or("beta_slow", rope.beta_slow, 0.0, kMaxRopeFactor);
  rope.attention_factor = fields.number_or("attention_factor", 0.0, 0.0, kMaxRopeFactor);
  rope.truncate = fields.flag_or("truncate", true);
  const double mscale = fields.number_or("mscale", 0.0, 0.0, kMaxRopeFactor);
  const double mscale_all_dim = fields.number_or("mscale_all_dim", 0.0, 0.0, kMaxRopeFactor);
  if (rope.attention_factor > 0.0 || mscale == 0.0 || mscale_all_dim == 0.0) return;
  const double growth = 0.1 * std::log(rope.factor);
  rope.attention_factor = (mscale * growth + 1.0) / (mscale_all_dim * growth + 1.0);
}

std::vector<float> read_factors(JsonFields& fields, const char* key, int rotary_dim) {
  const json* list = fields.find(key);
  const auto expected = static_cast<std::size_t>(rotary_dim) / 2;
  const bool numbers =
      list != nullptr && list->is_array() &&
      std::all_of(list->begin(), list->end(), [](const json& factor) { return factor.is_number(); });
  if (!numbers || list->size() != expected) {
    fields.fail("field '" + std::string(key) + "' must be an array of " + std::to_string(expected) +
                " numbers, half of what is rotated of a head");
    return {};
  }
  return list->get<std::vector<float>>();
}

void read_longrope(JsonFields& fields, int max_context_tokens, RopeConfig& rope) {
  rope.type = RopeScalingType::kLongRope;
  const double stretch = static_cast<double>(max_context_tokens) / std::max(rope.original_max_position, 1);
  rope.factor = fields.number_or("factor", std::max(1.0, stretch), 1.0, kMaxRopeFactor);
  rope.attention_factor = fields.number_or("attention_factor", 0.0, 0.0, kMaxRopeFactor);
  for (const char* key : {"short_mscale", "long_mscale"}) {
    if (fields.has(key)) fields.fail("field '" + std::string(key) + "' of longrope is not supported");
  }
  rope.frequency_divisors = read_factors(fields, "short_factor", rope.rotary_dim);
  rope.long_frequency_divisors = read_factors(fields, "long_factor", rope.rotary_dim);
}

// `scaling` is one entry of rope_parameters, or rope_scaling.
Status read_scaling(const json& scaling, const json& config, const std::string& source, ModelConfig& model,
                    RopeConfig& rope) {
  JsonFields fields(scaling, source);
  if (!fields.status().ok()) return fields.status();
  rope.base = fields.number_or("rope_theta", rope.base, 1.0, kMaxRopeBase);
  JsonFields holder(has(scaling, "partial_rotary_factor") ? scaling : config, source);
  const double part = holder.number_or("partial_rotary_factor", 1.0, 0.0, 1.0);
  if (!holder.status().ok()) return holder.status();
  rope.rotary_dim = static_cast<int>(model.head_dim * part);
  std::string type = fields.text_or("rope_type", fields.text_or("type", "default"));
  // Names that it had in the first Phi-3 files.
  if (type == "su" || (type == "yarn" && fields.has("long_factor"))) type = "longrope";
  if (type == "llama3" || type == "yarn" || type == "longrope")
    read_original(fields, config, model.max_context_tokens, rope);
  if (type == "linear") {
    rope.type = RopeScalingType::kLinear;
    rope.factor = fields.number("factor", 1.0, kMaxRopeFactor);
  } else if (type == "dynamic") {
    rope.type = RopeScalingType::kDynamic;
    rope.factor = fields.number("factor", 1.0, kMaxRopeFactor);
    rope.original_max_position = model.max_context_tokens;
  } else if (type == "llama3") {
    read_llama3(fields, rope);
  } else if (type == "yarn") {
    read_yarn(fields, rope);
  } else if (type == "longrope") {
    read_longrope(fields, model.max_context_tokens, rope);
  } else if (type != "default") {
    fields.fail("rope type is " + in_quotes(type) +
                "; supported: default, linear, dynamic, llama3, yarn, longrope");
  }
  return fields.status();
}

// Dynamic and yarn scaling name the trained context, not the one they reach.
int reached_context(const RopeConfig& rope, int max_context_tokens) {
  if (rope.type != RopeScalingType::kDynamic && rope.type != RopeScalingType::kYarn)
    return max_context_tokens;
  const double reached = rope.factor * rope.original_max_position;
  return static_cast<int>(
      std::clamp(reached, static_cast<double>(max_context_tokens), static_cast<double>(kMaxContextTokens)));
}

Status read_by_layer_type(const json& parameters, const json& config, const std::string& source,
                          ModelConfig& model) {
  for (const char* type : {"full_attention", "sliding_attention"}) {
    const auto found = parameters.find(type);
    if (found == parameters.end() || found->is_null()) continue;
    const bool window = type[0] == 's';
    KVCRUSH_RETURN_IF_ERROR(
        read_scaling(*found, config, source + ": " + type, model, window ? model.window_rope : model.rope));
    if (window) model.has_window_rope = true;
  }
  return {};
}

}  // namespace

Status read_hf_rope(const json& config, const std::string& source, ModelConfig& model) {
  JsonFields fields(config, source);
  model.rope.base = fields.number_or("rope_theta", model.rope.base, 1.0, kMaxRopeBase);
  if (fields.has("rope_local_base_freq")) {  // of layers with a window; the scaling is not theirs
    model.has_window_rope = true;
    model.window_rope.base = fields.number("rope_local_base_freq", 1.0, kMaxRopeBase);
  }
  if (!fields.status().ok()) return fields.status();
  const std::string key = fields.has("rope_scaling") ? "rope_scaling" : "rope_parameters";
  const json none = json::object();
  const json& scaling = fields.has(key.c_str()) ? *fields.find(key.c_str()) : none;
  if (scaling.is_object() && scaling.contains("full_attention")) {
    KVCRUSH_RETURN_IF_ERROR(read_by_layer_type(scaling, config, source + ": " + key, model));
  } else {
    KVCRUSH_RETURN_IF_ERROR(read_scaling(scaling, config, source + ": " + key, model, model.rope));
  }
  model.max_context_tokens = reached_context(model.rope, model.max_context_tokens);
  return {};
}

}  // namespace kvcrush
