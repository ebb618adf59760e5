// The block types of GGUF, to float32. `num_blocks` consecutive blocks each; sources lie at any address.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "engine/loader/model_file.h"

namespace kvcrush::quant_blocks {

// Blocks of 32.
void read_q8_0(const std::byte* from, std::int64_t num_blocks, float* out);
void read_q4_0(const std::byte* from, std::int64_t num_blocks, float* out);
void read_q4_1(const std::byte* from, std::int64_t num_blocks, float* out);
void read_q5_0(const std::byte* from, std::int64_t num_blocks, float* out);
void read_q5_1(const std::byte* from, std::int64_t num_blocks, float* out);
void read_iq4_nl(const std::byte* from, std::int64_t num_blocks, float* out);

// Blocks of 256 with a scale of their own for each 16 or 32 elements.
void read_q2_k(const std::byte* from, std::int64_t num_blocks, float* out);
void read_q3_k(const std::byte* from, std::int64_t num_blocks, float* out);
void read_q4_k(const std::byte* from, std::int64_t num_blocks, float* out);
void read_q5_k(const std::byte* from, std::int64_t num_blocks, float* out);
void read_q6_k(const std::byte* from, std::int64_t num_blocks, float* out);
void read_iq4_xs(const std::byte* from, std::int64_t num_blocks, float* out);

// The same in codes; out: [num_blocks * block elements / 32].
void read_q4_0_codes(const std::byte* from, std::int64_t num_blocks, CodedBlock* out);
void read_q4_1_codes(const std::byte* from, std::int64_t num_blocks, CodedBlock* out);
void read_q4_k_codes(const std::byte* from, std::int64_t num_blocks, CodedBlock* out);

// The values that codes of IQ4_NL and IQ4_XS stand for.
inline constexpr std::int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                               1,    13,   25,  38,  53,  69,  89,  113};

// A copy of packed structs rather than a cast: bytes may lie anywhere, and alias the output, which would keep
// loops from vectorising.
template <typename Block>
Block load_block(const std::byte* from, std::int64_t index) {
  Block block;
  std::memcpy(&block, from + index * static_cast<std::int64_t>(sizeof(Block)), sizeof(Block));
  return block;
}

}  // namespace kvcrush::quant_blocks
