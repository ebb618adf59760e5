#include "engine/model/rope_table.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace kvcrush {

namespace {

// Llama 3.1: wavelengths beyond the trained context are stretched by `factor`, short ones kept, those between
// interpolated.
double scale_llama3(const RopeConfig& rope, double inverse_frequency) {
  const double wavelength = 2.0 * std::numbers::pi / inverse_frequency;
  const double low = rope.original_max_position / rope.low_freq_factor;
  const double high = rope.original_max_position / rope.high_freq_factor;
  if (wavelength < high) return inverse_frequency;
  if (wavelength > low) return inverse_frequency / rope.factor;
  const double smooth = (rope.original_max_position / wavelength - rope.low_freq_factor) /
                        (rope.high_freq_factor - rope.low_freq_factor);
  return (1.0 - smooth) * inverse_frequency / rope.factor + smooth * inverse_frequency;
}

// YaRN (arXiv 2309.00071): dimensions that turn more than beta_fast times over the trained context are kept,
// those that turn less than beta_slow times interpolated, with a linear ramp between.
double scale_yarn(const RopeConfig& rope, double inverse_frequency, int index, int head_dim) {
  const auto dimension_of = [&](double rotations) {
    return head_dim * std::log(rope.original_max_position / (rotations * 2.0 * std::numbers::pi)) /
           (2.0 * std::log(rope.base));
  };
  const double first = std::max(std::floor(dimension_of(rope.beta_fast)), 0.0);
  double last = std::min(std::ceil(dimension_of(rope.beta_slow)), head_dim - 1.0);
  if (last == first) last += 0.001;
  const double ramp = std::clamp((index - first) / (last - first), 0.0, 1.0);
  return inverse_frequency / rope.factor * ramp + inverse_frequency * (1.0 - ramp);
}

double attention_factor(const RopeConfig& rope) {
  if (rope.type != RopeScalingType::kYarn) return 1.0;
  if (rope.attention_factor > 0.0) return rope.attention_factor;
  return rope.factor > 1.0 ? 0.1 * std::log(rope.factor) + 1.0 : 1.0;
}

}  // namespace

std::vector<float> rope_inverse_frequencies(const RopeConfig& rope, int head_dim) {
  std::vector<float> result(head_dim / 2);
  for (int i = 0; i < head_dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    double frequency = 1.0F / std::pow(static_cast<float>(rope.base), exponent);
    switch (rope.type) {
      case RopeScalingType::kNone:
        break;
      case RopeScalingType::kLinear:
        frequency /= rope.factor;
        break;
      case RopeScalingType::kLlama3:
        frequency = scale_llama3(rope, frequency);
        break;
      case RopeScalingType::kYarn:
        frequency = scale_yarn(rope, frequency, i, head_dim);
        break;
    }
    if (!rope.frequency_divisors.empty()) frequency /= rope.frequency_divisors[i];
    result[i] = static_cast<float>(frequency);
  }
  return result;
}

std::vector<float> make_rope_table(const RopeConfig& rope, int head_dim, int num_positions) {
  const std::vector<float> inverse = rope_inverse_frequencies(rope, head_dim);
  const auto magnitude = static_cast<float>(attention_factor(rope));
  const std::size_t half = inverse.size();
  std::vector<float> table(static_cast<std::size_t>(num_positions) * head_dim);
  for (int position = 0; position < num_positions; ++position) {
    float* row = table.data() + static_cast<std::size_t>(position) * head_dim;
    for (std::size_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(position) * inverse[i];
      row[i] = std::cos(angle) * magnitude;
      row[half + i] = std::sin(angle) * magnitude;
    }
  }
  return table;
}

}  // namespace kvcrush
