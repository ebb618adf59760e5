#include "engine/tokenizer/jinja/literals.h"

#include <charconv>
#include <cstdint>
#include <optional>

#include "engine/tokenizer/utf8.h"

namespace kvcrush::jinja {

namespace {

std::optional<std::uint32_t> hex_code(std::string_view digits, std::size_t num_digits) {
  std::uint32_t code = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
  const bool complete = digits.size() == num_digits && end == digits.data() + digits.size();
  const bool is_character = code <= 0x10FFFF && (code < 0xD800 || code > 0xDFFF);
  return error == std::errc() && complete && is_character ? std::optional(code) : std::nullopt;
}

}  // namespace

NumberLiteral read_number(std::string_view source) {
  NumberLiteral number;
  std::size_t& end = number.num_bytes;
  const auto take_digits = [&] {
    for (; end < source.size() && (is_digit(source[end]) || source[end] == '_'); ++end) {
      if (source[end] != '_') number.text += source[end];
    }
  };
  take_digits();
  if (end + 1 < source.size() && source[end] == '.' && is_digit(source[end + 1])) {
    number.is_float = true;
    number.text += source[end++];
    take_digits();
  }
  if (end < source.size() && (source[end] == 'e' || source[end] == 'E')) {
    std::size_t digit = end + 1;
    if (digit < source.size() && (source[digit] == '+' || source[digit] == '-')) ++digit;
    if (digit < source.size() && is_digit(source[digit])) {
      number.is_float = true;
      number.text += source.substr(end, digit - end);
      end = digit;
      take_digits();
    }
  }
  return number;
}

Result<std::string> unescape(std::string_view body) {
  std::string text;
  for (std::size_t i = 0; i < body.size(); ++i) {
    if (body[i] != '\\' || i + 1 == body.size()) {
      text += body[i];
      continue;
    }
    const char c = body[++i];
    constexpr std::string_view kLetters = "abfnrtv\\'\"";
    constexpr std::string_view kMeanings = "\a\b\f\n\r\t\v\\'\"";
    if (const std::size_t letter = kLetters.find(c); letter != std::string_view::npos) {
      text += kMeanings[letter];
    } else if (c == 'x' || c == 'u' || c == 'U') {
      const std::size_t num_digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      const std::string_view digits = body.substr(i + 1, num_digits);
      const std::optional<std::uint32_t> code = hex_code(digits, num_digits);
      if (!code) return invalid_argument("bad escape \"\\" + std::string(digits) + "\" in a string");
      utf8::append(text, *code);
      i += num_digits;
    } else if (c != '\n') {
      text += '\\';
      text += c;
    }
  }
  return text;
}

}  // namespace kvcrush::jinja
