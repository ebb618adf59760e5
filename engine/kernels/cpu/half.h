// 16-bit floats by integer arithmetic on their bits: not every compiler has such types for every machine.
// Static for the same reason as kv_layout.h.
#pragma once

#include <cstdint>

namespace kvcrush::cpu {

#define KVCRUSH_HALF static inline __attribute__((always_inline, unused))

KVCRUSH_HALF std::uint32_t float_bits(float x) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}
KVCRUSH_HALF float bits_float(std::uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

KVCRUSH_HALF float bf16_to_f32(std::uint16_t bits) {
  return bits_float(static_cast<std::uint32_t>(bits) << 16);
}
// Exponent rebias by multiplication handles subnormals; cached values are finite.
KVCRUSH_HALF float f16_to_f32(std::uint16_t bits) {
  const float magnitude = bits_float(static_cast<std::uint32_t>(bits & 0x7fff) << 13) * 5.192296858534828e33f;
  return bits_float(float_bits(magnitude) | static_cast<std::uint32_t>(bits & 0x8000) << 16);
}

// To nearest, ties to even.
KVCRUSH_HALF std::uint16_t f32_to_bf16(float x) {
  const std::uint32_t bits = float_bits(x);
  return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
KVCRUSH_HALF std::uint16_t f32_to_f16(float x) {
  const std::uint32_t bits = float_bits(x);
  const std::uint32_t sign = (bits >> 16) & 0x8000;
  const std::uint32_t magnitude = bits & 0x7fffffff;
  const std::uint32_t overflow = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;
  // Subnormal results: adding 0.5 aligns the mantissa, and rounds.
  const std::uint32_t small = float_bits(bits_float(magnitude) + 0.5F) - 0x3f000000;
  const std::uint32_t normal = (magnitude - (112U << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  const std::uint32_t finite = magnitude < 0x38800000 ? small : normal;
  return static_cast<std::uint16_t>(sign | (magnitude >= 0x47800000 ? overflow : finite));
}

}  // namespace kvcrush::cpu
