// Block layouts (little endian, 32 elements a block, d and m are binary16):
//   Q8_0: d, int8 q[32]          value = q d
//   Q4_0: d, uint8 q[16]         value = (q - 8) d    low nibbles are elements 0..15, high nibbles 16..31
//   Q4_1: d, m, uint8 q[16]      value = q d + m      nibbles as in Q4_0
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <vector>

#include "engine/loader/half.h"
#include "engine/loader/model_file.h"
#include "engine/loader/weight_type.h"

namespace kvcrush {
namespace {

static_assert(std::endian::native == std::endian::little, "weights are stored little endian");

constexpr std::size_t kBlockElements = 32;
constexpr std::size_t kHalfBlock = kBlockElements / 2;

// Tensors may lie at any address (a safetensors header has any length), hence memcpy and not a cast.
template <typename T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

// Quants are copied out of the mapping first: bytes may alias the output, which would keep the loops from
// vectorising.
template <typename Quant, std::size_t kCount>
std::array<Quant, kCount> load_quants(const std::byte* from) {
  std::array<Quant, kCount> quants;
  std::memcpy(quants.data(), from, sizeof(quants));
  return quants;
}

void read_q8_0(const std::byte* from, std::int64_t num_blocks, float* out) {
  for (std::int64_t block = 0; block < num_blocks; ++block, from += 34, out += kBlockElements) {
    const float scale = half_to_float(load<std::uint16_t>(from));
    const auto quants = load_quants<std::int8_t, kBlockElements>(from + 2);
    for (std::size_t i = 0; i < kBlockElements; ++i) out[i] = static_cast<float>(quants[i]) * scale;
  }
}

void read_q4_0(const std::byte* from, std::int64_t num_blocks, float* out) {
  for (std::int64_t block = 0; block < num_blocks; ++block, from += 18, out += kBlockElements) {
    const float scale = half_to_float(load<std::uint16_t>(from));
    const auto pairs = load_quants<std::uint8_t, kHalfBlock>(from + 2);
    for (std::size_t i = 0; i < kHalfBlock; ++i) out[i] = static_cast<float>((pairs[i] & 15) - 8) * scale;
    for (std::size_t i = 0; i < kHalfBlock; ++i)
      out[i + kHalfBlock] = static_cast<float>((pairs[i] >> 4) - 8) * scale;
  }
}

void read_q4_1(const std::byte* from, std::int64_t num_blocks, float* out) {
  for (std::int64_t block = 0; block < num_blocks; ++block, from += 20, out += kBlockElements) {
    const float scale = half_to_float(load<std::uint16_t>(from));
    const float minimum = half_to_float(load<std::uint16_t>(from + 2));
    const auto pairs = load_quants<std::uint8_t, kHalfBlock>(from + 4);
    for (std::size_t i = 0; i < kHalfBlock; ++i) out[i] = static_cast<float>(pairs[i] & 15) * scale + minimum;
    for (std::size_t i = 0; i < kHalfBlock; ++i)
      out[i + kHalfBlock] = static_cast<float>(pairs[i] >> 4) * scale + minimum;
  }
}

// `num_elements` is a whole number of blocks.
void read_contiguous(WeightDtype dtype, const std::byte* from, std::int64_t num_elements, float* out) {
  switch (dtype) {
    case WeightDtype::kF32:
      std::memcpy(out, from, static_cast<std::size_t>(num_elements) * sizeof(float));
      return;
    case WeightDtype::kF16:
      for (std::int64_t i = 0; i < num_elements; ++i)
        out[i] = half_to_float(load<std::uint16_t>(from + 2 * i));
      return;
    case WeightDtype::kBF16:
      for (std::int64_t i = 0; i < num_elements; ++i)
        out[i] = bfloat16_to_float(load<std::uint16_t>(from + 2 * i));
      return;
    case WeightDtype::kQ8_0:
      return read_q8_0(from, num_elements / 32, out);
    case WeightDtype::kQ4_0:
      return read_q4_0(from, num_elements / 32, out);
    case WeightDtype::kQ4_1:
      return read_q4_1(from, num_elements / 32, out);
  }
}

// Stored row 2i + j of a head is row j * head_dim / 2 + i of the model: llama.cpp's converter swaps the two
// axes of [2, head_dim / 2] so that the pair rotated together lies side by side.
std::int64_t canonical_row(std::int64_t stored_row, std::int64_t head_dim) {
  const std::int64_t in_head = stored_row % head_dim;
  return stored_row - in_head + (in_head % 2) * (head_dim / 2) + in_head / 2;
}

// Its inverse.
std::int64_t stored_row(std::int64_t row, std::int64_t head_dim) {
  const std::int64_t in_head = row % head_dim;
  return row - in_head + in_head % (head_dim / 2) * 2 + in_head / (head_dim / 2);
}

}  // namespace

std::span<const std::byte> WeightView::row_bytes(std::int64_t row) const {
  KVCRUSH_CHECK(shape.size() == 2 && row >= 0 && row < shape[0]);
  const std::size_t size = bytes.size() / static_cast<std::size_t>(shape[0]);
  if (interleaved_head_dim != 0) row = stored_row(row, interleaved_head_dim);
  return bytes.subspan(static_cast<std::size_t>(row) * size, size);
}

std::int64_t WeightView::num_elements() const {
  std::int64_t product = 1;
  for (const std::int64_t dimension : shape) product *= dimension;
  return product;
}

void read_f32(const WeightView& view, std::span<float> out) {
  const std::int64_t num_elements = view.num_elements();
  KVCRUSH_CHECK(static_cast<std::int64_t>(out.size()) == num_elements);
  KVCRUSH_CHECK(checked_num_bytes(view.dtype, view.shape) == static_cast<std::int64_t>(view.bytes.size()));
  const std::int64_t head_dim = view.interleaved_head_dim;
  if (head_dim == 0) return read_contiguous(view.dtype, view.bytes.data(), num_elements, out.data());

  const std::int64_t num_rows = view.shape.front();
  KVCRUSH_CHECK(head_dim % 2 == 0 && num_rows % head_dim == 0);
  if (view.shape.size() == 1) {  // a bias: its rows are single elements, which need not be whole blocks
    std::vector<float> stored(out.size());
    read_contiguous(view.dtype, view.bytes.data(), num_elements, stored.data());
    for (std::int64_t row = 0; row < num_rows; ++row) {
      out[static_cast<std::size_t>(canonical_row(row, head_dim))] = stored[static_cast<std::size_t>(row)];
    }
    return;
  }
  const std::int64_t row_elements = num_elements / num_rows;
  const std::int64_t row_bytes = static_cast<std::int64_t>(view.bytes.size()) / num_rows;
  for (std::int64_t row = 0; row < num_rows; ++row) {
    read_contiguous(view.dtype, view.bytes.data() + row * row_bytes, row_elements,
                    out.data() + canonical_row(row, head_dim) * row_elements);
  }
}

}  // namespace kvcrush
