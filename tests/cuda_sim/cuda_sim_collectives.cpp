// 16-bit floats, matrix fragments, and what a warp's lanes do together.
#include <limits>
#include <stdexcept>

#include "tests/cuda_sim/cuda_sim.h"

namespace kvcrush::cuda_sim {

float bf16_to_float(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}
float f16_to_float(std::uint16_t bits) {
  const float sign = (bits & 0x8000) != 0 ? -1.0F : 1.0F;
  const int exponent = bits >> 10 & 31;
  const int mantissa = bits & 1023;
  if (exponent == 31) return mantissa != 0 ? std::numeric_limits<float>::quiet_NaN() : sign * HUGE_VALF;
  return sign * (exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                               : std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25));
}
std::uint16_t float_to_bf16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if (std::isnan(x)) return 0x7fff;
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
std::uint16_t float_to_f16(float x) {
  const auto sign = static_cast<std::uint16_t>(std::signbit(x) ? 0x8000 : 0);
  const float magnitude = std::fabs(x);
  if (std::isnan(x)) return 0x7fff;
  if (magnitude >= 65520.0F) return sign | 0x7c00;
  int exponent = magnitude == 0 ? -14 : std::max(std::ilogb(magnitude), -14);
  auto mantissa = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  if (mantissa == 2048) mantissa = 1024, ++exponent;
  return sign | static_cast<std::uint16_t>(mantissa < 1024 ? mantissa : (exponent + 14) * 1024 + mantissa);
}

void load_matrix(unsigned* registers, int count, const void* row, bool transpose) {
  if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0)
    throw std::logic_error("ldmatrix: a row that is not aligned to 16");
  std::memcpy(own_words(), &row, sizeof(row));
  meet_warp(kAllLanes, Collective::kLoadMatrix);
  const unsigned self = lane();
  for (int i = 0; i < count; ++i) {
    unsigned pair = 0;
    for (unsigned half = 0; half < 2; ++half) {
      unsigned r = self / 4;
      unsigned c = self % 4 * 2 + half;
      if (transpose) std::swap(r, c);
      const std::uint16_t* elements = nullptr;
      std::memcpy(&elements, words_of(static_cast<unsigned>(i) * 8 + r), sizeof(elements));
      pair |= static_cast<unsigned>(elements[c]) << (16 * half);
    }
    registers[i] = pair;
  }
}

void mma_16816(float* c, const unsigned* a, const unsigned* b, bool bf16) {
  std::uint64_t* words = own_words();
  for (int i = 0; i < 4; ++i) words[i] = a[i];
  for (int i = 0; i < 2; ++i) words[4 + i] = b[i];
  meet_warp(kAllLanes, Collective::kMma);
  const auto element = [bf16](unsigned owner, int word, unsigned half) {
    const auto bits = static_cast<std::uint16_t>(words_of(owner)[word] >> (16 * half));
    return bf16 ? bf16_to_float(bits) : f16_to_float(bits);
  };
  const unsigned self = lane();
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = self / 4 + i / 2 * 8;
    const unsigned column = self % 4 * 2 + i % 2;
    float sum = 0;
    for (unsigned k = 0; k < 16; ++k) {
      const int a_word = static_cast<int>(row / 8 + k / 8 * 2);
      const int b_word = 4 + static_cast<int>(k / 8);
      sum += element(row % 8 * 4 + k % 8 / 2, a_word, k % 2) * element(column * 4 + k % 8 / 2, b_word, k % 2);
    }
    c[i] += sum;
  }
}

}  // namespace kvcrush::cuda_sim

namespace {

using namespace kvcrush::cuda_sim;  // NOLINT(google-build-using-namespace)

template <class Fold>
void fold_lanes(unsigned mask, std::uint64_t value, Collective what, const Fold& fold) {
  own_words()[0] = value;
  meet_warp(mask, what);
  for (unsigned i = 0; i < kWarp; ++i) {
    if ((mask >> i & 1) != 0) fold(i, words_of(i)[0]);
  }
}

template <class T, class Fold>
T reduce(unsigned mask, T value, T start, const Fold& fold) {
  fold_lanes(mask, static_cast<std::uint32_t>(value), Collective::kVote,
             [&](unsigned, std::uint64_t other) { start = fold(start, static_cast<T>(other)); });
  return start;
}

}  // namespace

unsigned __ballot_sync(unsigned mask, int predicate) {
  unsigned votes = 0;
  fold_lanes(mask, predicate != 0 ? 1 : 0, Collective::kVote,
             [&](unsigned lane, std::uint64_t vote) { votes |= static_cast<unsigned>(vote) << lane; });
  return votes;
}
unsigned __match_any_sync(unsigned mask, std::uint64_t value) {
  unsigned same = 0;
  fold_lanes(mask, value, Collective::kMatch,
             [&](unsigned lane, std::uint64_t other) { same |= (other == value ? 1U : 0U) << lane; });
  return same;
}
int __reduce_add_sync(unsigned mask, int value) {
  return reduce(mask, value, 0, [](int a, int b) { return a + b; });
}
unsigned __reduce_add_sync(unsigned mask, unsigned value) {
  return reduce(mask, value, 0U, [](unsigned a, unsigned b) { return a + b; });
}
int __reduce_max_sync(unsigned mask, int value) {
  return reduce(mask, value, INT32_MIN, [](int a, int b) { return std::max(a, b); });
}
unsigned __reduce_max_sync(unsigned mask, unsigned value) {
  return reduce(mask, value, 0U, [](unsigned a, unsigned b) { return std::max(a, b); });
}
int __reduce_min_sync(unsigned mask, int value) {
  return reduce(mask, value, INT32_MAX, [](int a, int b) { return std::min(a, b); });
}
