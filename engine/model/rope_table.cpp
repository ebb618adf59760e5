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
double scale_yarn(const RopeConfig& rope, double inverse_frequency, int index, int rotary_dim) {
  const auto dimension_of = [&](double rotations) {
    return rotary_dim * std::log(rope.original_max_position / (rotations * 2.0 * std::numbers::pi)) /
           (2.0 * std::log(rope.base));
  };
  double first = dimension_of(rope.beta_fast);
  double last = dimension_of(rope.beta_slow);
  if (rope.truncate) {
    first = std::floor(first);
    last = std::ceil(last);
  }
  first = std::max(first, 0.0);
  last = std::min(last, rotary_dim - 1.0);
  if (last == first) last += 0.001;
  const double ramp = std::clamp((index - first) / (last - first), 0.0, 1.0);
  return inverse_frequency / rope.factor * ramp + inverse_frequency * (1.0 - ramp);
}

// The factor of cosines and sines.
double attention_factor(const RopeConfig& rope) {
  if (rope.type != RopeScalingType::kYarn && rope.type != RopeScalingType::kLongRope) return 1.0;
  if (rope.attention_factor > 0.0) return rope.attention_factor;
  if (rope.factor <= 1.0) return 1.0;
  if (rope.type == RopeScalingType::kYarn) return 0.1 * std::log(rope.factor) + 1.0;
  return std::sqrt(1.0 + std::log(rope.factor) / std::log(rope.original_max_position));
}

// NTK-aware scaling follows the length; a server has many at a time over one cache, so it takes the longest
// that it serves.
double dynamic_base(const RopeConfig& rope, int rotary_dim, int num_positions) {
  const double length = std::max(num_positions, rope.original_max_position);
  const double stretch = rope.factor * length / rope.original_max_position - (rope.factor - 1.0);
  return rope.base * std::pow(stretch, rotary_dim / (rotary_dim - 2.0));
}

void fill_rows(const RopeConfig& rope, const std::vector<float>& inverse, int head_dim, int num_positions,
               float* rows) {
  const auto magnitude = static_cast<float>(attention_factor(rope));
  const std::size_t half = static_cast<std::size_t>(head_dim) / 2;
  for (int position = 0; position < num_positions; ++position) {
    float* row = rows + static_cast<std::size_t>(position) * head_dim;
    for (std::size_t i = 0; i < half; ++i) {
      const bool rotated = i < inverse.size();
      const float angle = rotated ? static_cast<float>(position) * inverse[i] : 0.0F;
      row[i] = rotated ? std::cos(angle) * magnitude : 1.0F;
      row[half + i] = rotated ? std::sin(angle) * magnitude : 0.0F;
    }
  }
}

}  // namespace

std::vector<float> rope_inverse_frequencies(const RopeConfig& rope, int head_dim, int num_positions,
                                            bool long_positions) {
  const int rotary_dim = rope.rotated_channels(head_dim);
  const double base =
      rope.type == RopeScalingType::kDynamic ? dynamic_base(rope, rotary_dim, num_positions) : rope.base;
  const std::vector<float>& divisors =
      long_positions ? rope.long_frequency_divisors : rope.frequency_divisors;
  std::vector<float> result(static_cast<std::size_t>(rotary_dim) / 2);
  for (int i = 0; i < rotary_dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(rotary_dim);
    double frequency = 1.0F / std::pow(static_cast<float>(base), exponent);
    switch (rope.type) {
      case RopeScalingType::kNone:
      case RopeScalingType::kDynamic:
      case RopeScalingType::kLongRope:
        break;
      case RopeScalingType::kLinear:
        frequency /= rope.factor;
        break;
      case RopeScalingType::kLlama3:
        frequency = scale_llama3(rope, frequency);
        break;
      case RopeScalingType::kYarn:
        frequency = scale_yarn(rope, frequency, i, rotary_dim);
        break;
    }
    if (!divisors.empty()) frequency /= divisors[static_cast<std::size_t>(i)];
    result[static_cast<std::size_t>(i)] = static_cast<float>(frequency);
  }
  return result;
}

int rope_table_rows(const RopeConfig& rope, int num_positions) {
  return rope.wants_long_positions(num_positions) ? 2 * num_positions : num_positions;
}

std::vector<float> make_rope_table(const RopeConfig& rope, int head_dim, int num_positions) {
  const std::size_t part = static_cast<std::size_t>(num_positions) * static_cast<std::size_t>(head_dim);
  std::vector<float> table(static_cast<std::size_t>(rope_table_rows(rope, num_positions)) *
                           static_cast<std::size_t>(head_dim));
  fill_rows(rope, rope_inverse_frequencies(rope, head_dim, num_positions), head_dim, num_positions,
            table.data());
  if (rope.wants_long_positions(num_positions)) {
    fill_rows(rope, rope_inverse_frequencies(rope, head_dim, num_positions, /*long_positions=*/true),
              head_dim, num_positions, table.data() + part);
  }
  return table;
}

}  // namespace kvcrush
