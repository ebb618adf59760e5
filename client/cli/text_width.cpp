#include "client/cli/text_width.h"

#include <locale.h>
#include <wchar.h>

#include <cstdint>
#include <vector>

namespace kvcrush::cli {
namespace {

constexpr const char* kEllipsis = "\xE2\x80\xA6";

struct Character {
  std::string bytes;
  int columns = 1;
};

// The C library knows how wide a character is, but only of the thread's locale.
int columns_of(char32_t code) {
  static const locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
  if (utf8 == nullptr) return 1;
  const locale_t before = uselocale(utf8);
  const int columns = wcwidth(static_cast<wchar_t>(code));
  uselocale(before);
  return columns;
}

// Bytes of the UTF-8 character at the text's start and its code; 0 bytes: there is none.
std::pair<std::size_t, char32_t> decode(std::string_view text) {
  const auto byte = [&text](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const std::uint8_t lead = byte(0);
  if (lead < 0x80) return {1, lead};
  const std::size_t length = lead >= 0xF0 && lead < 0xF5   ? 4
                             : lead >= 0xE0 && lead < 0xF0 ? 3
                             : lead >= 0xC2 && lead < 0xE0 ? 2
                                                           : 0;
  if (length == 0 || text.size() < length) return {0, 0};
  char32_t code = lead & (0x7FU >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0U) != 0x80) return {0, 0};
    code = (code << 6) | (byte(i) & 0x3FU);
  }
  return {length, code};
}

std::vector<Character> characters(std::string_view text) {
  std::vector<Character> result;
  while (!text.empty()) {
    const auto [length, code] = decode(text);
    const int columns = length == 0 ? -1 : columns_of(code);
    const std::size_t taken = length == 0 ? 1 : length;
    if (columns < 0)
      result.push_back({"?", 1});
    else
      result.push_back({std::string(text.substr(0, taken)), columns});
    text.remove_prefix(taken);
  }
  return result;
}

std::string blanks(int count) {
  return std::string(static_cast<std::size_t>(count > 0 ? count : 0), ' ');
}

}  // namespace

int text_columns(std::string_view text) {
  int columns = 0;
  for (const Character& character : characters(text)) columns += character.columns;
  return columns;
}

std::string truncate(std::string_view text, int columns) {
  std::string whole;
  std::string shortened;  // what leaves room for the ellipsis
  int used = 0;
  for (const Character& character : characters(text)) {
    used += character.columns;
    if (used > columns) return columns > 0 ? shortened + kEllipsis : "";
    whole += character.bytes;
    if (used < columns) shortened = whole;
  }
  return whole;
}

std::string fit_left(std::string_view text, int columns) {
  const std::string shown = truncate(text, columns);
  return shown + blanks(columns - text_columns(shown));
}

std::string fit_right(std::string_view text, int columns) {
  const std::string shown = truncate(text, columns);
  return blanks(columns - text_columns(shown)) + shown;
}

}  // namespace kvcrush::cli
