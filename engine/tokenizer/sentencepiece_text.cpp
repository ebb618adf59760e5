#include "engine/tokenizer/sentencepiece_text.h"

#include <charconv>

namespace kvcrush {

std::string spaces_from_escapes(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  std::size_t offset = 0;
  for (std::size_t found = 0; (found = text.find(kEscapedSpace, offset)) != std::string_view::npos;) {
    result.append(text, offset, found - offset).push_back(' ');
    offset = found + kEscapedSpace.size();
  }
  return result.append(text, offset);
}

std::optional<std::string> byte_of_spelling(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text.back() != '>') return std::nullopt;
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data() + 3, text.data() + 5, value, 16);
  if (error != std::errc() || end != text.data() + 5) return std::nullopt;
  return std::string(1, static_cast<char>(value));
}

}  // namespace kvcrush
