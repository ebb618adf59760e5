// Walking over UTF-8 that may be broken.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace kvcrush::utf8 {

enum class Form {
  kValid,       // one whole code point
  kBroken,      // a maximal ill-formed subpart: no continuation can make it valid
  kUnfinished,  // the text ends inside a sequence that is valid so far
};

struct Step {
  Form form = Form::kValid;
  std::size_t num_bytes = 0;     // >= 1
  std::uint32_t code_point = 0;  // U+FFFD unless valid
};

// What stands at `offset`, which must be below text.size().
Step next(std::string_view text, std::size_t offset);

// Offset of the first byte of the first sequence that is not valid.
std::optional<std::size_t> first_error(std::string_view text);

// Unicode's White_Space.
bool is_white_space(std::uint32_t code_point);

void append(std::string& out, std::uint32_t code_point);

// Number of code points; each ill-formed subpart counts as one.
std::size_t count(std::string_view text);

}  // namespace kvcrush::utf8
