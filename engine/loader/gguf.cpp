#include "engine/loader/gguf.h"

#include <algorithm>
#include <bit>

#include "engine/core/readable.h"
#include "engine/loader/byte_cursor.h"
#include "engine/loader/gguf_tensors.h"

namespace kvcrush {
namespace {

constexpr std::uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr std::size_t kMaxKeyBytes = 65535;
constexpr std::uint64_t kMaxAlignment = 1u << 20;
constexpr int kMaxArrayDepth = 4;
constexpr std::size_t kMinEntryBytes = 8 + 4 + 1;
// Far above what models have. A sparse file may be larger than memory and disk, so its size alone is no
// bound.
constexpr std::uint64_t kMaxTensors = 1u << 16;
constexpr std::uint64_t kMaxEntries = 1u << 16;
constexpr std::uint64_t kMaxArrayItems = 1u << 24;  // strings and arrays in arrays, of all entries together

// Bytes of one number or boolean; 0 for strings, arrays and unknown types.
std::size_t scalar_bytes(GgufType type) {
  switch (type) {
    case GgufType::kUint8:
    case GgufType::kInt8:
    case GgufType::kBool:
      return 1;
    case GgufType::kUint16:
    case GgufType::kInt16:
      return 2;
    case GgufType::kUint32:
    case GgufType::kInt32:
    case GgufType::kFloat32:
      return 4;
    case GgufType::kUint64:
    case GgufType::kInt64:
    case GgufType::kFloat64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      break;
  }
  return 0;
}

class GgufParser {
 public:
  GgufParser(std::span<const std::byte> bytes, const std::string& source)
      : bytes_(bytes), cursor_(bytes, source) {}

  Result<GgufFile> parse() {
    std::uint64_t num_tensors = 0;
    std::uint64_t num_entries = 0;
    const bool ok = read_preamble(num_tensors, num_entries) && read_entries(num_entries) &&
                    check_alignment() && read_gguf_tensors(cursor_, bytes_, num_tensors, file_);
    if (!ok) return cursor_.status();
    return std::move(file_);
  }

 private:
  bool read_preamble(std::uint64_t& num_tensors, std::uint64_t& num_entries) {
    std::uint32_t magic = 0;
    if (!cursor_.read(magic, "the magic 'GGUF'")) return false;
    if (magic != kMagic) return cursor_.fail("expected the magic 'GGUF' at byte 0: not a GGUF file");
    if (!cursor_.read(file_.version, "format version")) return false;
    if (file_.version != 2 && file_.version != 3) {
      const bool big_endian = file_.version != 0 && (file_.version & 0xffffu) == 0;
      return cursor_.fail(big_endian
                              ? "big-endian GGUF is not supported"
                              : "GGUF version is " + std::to_string(file_.version) + "; supported: 2, 3");
    }
    return read_limited_count(num_tensors, kMinTensorInfoBytes, kMaxTensors, "number of tensors") &&
           read_limited_count(num_entries, kMinEntryBytes, kMaxEntries, "number of metadata entries");
  }

  bool read_limited_count(std::uint64_t& out, std::size_t min_item_bytes, std::uint64_t max,
                          std::string_view what) {
    if (!cursor_.read_count(out, min_item_bytes, what)) return false;
    if (out <= max) return true;
    return cursor_.fail(std::string(what) + " is " + std::to_string(out) + "; allowed: up to " +
                        std::to_string(max));
  }

  bool read_entries(std::uint64_t num_entries) {
    for (std::uint64_t i = 0; i < num_entries; ++i) {
      std::string_view key;
      std::uint32_t type = 0;
      GgufValue value;
      if (!cursor_.read_string(key, "metadata key")) return false;
      if (key.empty() || key.size() > kMaxKeyBytes) {
        return cursor_.fail("metadata key of " + std::to_string(key.size()) + " bytes; allowed: 1 to 65535");
      }
      if (!cursor_.read(type, "type of a metadata value") || !read_value(key, type, value)) return false;
      if (!file_.metadata.emplace(key, std::move(value)).second) {
        return cursor_.fail("metadata key " + in_quotes(key) + " occurs twice");
      }
    }
    return true;
  }

  template <typename Stored, typename Widened>
  bool read_scalar(std::string_view key, GgufValue& value) {
    Stored stored{};
    if (!cursor_.read(stored, key)) return false;
    value = static_cast<Widened>(stored);
    return true;
  }

  bool read_value(std::string_view key, std::uint32_t type, GgufValue& value) {
    switch (static_cast<GgufType>(type)) {
      case GgufType::kUint8:
        return read_scalar<std::uint8_t, std::uint64_t>(key, value);
      case GgufType::kUint16:
        return read_scalar<std::uint16_t, std::uint64_t>(key, value);
      case GgufType::kUint32:
        return read_scalar<std::uint32_t, std::uint64_t>(key, value);
      case GgufType::kUint64:
        return read_scalar<std::uint64_t, std::uint64_t>(key, value);
      case GgufType::kInt8:
        return read_scalar<std::int8_t, std::int64_t>(key, value);
      case GgufType::kInt16:
        return read_scalar<std::int16_t, std::int64_t>(key, value);
      case GgufType::kInt32:
        return read_scalar<std::int32_t, std::int64_t>(key, value);
      case GgufType::kInt64:
        return read_scalar<std::int64_t, std::int64_t>(key, value);
      case GgufType::kFloat32:
        return read_scalar<float, double>(key, value);
      case GgufType::kFloat64:
        return read_scalar<double, double>(key, value);
      case GgufType::kBool: {
        std::uint8_t stored = 0;
        if (!cursor_.read(stored, key)) return false;
        if (stored > 1) return cursor_.fail("boolean " + in_quotes(key) + " is " + std::to_string(stored));
        value = stored == 1;
        return true;
      }
      case GgufType::kString: {
        std::string_view text;
        if (!cursor_.read_string(text, key)) return false;
        value = text;
        return true;
      }
      case GgufType::kArray: {
        GgufArray array;
        if (!read_array(key, 1, array)) return false;
        value = std::move(array);
        return true;
      }
    }
    return cursor_.fail("metadata key " + in_quotes(key) + " has type " + std::to_string(type) +
                        "; known: 0 to 12");
  }

  bool read_array(std::string_view key, int depth, GgufArray& array) {
    if (depth > kMaxArrayDepth) {
      return cursor_.fail("arrays in " + in_quotes(key) + " are nested deeper than " +
                          std::to_string(kMaxArrayDepth));
    }
    std::uint32_t type = 0;
    if (!cursor_.read(type, key)) return false;
    if (type > static_cast<std::uint32_t>(GgufType::kFloat64)) {
      return cursor_.fail("array " + in_quotes(key) + " has element type " + std::to_string(type) +
                          "; known: 0 to 12");
    }
    array.element_type = static_cast<GgufType>(type);
    const std::size_t element_bytes = scalar_bytes(array.element_type);
    const std::size_t min_bytes = array.element_type == GgufType::kString  ? 8
                                  : array.element_type == GgufType::kArray ? 12
                                                                           : element_bytes;
    if (!cursor_.read_count(array.count, min_bytes, key)) return false;
    if (element_bytes > 0) return cursor_.read_bytes(array.bytes, array.count * element_bytes, key);
    if (array.count > kMaxArrayItems - num_array_items_) {
      return cursor_.fail("array " + in_quotes(key) + " has " + std::to_string(array.count) +
                          " items; allowed in a file: up to " + std::to_string(kMaxArrayItems));
    }
    num_array_items_ += array.count;
    if (array.element_type == GgufType::kString) {
      array.strings.resize(static_cast<std::size_t>(array.count));
      return std::all_of(array.strings.begin(), array.strings.end(),
                         [&](std::string_view& text) { return cursor_.read_string(text, key); });
    }
    for (std::uint64_t i = 0; i < array.count; ++i) {
      GgufArray skipped;
      if (!read_array(key, depth + 1, skipped)) return false;
    }
    return true;
  }

  bool check_alignment() {
    const auto found = file_.metadata.find("general.alignment");
    if (found == file_.metadata.end()) return true;
    const auto* alignment = std::get_if<std::uint64_t>(&found->second);
    if (alignment == nullptr || !std::has_single_bit(*alignment) || *alignment > kMaxAlignment) {
      return cursor_.fail("'general.alignment' must be a power of two of at most " +
                          std::to_string(kMaxAlignment) +
                          (alignment == nullptr ? "" : ", it is " + std::to_string(*alignment)));
    }
    file_.alignment = *alignment;
    return true;
  }

  std::span<const std::byte> bytes_;
  ByteCursor cursor_;
  GgufFile file_;
  std::uint64_t num_array_items_ = 0;
};

template <typename T>
std::int64_t element(std::span<const std::byte> bytes, std::uint64_t index) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return static_cast<std::int64_t>(value);
}

}  // namespace

bool GgufArray::is_integer() const {
  return scalar_bytes(element_type) > 0 && element_type != GgufType::kBool &&
         element_type != GgufType::kFloat32 && element_type != GgufType::kFloat64;
}

bool GgufArray::flag_at(std::uint64_t index) const {
  KVCRUSH_CHECK(index < count && element_type == GgufType::kBool);
  return bytes[index] != std::byte{0};
}

std::int64_t GgufArray::integer_at(std::uint64_t index) const {
  KVCRUSH_CHECK(index < count);
  switch (element_type) {
    case GgufType::kUint8:
      return element<std::uint8_t>(bytes, index);
    case GgufType::kInt8:
      return element<std::int8_t>(bytes, index);
    case GgufType::kUint16:
      return element<std::uint16_t>(bytes, index);
    case GgufType::kInt16:
      return element<std::int16_t>(bytes, index);
    case GgufType::kUint32:
      return element<std::uint32_t>(bytes, index);
    case GgufType::kInt32:
      return element<std::int32_t>(bytes, index);
    case GgufType::kUint64:
      return element<std::uint64_t>(bytes, index);
    case GgufType::kInt64:
      return element<std::int64_t>(bytes, index);
    default:
      return 0;
  }
}

float GgufArray::float_at(std::uint64_t index) const {
  KVCRUSH_CHECK(element_type == GgufType::kFloat32 && index < count);
  float value = 0;
  std::memcpy(&value, bytes.data() + index * sizeof(value), sizeof(value));
  return value;
}

Result<GgufFile> parse_gguf(std::span<const std::byte> bytes, const std::string& source) {
  Result<GgufFile> file = GgufParser(bytes, source).parse();
  if (file.ok()) {
    for (GgufTensor& tensor : file->tensors) tensor.view.stored = {source, std::string(tensor.name)};
  }
  return file;
}

}  // namespace kvcrush
