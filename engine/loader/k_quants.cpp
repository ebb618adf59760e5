// Blocks of 256 elements: small integers that scale 16 or 32 elements each, under one or two binary16
// factors. Elements lie in two stretches of 128, or four of 64, whose bytes hold elements 32 apart in
// different bits.
#include "engine/loader/half.h"
#include "engine/loader/quant_blocks.h"

namespace kvcrush::quant_blocks {
namespace {

constexpr int kElements = 256;

struct Q2_K {  // d (scale & 15) q - dmin (scale >> 4), 16 elements a scale
  std::uint8_t scales[kElements / 16];
  std::uint8_t qs[kElements / 4];
  std::uint16_t d;
  std::uint16_t dmin;
};
struct Q3_K {  // d (scale - 32) q, q two bits of qs and, inverted, one of hmask: in [-4, 3]
  std::uint8_t hmask[kElements / 8];
  std::uint8_t qs[kElements / 4];
  std::uint8_t scales[12];
  std::uint16_t d;
};
struct Q4_K {  // d scale q - dmin minimum, 32 elements a scale
  std::uint16_t d;
  std::uint16_t dmin;
  std::uint8_t scales[12];
  std::uint8_t qs[kElements / 2];
};
struct Q5_K {  // the same, the fifth bit in qh
  std::uint16_t d;
  std::uint16_t dmin;
  std::uint8_t scales[12];
  std::uint8_t qh[kElements / 8];
  std::uint8_t qs[kElements / 2];
};
struct Q6_K {  // d scale (q - 32), 16 elements a scale; four bits in ql, two in qh
  std::uint8_t ql[kElements / 2];
  std::uint8_t qh[kElements / 4];
  std::int8_t scales[kElements / 16];
  std::uint16_t d;
};
struct Iq4Xs {  // d (scale - 32) kIq4Values[q], 32 elements a scale
  std::uint16_t d;
  std::uint16_t scales_h;
  std::uint8_t scales_l[kElements / 64];
  std::uint8_t qs[kElements / 2];
};
static_assert(sizeof(Q2_K) == 84 && sizeof(Q3_K) == 110 && sizeof(Q4_K) == 144 && sizeof(Q5_K) == 176 &&
              sizeof(Q6_K) == 210 && sizeof(Iq4Xs) == 136);

// The eight scales and minima of Q4_K and Q5_K, six bits each.
struct ScaleAndMinimum {
  int scale;
  int minimum;
};
ScaleAndMinimum unpack_six_bits(const std::uint8_t (&packed)[12], int index) {
  if (index < 4) return {packed[index] & 63, packed[index + 4] & 63};
  return {(packed[index + 4] & 15) | (packed[index - 4] >> 6) << 4,
          packed[index + 4] >> 4 | (packed[index] >> 6) << 4};
}

// Element i of a part of 32 in Q4_K and Q5_K, its low four bits.
int nibble(const std::uint8_t (&qs)[kElements / 2], int part, int i) {
  return qs[part / 2 * 32 + i] >> (4 * (part % 2)) & 15;
}

struct StepAndMinimum {
  float step;
  float minimum;
};
template <typename Block>
StepAndMinimum scale_of_part(const Block& block, int part) {
  const auto [scale, minimum] = unpack_six_bits(block.scales, part);
  return {half_to_float(block.d) * static_cast<float>(scale),
          half_to_float(block.dmin) * static_cast<float>(minimum)};
}

// out[32 part + i] = step code(part, i) - minimum
template <typename Block, typename Code>
void scale_parts(const Block& block, float* out, const Code& code) {
  for (int part = 0; part < 8; ++part) {
    const auto [step, minimum] = scale_of_part(block, part);
    for (int i = 0; i < 32; ++i) *out++ = step * static_cast<float>(code(part, i)) - minimum;
  }
}

// The sixteen scales of Q3_K, six bits each.
int unpack_q3_scale(const std::uint8_t (&packed)[12], int index) {
  const int low = index < 8 ? packed[index] & 15 : packed[index - 8] >> 4;
  const int high = packed[8 + index % 4] >> (2 * (index / 4)) & 3;
  return (low | high << 4) - 32;
}

}  // namespace

void read_q2_k(const std::byte* from, std::int64_t num_blocks, float* out) {
  for (std::int64_t b = 0; b < num_blocks; ++b, out += kElements) {
    const auto block = load_block<Q2_K>(from, b);
    const float d = half_to_float(block.d);
    const float dmin = half_to_float(block.dmin);
    for (int i = 0; i < kElements; ++i) {
      const int scale = block.scales[i / 16];
      const int q = block.qs[i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32)) & 3;
      out[i] =
          d * static_cast<float>(scale & 15) * static_cast<float>(q) - dmin * static_cast<float>(scale >> 4);
    }
  }
}

void read_q3_k(const std::byte* from, std::int64_t num_blocks, float* out) {
  for (std::int64_t b = 0; b < num_blocks; ++b, out += kElements) {
    const auto block = load_block<Q3_K>(from, b);
    const float d = half_to_float(block.d);
    for (int i = 0; i < kElements; ++i) {
      const float step = d * static_cast<float>(unpack_q3_scale(block.scales, i / 16));
      const int low = block.qs[i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32)) & 3;
      const int high = block.hmask[i % 32] >> (i / 32) & 1;
      out[i] = step * static_cast<float>(low - (high != 0 ? 0 : 4));
    }
  }
}

void read_q4_k(const std::byte* from, std::int64_t num_blocks, float* out) {
  for (std::int64_t b = 0; b < num_blocks; ++b, out += kElements) {
    const auto block = load_block<Q4_K>(from, b);
    scale_parts(block, out, [&](int part, int i) { return nibble(block.qs, part, i); });
  }
}

void read_q5_k(const std::byte* from, std::int64_t num_blocks, float* out) {
  for (std::int64_t b = 0; b < num_blocks; ++b, out += kElements) {
    const auto block = load_block<Q5_K>(from, b);
    scale_parts(block, out,
                [&](int part, int i) { return nibble(block.qs, part, i) | (block.qh[i] >> part & 1) << 4; });
  }
}

void read_q6_k(const std::byte* from, std::int64_t num_blocks, float* out) {
  for (std::int64_t b = 0; b < num_blocks; ++b, out += kElements) {
    const auto block = load_block<Q6_K>(from, b);
    const float d = half_to_float(block.d);
    for (int i = 0; i < kElements; ++i) {
      const int stretch = i / 128;
      const int quarter = i % 128 / 32;
      const int low = block.ql[64 * stretch + i % 64] >> (4 * (quarter / 2)) & 15;
      const int high = block.qh[32 * stretch + i % 32] >> (2 * quarter) & 3;
      out[i] = d * static_cast<float>(block.scales[i / 16]) * static_cast<float>((low | high << 4) - 32);
    }
  }
}

void read_iq4_xs(const std::byte* from, std::int64_t num_blocks, float* out) {
  for (std::int64_t b = 0; b < num_blocks; ++b, out += kElements) {
    const auto block = load_block<Iq4Xs>(from, b);
    const float d = half_to_float(block.d);
    for (int part = 0; part < 8; ++part) {
      const int low = block.scales_l[part / 2] >> (4 * (part % 2)) & 15;
      const int high = block.scales_h >> (2 * part) & 3;
      const float step = d * static_cast<float>((low | high << 4) - 32);
      for (int i = 0; i < 32; ++i) {
        const int q = block.qs[16 * part + i % 16] >> (4 * (i / 16)) & 15;
        out[32 * part + i] = step * static_cast<float>(kIq4Values[q]);
      }
    }
  }
}

void read_q4_k_codes(const std::byte* from, std::int64_t num_blocks, CodedBlock* out) {
  for (std::int64_t b = 0; b < num_blocks; ++b) {
    const auto block = load_block<Q4_K>(from, b);
    for (int part = 0; part < 8; ++part, ++out) {
      const auto [step, minimum] = scale_of_part(block, part);
      out->step = step;
      out->minimum = -minimum;
      for (int i = 0; i < 32; ++i)
        out->codes[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(nibble(block.qs, part, i));
    }
  }
}

}  // namespace kvcrush::quant_blocks
