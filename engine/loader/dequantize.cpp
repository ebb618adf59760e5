// Rows and whole tensors of weights to float32.
#include <bit>
#include <cstdint>
#include <cstring>
#include <vector>

#include "engine/loader/half.h"
#include "engine/loader/model_file.h"
#include "engine/loader/quant_blocks.h"
#include "engine/loader/weight_type.h"

namespace kvcrush {
namespace {

// Tensors may lie at any address (a safetensors header has any length), hence memcpy and not a cast.
template <typename T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

using BlockReader = void (*)(const std::byte* from, std::int64_t num_blocks, float* out);

BlockReader block_reader(WeightDtype dtype) {
  switch (dtype) {
    case WeightDtype::kQ8_0:
      return quant_blocks::read_q8_0;
    case WeightDtype::kQ4_0:
      return quant_blocks::read_q4_0;
    case WeightDtype::kQ4_1:
      return quant_blocks::read_q4_1;
    case WeightDtype::kQ5_0:
      return quant_blocks::read_q5_0;
    case WeightDtype::kQ5_1:
      return quant_blocks::read_q5_1;
    case WeightDtype::kQ2_K:
      return quant_blocks::read_q2_k;
    case WeightDtype::kQ3_K:
      return quant_blocks::read_q3_k;
    case WeightDtype::kQ4_K:
      return quant_blocks::read_q4_k;
    case WeightDtype::kQ5_K:
      return quant_blocks::read_q5_k;
    case WeightDtype::kQ6_K:
      return quant_blocks::read_q6_k;
    case WeightDtype::kIQ4_NL:
      return quant_blocks::read_iq4_nl;
    case WeightDtype::kIQ4_XS:
      return quant_blocks::read_iq4_xs;
    case WeightDtype::kF32:
    case WeightDtype::kF16:
    case WeightDtype::kBF16:
      break;
  }
  return nullptr;
}

using CodeReader = void (*)(const std::byte* from, std::int64_t num_blocks, CodedBlock* out);

CodeReader code_reader(WeightDtype dtype) {
  if (dtype == WeightDtype::kQ4_0) return quant_blocks::read_q4_0_codes;
  if (dtype == WeightDtype::kQ4_1) return quant_blocks::read_q4_1_codes;
  if (dtype == WeightDtype::kQ4_K) return quant_blocks::read_q4_k_codes;
  return nullptr;
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
    default:
      const BlockReader read = block_reader(dtype);
      return read(from, num_elements / weight_block(dtype).num_elements, out);
  }
}

}  // namespace

std::int64_t HeadRows::stored(std::int64_t row) const {
  if (head_dim == 0) return row;
  const std::int64_t in_head = row % head_dim;
  const std::int64_t pair = in_head % (head_dim / 2);
  const std::int64_t second = in_head / (head_dim / 2);  // of the pair: 0 or 1
  const std::int64_t num_pairs = rotary_dim / 2;
  const std::int64_t first = row - in_head;
  // What is not rotated follows, its first half beside the pairs' first elements.
  if (pair >= num_pairs) return first + num_pairs + pair + second * (head_dim / 2 - num_pairs);
  return first + (interleaved ? 2 * pair + second : pair + second * num_pairs);
}

std::span<const std::byte> WeightView::row_bytes(std::int64_t row) const {
  KVCRUSH_CHECK(shape.size() == 2 && row >= 0 && row < shape[0]);
  const std::size_t size = bytes.size() / static_cast<std::size_t>(shape[0]);
  row = head_rows.stored(row);
  return bytes.subspan(static_cast<std::size_t>(row) * size, size);
}

bool has_coded_blocks(WeightDtype dtype) {
  return code_reader(dtype) != nullptr;
}

void read_coded_row(const WeightView& view, std::int64_t row, std::span<CodedBlock> blocks) {
  const std::int64_t block_elements = weight_block(view.dtype).num_elements;
  KVCRUSH_CHECK(has_coded_blocks(view.dtype) &&
                static_cast<std::int64_t>(blocks.size()) * 32 == view.shape.back());
  code_reader(view.dtype)(view.row_bytes(row).data(), view.shape.back() / block_elements, blocks.data());
}

void read_row_f32(const WeightView& view, std::int64_t row, std::span<float> out) {
  KVCRUSH_CHECK(static_cast<std::int64_t>(out.size()) == view.shape.back());
  read_contiguous(view.dtype, view.row_bytes(row).data(), view.shape.back(), out.data());
}

std::int64_t WeightView::num_elements() const {
  std::int64_t product = 1;
  for (const std::int64_t dimension : shape) product *= dimension;
  return product;
}

namespace {

void read_permuted(const WeightView& view, std::span<float> out) {
  const std::int64_t num_rows = view.shape.front();
  KVCRUSH_CHECK(num_rows % view.head_rows.head_dim == 0);
  if (view.shape.size() == 1) {  // rows are single elements, which need not be whole blocks
    std::vector<float> stored(out.size());
    read_contiguous(view.dtype, view.bytes.data(), num_rows, stored.data());
    for (std::int64_t row = 0; row < num_rows; ++row)
      out[static_cast<std::size_t>(row)] = stored[static_cast<std::size_t>(view.head_rows.stored(row))];
    return;
  }
  const std::int64_t width = view.shape[1];
  for (std::int64_t row = 0; row < num_rows; ++row)
    read_contiguous(view.dtype, view.row_bytes(row).data(), width, out.data() + row * width);
}

}  // namespace

void read_f32(const WeightView& view, std::span<float> out) {
  const std::int64_t num_elements = view.num_elements();
  KVCRUSH_CHECK(static_cast<std::int64_t>(out.size()) == num_elements);
  KVCRUSH_CHECK(checked_num_bytes(view.dtype, view.shape) == static_cast<std::int64_t>(view.bytes.size()));
  if (view.head_rows.head_dim == 0) {
    read_contiguous(view.dtype, view.bytes.data(), num_elements, out.data());
  } else {
    read_permuted(view, out);
  }
  if (view.scale == 1.0F && view.offset == 0.0F) return;
  for (float& value : out) value = value * view.scale + view.offset;
}

}  // namespace kvcrush
