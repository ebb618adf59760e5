#include "engine/core/kv_dtype.h"

#include <array>

namespace kvcrush {

Result<KvDtype> parse_kv_dtype(const std::string& name) {
  constexpr std::array kAll = {KvDtype::kF32, KvDtype::kBF16, KvDtype::kF16, KvDtype::kInt8, KvDtype::kInt4};
  for (const KvDtype dtype : kAll) {
    if (name == to_string(dtype)) return dtype;
  }
  return invalid_argument("kv_dtype is '" + name + "'; allowed: f32, bf16, f16, int8, int4");
}

}  // namespace kvcrush
