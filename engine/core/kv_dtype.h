// How K and V are stored. A pool block is a number of bytes; how many tokens fit follows from the dtype.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/core/status.h"

namespace kvcrush {

enum class KvDtype : std::int32_t { kF32, kBF16, kF16, kInt8, kInt4 };

constexpr std::string_view to_string(KvDtype dtype) {
  switch (dtype) {
    case KvDtype::kF32:
      return "f32";
    case KvDtype::kBF16:
      return "bf16";
    case KvDtype::kF16:
      return "f16";
    case KvDtype::kInt8:
      return "int8";
    case KvDtype::kInt4:
      break;
  }
  return "int4";
}

constexpr bool is_quantised(KvDtype dtype) {
  return dtype == KvDtype::kInt8 || dtype == KvDtype::kInt4;
}

// INVALID_ARGUMENT naming kv_dtype and what is allowed.
Result<KvDtype> parse_kv_dtype(const std::string& name);

}  // namespace kvcrush
