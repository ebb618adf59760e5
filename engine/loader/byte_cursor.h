// Reads little-endian values from a span and never past its end. The first failure is kept with its offset;
// afterwards every read fails.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "engine/core/readable.h"
#include "engine/core/status.h"

namespace kvcrush {

class ByteCursor {
 public:
  ByteCursor(std::span<const std::byte> bytes, std::string source)
      : bytes_(bytes), source_(std::move(source)) {}

  std::size_t offset() const { return offset_; }
  std::size_t remaining() const { return bytes_.size() - offset_; }
  bool ok() const { return status_.ok(); }
  const Status& status() const { return status_; }

  // `what` says what was expected, for the error.
  template <typename T>
  bool read(T& out, std::string_view what) {
    static_assert(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>);
    if (!require(sizeof(T), what)) return false;
    std::memcpy(&out, bytes_.data() + offset_, sizeof(T));
    offset_ += sizeof(T);
    return true;
  }

  bool read_bytes(std::span<const std::byte>& out, std::uint64_t num_bytes, std::string_view what) {
    if (!require(num_bytes, what)) return false;
    out = bytes_.subspan(offset_, static_cast<std::size_t>(num_bytes));
    offset_ += out.size();
    return true;
  }

  // A 64-bit length, then that many bytes.
  bool read_string(std::string_view& out, std::string_view what) {
    std::uint64_t length = 0;
    std::span<const std::byte> bytes;
    if (!read(length, what) || !read_bytes(bytes, length, what)) return false;
    // char may alias any object; the bytes live as long as the mapping.
    out = {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
    return true;
  }

  // A 64-bit count of items that take at least `min_item_bytes` each: refused where they cannot fit in what
  // is left.
  bool read_count(std::uint64_t& out, std::size_t min_item_bytes, std::string_view what) {
    if (!read(out, what)) return false;
    if (out <= remaining() / min_item_bytes) return true;
    offset_ -= sizeof(std::uint64_t);
    return fail(readable(what) + " is " + std::to_string(out) + ", more than the " +
                std::to_string(remaining()) + " bytes left can hold");
  }

  // Always false, so that callers can return it.
  bool fail(const std::string& message) {
    if (status_.ok()) {
      status_ = invalid_argument(source_ + ": at byte " + std::to_string(offset_) + ": " + message);
    }
    return false;
  }

 private:
  bool require(std::uint64_t num_bytes, std::string_view what) {
    if (!status_.ok()) return false;
    if (num_bytes <= remaining()) return true;
    return fail("expected " + std::to_string(num_bytes) + " bytes of " + readable(what) + ", the file has " +
                std::to_string(remaining()) + " left");
  }

  std::span<const std::byte> bytes_;
  std::string source_;
  std::size_t offset_ = 0;
  Status status_;
};

}  // namespace kvcrush
