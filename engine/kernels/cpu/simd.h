// Vectors of float32 as wide as the instruction set this file is compiled for. Everything is in an unnamed
// namespace and no standard template is used: code compiled for AVX-512 must never be merged by the linker
// with code for older machines.
#pragma once

#include <cstdint>

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

using Vec = float __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
using IntVec = std::int32_t __attribute__((vector_size(kLanes * 4)));

#define KVCRUSH_INLINE inline __attribute__((always_inline))

KVCRUSH_INLINE Vec load(const float* p) {
  return *reinterpret_cast<const Vec*>(p);
}
KVCRUSH_INLINE void store(float* p, Vec v) {
  *reinterpret_cast<Vec*>(p) = v;
}
KVCRUSH_INLINE Vec splat(float x) {
  return Vec{} + x;
}
KVCRUSH_INLINE Vec vmax(Vec a, Vec b) {
  return a > b ? a : b;
}

// Lanes i and i ^ kStride change places: log2(kLanes) of these and an operation reduce a vector without
// leaving its register.
template <int kStride>
KVCRUSH_INLINE Vec exchange(Vec v) {
#define KVCRUSH_LANE(i) ((i) ^ kStride)
#define KVCRUSH_LANES_4(i) \
  KVCRUSH_LANE(i), KVCRUSH_LANE((i) + 1), KVCRUSH_LANE((i) + 2), KVCRUSH_LANE((i) + 3)
#if defined(__AVX512F__)
  return __builtin_shufflevector(v, v, KVCRUSH_LANES_4(0), KVCRUSH_LANES_4(4), KVCRUSH_LANES_4(8),
                                 KVCRUSH_LANES_4(12));
#elif defined(__AVX2__)
  return __builtin_shufflevector(v, v, KVCRUSH_LANES_4(0), KVCRUSH_LANES_4(4));
#else
  return __builtin_shufflevector(v, v, KVCRUSH_LANES_4(0));
#endif
#undef KVCRUSH_LANES_4
#undef KVCRUSH_LANE
}
template <int kBy = kLanes / 2>
KVCRUSH_INLINE float reduce_add(Vec v) {
  if constexpr (kBy == 0)
    return v[0];
  else
    return reduce_add<kBy / 2>(v + exchange<kBy>(v));
}
template <int kBy = kLanes / 2>
KVCRUSH_INLINE float reduce_max(Vec v) {
  if constexpr (kBy == 0)
    return v[0];
  else
    return reduce_max<kBy / 2>(vmax(v, exchange<kBy>(v)));
}

KVCRUSH_INLINE float reduce_min(Vec v) {
  return -reduce_max(-v);
}
KVCRUSH_INLINE Vec vmin(Vec a, Vec b) {
  return a < b ? a : b;
}
// To the nearest integer, for |x| < 2^22.
KVCRUSH_INLINE Vec vround(Vec x) {
  return (x + 12582912.0f) - 12582912.0f;
}

// exp for x <= 0 (softmax) and moderate x > 0 (SiLU), relative error < 3e-7: x = n ln2 + r, |r| <= ln2/2,
// degree-6 polynomial.
KVCRUSH_INLINE Vec vexp(Vec x) {
  const Vec low = splat(-87.0f);
  const Vec high = splat(88.0f);
  const Vec clamped = x < low ? low : (x > high ? high : x);
  const Vec shifted = clamped * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Vec n = shifted - 12582912.0f;
  const Vec r = (clamped - n * 0.693145752f) - n * 1.42860677e-6f;
  Vec p = splat(1.0f / 720.0f);
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const IntVec exponent = (__builtin_convertvector(n, IntVec) + 127) << 23;
  const Vec scale = reinterpret_cast<Vec>(exponent);
  const Vec result = p * scale;
  return x < low ? Vec{} : result;  // exactly 0 for masked slots
}

}  // namespace
