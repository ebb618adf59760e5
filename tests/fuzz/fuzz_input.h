// Takes a fuzzer's input apart, from its front. A spent input yields zeros and empty strings, so that every
// input means something.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace kvcrush::fuzz {

class FuzzInput {
 public:
  FuzzInput(const std::uint8_t* data, std::size_t size)
      // char may alias any object.
      : bytes_(reinterpret_cast<const char*>(data), size) {}

  bool empty() const { return bytes_.empty(); }

  template <typename T>
  T number() {
    T value{};
    const std::string_view bytes = take(sizeof(T));
    std::memcpy(&value, bytes.data(), bytes.size());
    return value;
  }
  // In [0, limit); 0 where limit is 0.
  std::size_t below(std::size_t limit) { return limit == 0 ? 0 : number<std::uint8_t>() % limit; }
  bool flag() { return (number<std::uint8_t>() & 1) != 0; }

  // A byte that says how many, then so many bytes.
  std::string text() { return std::string(take(number<std::uint8_t>())); }
  // Up to the next `separator`, which is taken too.
  std::string_view until(std::string_view separator) {
    const std::size_t end = bytes_.find(separator);
    if (end == std::string_view::npos) return rest();
    const std::string_view part = take(end);
    take(separator.size());
    return part;
  }
  std::string_view rest() { return take(bytes_.size()); }

 private:
  std::string_view take(std::size_t num_bytes) {
    const std::string_view part = bytes_.substr(0, std::min(num_bytes, bytes_.size()));
    bytes_.remove_prefix(part.size());
    return part;
  }

  std::string_view bytes_;
};

}  // namespace kvcrush::fuzz
