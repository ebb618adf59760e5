#include "engine/kernels/cpu/quant_fit.h"

#include <algorithm>
#include <cmath>

namespace kvcrush::cpu {

namespace {

constexpr float kLargest = 127.0f;

// To the nearest integer, for |x| < 2^22; without a call, there are some hundred a group.
float round_small(float x) {
  return (x + 12582912.0f) - 12582912.0f;
}

// What the squared error of a block depends on.
struct Moments {
  float sum = 0.0f;
  float squares = 0.0f;
  float low = 0.0f;
  float high = 0.0f;
};

Moments moments_of(const CodeBlock& block) {
  int sum = 0;
  int squares = 0;
  int low = block.codes[0];
  int high = low;
  for (const int code : block.codes) {
    sum += code;
    squares += code * code;
    low = std::min(low, code);
    high = std::max(high, code);
  }
  return {static_cast<float>(sum), static_cast<float>(squares), static_cast<float>(low),
          static_cast<float>(high)};
}

float largest_weight(const CodeBlock& block, const Moments& codes) {
  return std::max(std::abs(block.d * codes.low + block.m), std::abs(block.d * codes.high + block.m));
}

struct Fit {
  std::array<float, 2> multipliers = {};
  std::array<float, 2> offsets = {};
  bool fits = true;       // into int8
  float products = 0.0f;  // sum of weight * integer
  float squares = 0.0f;   // sum of integer^2
  // What is left of the weights' squares under the best scale, less a constant.
  float error() const { return squares > 0.0f ? -products * products / squares : 0.0f; }
};

Fit fit_under(float scale, const CodeGroup& group, const std::array<Moments, 2>& codes) {
  Fit fit;
  for (std::size_t h = 0; h < 2; ++h) {
    const float d = group[h].d;
    const float m = group[h].m;
    const float a = round_small(d / scale);
    const float c = round_small(m / scale);
    const Moments& q = codes[h];
    const float largest =
        std::max({std::abs(a), std::abs(c), std::abs(a * q.low + c), std::abs(a * q.high + c)});
    fit.fits = fit.fits && largest <= kLargest;
    fit.products += d * a * q.squares + (d * c + m * a) * q.sum + kQuantHalf * m * c;
    fit.squares += a * a * q.squares + 2.0f * a * c * q.sum + kQuantHalf * c * c;
    fit.multipliers[h] = a;
    fit.offsets[h] = c;
  }
  return fit;
}

}  // namespace

AffineGroup fit_affine(const CodeGroup& source) {
  CodeGroup group = source;
  const std::array<Moments, 2> codes = {moments_of(group[0]), moments_of(group[1])};
  for (std::size_t h = 0; h < 2; ++h) {
    if (codes[h].low != codes[h].high) continue;
    group[h].m += group[h].d * codes[h].low;  // one value: a step may be any number, and too large an integer
    group[h].d *= 0.0f;                       // what is not finite stays so
  }
  const float top = std::max(largest_weight(group[0], codes[0]), largest_weight(group[1], codes[1]));
  if (!(top + std::abs(group[0].d) + std::abs(group[1].d) < HUGE_VALF)) return {.scale = NAN};
  constexpr float kSmallestTop = 1e-30f;
  if (top < kSmallestTop) return {};
  // Rounding moves an integer by half a multiplier's step for each of 8 codes, and half an offset's.
  constexpr float kSafe = kLargest - 4.5f;
  float scale = top / kSafe;
  Fit best = fit_under(scale, group, codes);
  for (; !best.fits; best = fit_under(scale, group, codes)) scale *= 2.0f;  // few codes, far from zero
  const float step = std::max(std::abs(group[0].d), std::abs(group[1].d));
  constexpr int kCandidates = 6;  // more win nothing (tests/kernels/quant_fit_test.cpp)
  const float first = std::floor(kLargest * step / top);
  for (int i = 0; i < kCandidates && first - static_cast<float>(i) >= 1.0f; ++i) {
    const Fit fit = fit_under(step / (first - static_cast<float>(i)), group, codes);
    if (fit.fits && fit.error() < best.error()) best = fit;
  }
  AffineGroup result{.scale = best.squares > 0.0f ? best.products / best.squares : 0.0f};
  for (std::size_t h = 0; h < 2; ++h) {
    result.multipliers[h] = static_cast<std::int8_t>(best.multipliers[h]);
    result.offsets[h] = static_cast<std::int8_t>(best.offsets[h]);
  }
  return result;
}

Int8Group fit_int8(std::span<const float, kQuantGroup> weights) {
  Int8Group result;
  float top = 0.0f;
  float sum = 0.0f;
  for (const float weight : weights) {
    top = std::max(top, std::abs(weight));
    sum += std::abs(weight);
  }
  if (!(sum < HUGE_VALF)) return {.scale = NAN};
  if (top == 0.0f) return result;
  result.scale = top / kLargest;
  for (std::size_t i = 0; i < result.codes.size(); ++i)
    result.codes[i] = static_cast<std::int8_t>(round_small(weights[i] / result.scale));
  return result;
}

}  // namespace kvcrush::cpu
