#include "engine/loader/weight_type.h"

#include <array>
#include <cstddef>

namespace kvcrush {
namespace {

struct TypeInfo {
  std::string_view name;
  WeightBlock block;
};

// Indexed by WeightDtype. Block layouts: see dequantize.cpp.
constexpr std::array<TypeInfo, 6> kTypes = {{
    {"F32", {1, 4}},
    {"F16", {1, 2}},
    {"BF16", {1, 2}},
    {"Q8_0", {32, 34}},
    {"Q4_0", {32, 18}},
    {"Q4_1", {32, 20}},
}};

constexpr std::int64_t kMaxElements = std::int64_t{1} << 48;

const TypeInfo& info(WeightDtype dtype) {
  return kTypes.at(static_cast<std::size_t>(dtype));
}

}  // namespace

WeightBlock weight_block(WeightDtype dtype) {
  return info(dtype).block;
}

std::string_view weight_dtype_name(WeightDtype dtype) {
  return info(dtype).name;
}

std::string_view supported_weight_dtypes() {
  return "F32, F16, BF16, Q8_0, Q4_0, Q4_1";
}

std::optional<std::int64_t> checked_num_elements(std::span<const std::int64_t> shape) {
  if (shape.empty()) return std::nullopt;
  std::int64_t product = 1;
  for (const std::int64_t dimension : shape) {
    if (dimension < 1 || dimension > kMaxElements / product) return std::nullopt;
    product *= dimension;
  }
  return product;
}

std::optional<std::int64_t> checked_num_bytes(WeightDtype dtype, std::span<const std::int64_t> shape) {
  const std::optional<std::int64_t> num_elements = checked_num_elements(shape);
  const WeightBlock block = weight_block(dtype);
  if (!num_elements || shape.back() % block.num_elements != 0) return std::nullopt;
  return *num_elements / block.num_elements * block.num_bytes;
}

std::string shape_text(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

}  // namespace kvcrush
