// 16-bit floats to float32 by integer arithmetic alone: exact, independent of the CPU's flush-to-zero mode,
// and free of branches so that loops over it vectorise.
#pragma once

#include <bit>
#include <cstdint>

namespace kvcrush {

// IEEE binary16. Subnormals, infinities and NaN payloads are kept.
inline float half_to_float(std::uint16_t half) {
  constexpr std::uint32_t kRebias = (127u - 15u) << 23;
  const std::uint32_t exponent = half & 0x7c00u;
  const std::uint32_t widened = (half & 0x7fffu) << 13;
  const std::uint32_t normal = widened + kRebias;
  const std::uint32_t special = normal + kRebias;  // exponent 31 becomes 255
  const float mantissa = static_cast<float>(static_cast<std::int32_t>(half & 0x03ffu));
  const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(mantissa * 0x1p-24f);
  std::uint32_t bits = exponent == 0 ? subnormal : normal;
  bits = exponent == 0x7c00u ? special : bits;
  return std::bit_cast<float>(bits | ((half & 0x8000u) << 16));
}

inline float bfloat16_to_float(std::uint16_t value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value) << 16);
}

}  // namespace kvcrush
