#include "engine/loader/config_check.h"

#include <initializer_list>

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

Status check_rope(const RopeConfig& rope, int head_dim, const std::string& source) {
  KVCRUSH_RETURN_IF_ERROR(check_bounds({{"rope base", rope.base, 1.0, kMaxRopeBase}}, source));
  if (!rope.frequency_divisors.empty()) {
    if (rope.frequency_divisors.size() != static_cast<std::size_t>(head_dim) / 2) {
      return invalid_argument(source + ": " + std::to_string(rope.frequency_divisors.size()) +
                              " rope frequency divisors; head_dim / 2 = " + std::to_string(head_dim / 2) +
                              " are expected");
    }
    for (const float divisor : rope.frequency_divisors) {
      KVCRUSH_RETURN_IF_ERROR(check_bounds({{"rope frequency divisor", divisor, 1e-6, 1e6}}, source));
    }
  }
  if (rope.type == RopeScalingType::kNone) return {};
  KVCRUSH_RETURN_IF_ERROR(check_bounds({{"rope scaling factor", rope.factor, 1.0, kMaxRopeFactor}}, source));
  if (rope.type == RopeScalingType::kLinear) return {};
  KVCRUSH_RETURN_IF_ERROR(check_bounds(
      {{"rope original context", static_cast<double>(rope.original_max_position), 1.0, kMaxContextTokens}},
      source));
  if (rope.type == RopeScalingType::kLlama3) {
    if (rope.low_freq_factor > 0 && rope.high_freq_factor > rope.low_freq_factor) return {};
    return invalid_argument(source + ": rope high_freq_factor " + std::to_string(rope.high_freq_factor) +
                            " must exceed low_freq_factor " + std::to_string(rope.low_freq_factor) +
                            ", which must be positive");
  }
  KVCRUSH_RETURN_IF_ERROR(
      check_bounds({{"rope attention factor", rope.attention_factor, 0.0, kMaxRopeFactor}}, source));
  if (rope.beta_slow > 0 && rope.beta_fast > rope.beta_slow) return {};
  return invalid_argument(source + ": rope beta_fast " + std::to_string(rope.beta_fast) +
                          " must exceed beta_slow " + std::to_string(rope.beta_slow) +
                          ", which must be positive");
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
  return check_rope(config.rope, config.head_dim, source);
}

}  // namespace kvcrush
