// The fields of one protobuf message, in the order in which it has them. Reads never pass the end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "engine/core/status.h"
#include "engine/loader/byte_cursor.h"

namespace kvcrush {

class ProtobufReader {
 public:
  ProtobufReader(std::span<const std::byte> message, const std::string& source) : cursor_(message, source) {}

  // Goes to the next field; false at the end of the message or where it is broken.
  bool next() {
    if (!cursor_.ok() || cursor_.remaining() == 0) return false;
    std::uint64_t tag = 0;
    if (!read_varint(tag)) return false;
    number_ = static_cast<std::uint32_t>(tag >> 3);
    wire_type_ = static_cast<int>(tag & 7);
    varint_ = 0;
    bytes_ = {};
    switch (wire_type_) {
      case 0:
        return read_varint(varint_);
      case 1:
        return cursor_.read_bytes(bytes_, 8, "a protobuf field");
      case 2: {
        std::uint64_t length = 0;
        return read_varint(length) && cursor_.read_bytes(bytes_, length, "a protobuf field");
      }
      case 5:
        return cursor_.read_bytes(bytes_, 4, "a protobuf field");
      default:
        return cursor_.fail("field " + std::to_string(number_) + " has wire type " +
                            std::to_string(wire_type_) + "; allowed: 0, 1, 2, 5");
    }
  }
  const Status& status() const { return cursor_.status(); }

  // Of the field that next() went to. A value of another wire type is an error and reads as zero.
  std::uint32_t number() const { return number_; }
  std::int64_t integer() { return is(0) ? static_cast<std::int64_t>(varint_) : 0; }
  std::span<const std::byte> message() { return is(2) ? bytes_ : std::span<const std::byte>(); }
  std::string_view text() {
    const auto bytes = message();
    // char may alias any object.
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  float number_f32() {
    float value = 0;
    if (is(5)) std::memcpy(&value, bytes_.data(), sizeof(value));
    return value;
  }

 private:
  bool is(int wire_type) {
    return wire_type_ == wire_type ||
           cursor_.fail("field " + std::to_string(number_) + " has wire type " + std::to_string(wire_type_) +
                        "; expected " + std::to_string(wire_type));
  }
  bool read_varint(std::uint64_t& value) {
    value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      std::uint8_t byte = 0;
      if (!cursor_.read(byte, "a protobuf number")) return false;
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return true;
    }
    return cursor_.fail("a protobuf number is longer than 10 bytes");
  }

  ByteCursor cursor_;
  std::uint32_t number_ = 0;
  int wire_type_ = 0;
  std::uint64_t varint_ = 0;
  std::span<const std::byte> bytes_;
};

}  // namespace kvcrush
