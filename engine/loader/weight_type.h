// Storage types of weights: how many elements a block holds and how many bytes it takes.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "engine/loader/model_file.h"

namespace kvcrush {

struct WeightBlock {
  std::int64_t num_elements = 1;
  std::int64_t num_bytes = 1;
};

WeightBlock weight_block(WeightDtype dtype);
std::string_view weight_dtype_name(WeightDtype dtype);  // as GGUF spells it, e.g. "Q4_1"

// "F32, F16, ...": for error messages.
std::string_view supported_weight_dtypes();

// Elements of a shape; nullopt when empty, when a dimension is below 1, or when the product exceeds 2^48.
std::optional<std::int64_t> checked_num_elements(std::span<const std::int64_t> shape);

// Bytes of a row-major tensor; nullopt as above, or when the innermost dimension is no whole number of
// blocks.
std::optional<std::int64_t> checked_num_bytes(WeightDtype dtype, std::span<const std::int64_t> shape);

std::string shape_text(std::span<const std::int64_t> shape);  // "[576, 1536]"

}  // namespace kvcrush
