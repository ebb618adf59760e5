#include "engine/loader/config_check.h"

#include <initializer_list>
#include <vector>

namespace kvcrush {
namespace {

struct Bound {
  const char* name;
  double value;
  double min;
  double max;
};

Status check_bounds(std::initializer_list<Bound> bounds, const std::string& source) {
  for (const Bound& bound : bounds) {
    if (bound.value >= bound.min && bound.value <= bound.max) continue;  // false for NaN
    return invalid_argument(source + ": " + bound.name + " is " + std::to_string(bound.value) +
                            "; allowed: " + std::to_string(bound.min) + " to " + std::to_string(bound.max));
  }
  return {};
}

Status check_divisors(const std::vector<float>& divisors, int rotary_dim, const std::string& source) {
  if (divisors.empty()) return {};
  if (divisors.size() != static_cast<std::size_t>(rotary_dim) / 2) {
    return invalid_argument(source + ": " + std::to_string(divisors.size()) +
                            " rope frequency divisors; half of what is rotated of a head, " +
                            std::to_string(rotary_dim / 2) + ", are expected");
  }
  for (const float divisor : divisors)
    KVCRUSH_RETURN_IF_ERROR(check_bounds({{"rope frequency divisor", divisor, 1e-6, 1e6}}, source));
  return {};
}

Status check_llama3(const RopeConfig& rope, const std::string& source) {
  if (rope.low_freq_factor > 0 && rope.high_freq_factor > rope.low_freq_factor) return {};
  return invalid_argument(source + ": rope high_freq_factor " + std::to_string(rope.high_freq_factor) +
                          " must exceed low_freq_factor " + std::to_string(rope.low_freq_factor) +
                          ", which must be positive");
}

Status check_yarn(const RopeConfig& rope, const std::string& source) {
  if (rope.beta_slow > 0 && rope.beta_fast > rope.beta_slow) return {};
  return invalid_argument(source + ": rope beta_fast " + std::to_string(rope.beta_fast) +
                          " must exceed beta_slow " + std::to_string(rope.beta_slow) +
                          ", which must be positive");
}

Status check_rope(const RopeConfig& rope, int head_dim, const std::string& source) {
  KVCRUSH_RETURN_IF_ERROR(check_bounds({{"rope base", rope.base, 1.0, kMaxRopeBase}}, source));
  const int rotary_dim = rope.rotated_channels(head_dim);
  if (rotary_dim < 2 || rotary_dim > head_dim || rotary_dim % 2 != 0) {
    return invalid_argument(source + ": " + std::to_string(rotary_dim) + " channels of a head are rotated; " +
                            "an even number of 2 to head_dim = " + std::to_string(head_dim) + " is expected");
  }
  KVCRUSH_RETURN_IF_ERROR(check_divisors(rope.frequency_divisors, rotary_dim, source));
  KVCRUSH_RETURN_IF_ERROR(check_divisors(rope.long_frequency_divisors, rotary_dim, source));
  if (rope.type == RopeScalingType::kNone) return {};
  KVCRUSH_RETURN_IF_ERROR(check_bounds({{"rope scaling factor", rope.factor, 1.0, kMaxRopeFactor}}, source));
  if (rope.type == RopeScalingType::kLinear) return {};
  KVCRUSH_RETURN_IF_ERROR(check_bounds(
      {{"rope original context", static_cast<double>(rope.original_max_position), 1.0, kMaxContextTokens},
       {"rope attention factor", rope.attention_factor, 0.0, kMaxRopeFactor}},
      source));
  if (rope.type == RopeScalingType::kDynamic && rotary_dim < 4)
    return invalid_argument(source + ": dynamic rope scaling of 2 channels is not defined");
  if (rope.type == RopeScalingType::kLlama3) return check_llama3(rope, source);
  if (rope.type == RopeScalingType::kYarn) return check_yarn(rope, source);
  if (rope.type == RopeScalingType::kLongRope && rope.long_frequency_divisors.empty())
    return invalid_argument(source + ": longrope has no long factors");
  return {};
}

// One order of a head's channels serves all layers.
Status check_window_rope(const ModelConfig& config, const std::string& source) {
  KVCRUSH_RETURN_IF_ERROR(check_rope(config.window_rope, config.head_dim, source));
  if (config.rope.has_long_positions() || config.window_rope.has_long_positions())
    return invalid_argument(source + ": longrope beside another RoPE is not supported");
  const int rotary_dim = config.rope.rotated_channels(config.head_dim);
  if (config.window_rope.rotated_channels(config.head_dim) == rotary_dim) return {};
  return invalid_argument(source + ": layers with a window rotate " +
                          std::to_string(config.window_rope.rotary_dim) + " channels of a head, others " +
                          std::to_string(rotary_dim) + "; the same number is expected");
}

}  // namespace

Status check_config(const ModelConfig& config, const std::string& source) {
  const auto bound = [](const char* name, int value, std::int64_t max) {
    return Bound{name, static_cast<double>(value), 1.0, static_cast<double>(max)};
  };
  KVCRUSH_RETURN_IF_ERROR(
      check_bounds({bound("number of layers", config.num_layers, kMaxLayers),
                    bound("hidden size", config.hidden_size, kMaxHiddenSize),
                    bound("intermediate size", config.intermediate_size, kMaxIntermediateSize),
                    bound("number of heads", config.num_heads, kMaxHeads),
                    bound("number of KV heads", config.num_kv_heads, kMaxHeads),
                    bound("head_dim", config.head_dim, kMaxHeadDim),
                    bound("vocabulary size", config.vocab_size, kMaxVocabSize),
                    bound("context length", config.max_context_tokens, kMaxContextTokens),
                    {"RMS norm epsilon", config.rms_norm_eps, 0.0, 1.0}},
                   source));
  if (config.num_heads % config.num_kv_heads != 0) {
    return invalid_argument(source + ": number of heads " + std::to_string(config.num_heads) +
                            " is not a multiple of the number of KV heads " +
                            std::to_string(config.num_kv_heads));
  }
  if (config.head_dim % 2 != 0) {
    return invalid_argument(source + ": head_dim is " + std::to_string(config.head_dim) +
                            "; it must be even to be rotated");
  }
  KVCRUSH_RETURN_IF_ERROR(check_rope(config.rope, config.head_dim, source));
  return config.has_window_rope ? check_window_rope(config, source) : Status();
}

}  // namespace kvcrush
