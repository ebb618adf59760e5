// Little endian; d and m are binary16. Of two nibbles in a byte i of qs the low one is element i, the high
// one element i + 16.
#include "engine/loader/quant_blocks.h"

#include <bit>

#include "engine/loader/half.h"

namespace kvcrush::quant_blocks {
namespace {

static_assert(std::endian::native == std::endian::little, "weights are stored little endian");

constexpr int kElements = 32;
constexpr int kHalf = kElements / 2;

struct Q8_0 {
  std::uint16_t d;
  std::int8_t qs[kElements];
};
struct Q4_0 {  // (q - 8) d; of IQ4_NL kIq4Values[q] d
  std::uint16_t d;
  std::uint8_t qs[kHalf];
};
struct Q4_1 {  // q d + m
  std::uint16_t d;
  std::uint16_t m;
  std::uint8_t qs[kHalf];
};
struct Q5_0 {  // (q - 16) d; bit i of qh is the fifth of element i
  std::uint16_t d;
  std::uint8_t qh[4];
  std::uint8_t qs[kHalf];
};
struct Q5_1 {  // q d + m
  std::uint16_t d;
  std::uint16_t m;
  std::uint8_t qh[4];
  std::uint8_t qs[kHalf];
};
static_assert(sizeof(Q8_0) == 34 && sizeof(Q4_0) == 18 && sizeof(Q4_1) == 20 && sizeof(Q5_0) == 22 &&
              sizeof(Q5_1) == 24);

// out[i] = value(code of element i)
template <typename Value>
void for_each_nibble(const std::uint8_t (&qs)[kHalf], float* out, const Value& value) {
  for (int i = 0; i < kHalf; ++i) out[i] = value(qs[i] & 15, i);
  for (int i = 0; i < kHalf; ++i) out[i + kHalf] = value(qs[i] >> 4, i + kHalf);
}

int fifth_bit(const std::uint8_t (&qh)[4], int element) {
  return (qh[element / 8] >> (element % 8) & 1) << 4;
}

void copy_codes(const std::uint8_t (&qs)[kHalf], CodedBlock& out) {
  for (std::size_t i = 0; i < kHalf; ++i) out.codes[i] = qs[i] & 15;
  for (std::size_t i = 0; i < kHalf; ++i) out.codes[i + kHalf] = qs[i] >> 4;
}

}  // namespace

void read_q8_0(const std::byte* from, std::int64_t num_blocks, float* out) {
  for (std::int64_t b = 0; b < num_blocks; ++b, out += kElements) {
    const auto block = load_block<Q8_0>(from, b);
    const float d = half_to_float(block.d);
    for (int i = 0; i < kElements; ++i) out[i] = static_cast<float>(block.qs[i]) * d;
  }
}

void read_q4_0(const std::byte* from, std::int64_t num_blocks, float* out) {
  for (std::int64_t b = 0; b < num_blocks; ++b, out += kElements) {
    const auto block = load_block<Q4_0>(from, b);
    const float d = half_to_float(block.d);
    for_each_nibble(block.qs, out, [&](int q, int) { return static_cast<float>(q - 8) * d; });
  }
}

void read_q4_1(const std::byte* from, std::int64_t num_blocks, float* out) {
  for (std::int64_t b = 0; b < num_blocks; ++b, out += kElements) {
    const auto block = load_block<Q4_1>(from, b);
    const float d = half_to_float(block.d);
    const float m = half_to_float(block.m);
    for_each_nibble(block.qs, out, [&](int q, int) { return static_cast<float>(q) * d + m; });
  }
}

void read_q5_0(const std::byte* from, std::int64_t num_blocks, float* out) {
  for (std::int64_t b = 0; b < num_blocks; ++b, out += kElements) {
    const auto block = load_block<Q5_0>(from, b);
    const float d = half_to_float(block.d);
    for_each_nibble(block.qs, out,
                    [&](int q, int i) { return static_cast<float>((q | fifth_bit(block.qh, i)) - 16) * d; });
  }
}

void read_q5_1(const std::byte* from, std::int64_t num_blocks, float* out) {
  for (std::int64_t b = 0; b < num_blocks; ++b, out += kElements) {
    const auto block = load_block<Q5_1>(from, b);
    const float d = half_to_float(block.d);
    const float m = half_to_float(block.m);
    for_each_nibble(block.qs, out,
                    [&](int q, int i) { return static_cast<float>(q | fifth_bit(block.qh, i)) * d + m; });
  }
}

void read_iq4_nl(const std::byte* from, std::int64_t num_blocks, float* out) {
  for (std::int64_t b = 0; b < num_blocks; ++b, out += kElements) {
    const auto block = load_block<Q4_0>(from, b);
    const float d = half_to_float(block.d);
    for_each_nibble(block.qs, out, [&](int q, int) { return d * static_cast<float>(kIq4Values[q]); });
  }
}

void read_q4_0_codes(const std::byte* from, std::int64_t num_blocks, CodedBlock* out) {
  for (std::int64_t b = 0; b < num_blocks; ++b) {
    const auto block = load_block<Q4_0>(from, b);
    out[b].step = half_to_float(block.d);
    out[b].minimum = -8.0f * out[b].step;
    copy_codes(block.qs, out[b]);
  }
}

void read_q4_1_codes(const std::byte* from, std::int64_t num_blocks, CodedBlock* out) {
  for (std::int64_t b = 0; b < num_blocks; ++b) {
    const auto block = load_block<Q4_1>(from, b);
    out[b].step = half_to_float(block.d);
    out[b].minimum = half_to_float(block.m);
    copy_codes(block.qs, out[b]);
  }
}

}  // namespace kvcrush::quant_blocks
