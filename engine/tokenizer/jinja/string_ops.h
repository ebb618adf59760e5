// Python's string methods over UTF-8, keeping track of what came out of a message.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/tokenizer/jinja/marked_text.h"
#include "engine/tokenizer/jinja/runtime.h"

namespace kvcrush::jinja {

// What str.isspace() says.
bool is_space(std::uint32_t code_point);

// Byte range that remains when the characters in `chars` (none: white space) are taken off the ends.
std::pair<std::size_t, std::size_t> trimmed_range(std::string_view text,
                                                  const std::optional<std::string_view>& chars, bool left,
                                                  bool right);
MarkedText trimmed(const MarkedText& text, const std::optional<MarkedText>& chars, Runtime& runtime,
                   bool left = true, bool right = true);

enum class Case {
  kUpper,
  kLower,
  kTitle,       // str.title(): a word begins after anything that is not a letter
  kTitleWords,  // the filter: a word begins after white space, '-' or an opening bracket
  kCapitalize,
};
// One code point becomes one: the few that grow, such as the German sharp s, stay as they are.
MarkedText with_case(const MarkedText& text, Case letters, Runtime& runtime);

// `separator` none: runs of white space. `max_splits` negative: no limit.
std::vector<MarkedText> split(const MarkedText& text, const std::optional<MarkedText>& separator,
                              std::int64_t max_splits, Runtime& runtime);
std::vector<MarkedText> split_lines(const MarkedText& text, Runtime& runtime);
// `max_count` negative: no limit.
MarkedText replaced(const MarkedText& text, const MarkedText& old_text, const MarkedText& new_text,
                    std::int64_t max_count, Runtime& runtime);
MarkedText repeated(const MarkedText& text, std::int64_t count, Runtime& runtime);

// As std::string_view::find, in linear time whatever is looked for.
std::size_t find_bytes(std::string_view text, std::string_view part, std::size_t from);

// Byte offset of each code point, and the size at the end.
std::vector<std::size_t> character_offsets(std::string_view text, Runtime& runtime);

}  // namespace kvcrush::jinja
