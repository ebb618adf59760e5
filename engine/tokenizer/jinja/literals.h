// Numbers and strings as templates write them.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "engine/core/status.h"

namespace kvcrush::jinja {

inline bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

struct NumberLiteral {
  std::string text;  // without underscores
  bool is_float = false;
  std::size_t num_bytes = 0;  // of the source
};
// The number that `source` begins with; its first character is a digit.
NumberLiteral read_number(std::string_view source);

// What is between a string's quotes, with its escapes resolved.
Result<std::string> unescape(std::string_view body);

}  // namespace kvcrush::jinja
