#include "engine/loader/weight_type.h"

#include <array>
#include <cstddef>

namespace kvcrush {
namespace {

struct TypeInfo {
  std::string_view name;
  WeightBlock block;
};

// Indexed by WeightDtype. Block layouts: see quant_blocks.cpp and k_quants.cpp.
constexpr std::array<TypeInfo, 15> kTypes = {{
    {"F32", {1, 4}},
    {"F16", {1, 2}},
    {"BF16", {1, 2}},
    {"Q8_0", {32, 34}},
    {"Q4_0", {32, 18}},
    {"Q4_1", {32, 20}},
    {"Q5_0", {32, 22}},
    {"Q5_1", {32, 24}},
    {"Q2_K", {256, 84}},
    {"Q3_K", {256, 110}},
    {"Q4_K", {256, 144}},
    {"Q5_K", {256, 176}},
    {"Q6_K", {256, 210}},
    {"IQ4_NL", {32, 18}},
    {"IQ4_XS", {256, 136}},
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
  static const std::string names = [] {
    std::string joined;
    for (const TypeInfo& type : kTypes) joined += (joined.empty() ? "" : ", ") + std::string(type.name);
    return joined;
  }();
  return names;
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
