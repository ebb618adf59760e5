// The GGUF container, versions 2 and 3, little endian. Everything read from the file is checked before it is
// used.
//
//   "GGUF" | u32 version | u64 num_tensors | u64 num_entries | entries | tensor infos | padding | tensor data
//   entry: string key, u32 type, value        tensor info: string name, u32 num_dims, u64 dims[], u32 type,
//   u64 offset
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/core/status.h"
#include "engine/loader/model_file.h"

namespace kvcrush {

enum class GgufType : std::uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

struct GgufArray {
  GgufType element_type = GgufType::kUint8;
  std::uint64_t count = 0;
  std::span<const std::byte> bytes;       // numbers and booleans, packed; empty for strings and arrays
  std::vector<std::string_view> strings;  // [count] for kString
  // Arrays of arrays are checked and skipped: no key that the engine reads has them.

  // Element `index` < count of an integer array, widened; 0 for other element types.
  std::int64_t integer_at(std::uint64_t index) const;
  bool is_integer() const;
  // The same of a boolean array.
  bool flag_at(std::uint64_t index) const;
  // Element `index` < count of an array of kFloat32.
  float float_at(std::uint64_t index) const;
};

// Unsigned integers are uint64, signed ones int64, floats double.
using GgufValue = std::variant<bool, std::uint64_t, std::int64_t, double, std::string_view, GgufArray>;

struct GgufTensor {
  std::string_view name;
  WeightView view;  // row-major shape: GGUF's dimensions reversed
  // Not empty: ggml's name of a type that the engine cannot read. Then the view has a shape, and no bytes.
  std::string unsupported_type = {};
};

// Views into the parsed bytes, which must outlive it.
struct GgufFile {
  std::uint32_t version = 0;
  std::uint64_t alignment = 32;  // bytes
  std::map<std::string_view, GgufValue> metadata;
  std::vector<GgufTensor> tensors;
};

// `source` names the file in errors. Any architecture will do, and tensors of any type: what of them the
// engine has is the next reader's question. Errors: INVALID_ARGUMENT.
Result<GgufFile> parse_gguf(std::span<const std::byte> bytes, const std::string& source);

}  // namespace kvcrush
