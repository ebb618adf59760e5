// Writers of protobuf messages for the loader's tests.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>

namespace kvcrush::testing {

inline std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value > 127; value >>= 7) bytes.push_back(static_cast<char>((value & 127) | 128));
  bytes.push_back(static_cast<char>(value));
  return bytes;
}
inline std::string field(std::uint32_t number, std::uint64_t value) {
  return varint(std::uint64_t{number} << 3) + varint(value);
}
inline std::string field(std::uint32_t number, int value) {
  return field(number, static_cast<std::uint64_t>(value));
}
inline std::string field(std::uint32_t number, float value) {
  std::string bytes(sizeof(value), '\0');
  std::memcpy(bytes.data(), &value, sizeof(value));
  return varint((std::uint64_t{number} << 3) | 5) + bytes;
}
inline std::string field(std::uint32_t number, const std::string& bytes) {
  return varint((std::uint64_t{number} << 3) | 2) + varint(bytes.size()) + bytes;
}
inline std::string field(std::uint32_t number, const char* text) {
  return field(number, std::string(text));
}

inline std::string piece(const std::string& text, float score, int type) {
  return field(1, field(1, text) + field(2, score) + field(3, type));
}

// A tokenizer.model of six BPE pieces.
inline std::string small_sentencepiece() {
  return piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3) + piece("\u2581", -2, 1) +
         piece("a", -1, 1) + piece("\u2581\u2581", 0, 4) + field(2, field(3, 2)) +
         field(3, field(1, "identity") + field(4, 0));
}

}  // namespace kvcrush::testing
