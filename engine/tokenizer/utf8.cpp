#include "engine/tokenizer/utf8.h"

#include <cstring>

namespace kvcrush::utf8 {
namespace {

constexpr std::uint32_t kReplacement = 0xFFFD;

std::uint8_t byte_at(std::string_view text, std::size_t offset) {
  return static_cast<std::uint8_t>(text[offset]);
}

struct Lead {
  std::size_t num_bytes = 0;  // 0: cannot begin a sequence
  std::uint8_t second_min = 0x80;
  std::uint8_t second_max = 0xBF;
};

// The second byte's range is narrower after some leads: overlong forms, surrogates and values above U+10FFFF.
Lead classify(std::uint8_t byte) {
  if (byte >= 0xC2 && byte <= 0xDF) return {2};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte >= 0xE1 && byte <= 0xEF) return {3};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  if (byte >= 0xF1 && byte <= 0xF3) return {4};
  return {};
}

}  // namespace

Step next(std::string_view text, std::size_t offset) {
  const std::uint8_t first = byte_at(text, offset);
  if (first < 0x80) return {Form::kValid, 1, first};
  const Lead lead = classify(first);
  if (lead.num_bytes == 0) return {Form::kBroken, 1, kReplacement};
  std::uint32_t code_point = first & (0xFFU >> (lead.num_bytes + 1));
  for (std::size_t i = 1; i < lead.num_bytes; ++i) {
    if (offset + i == text.size()) return {Form::kUnfinished, i, kReplacement};
    const std::uint8_t byte = byte_at(text, offset + i);
    const std::uint8_t min = i == 1 ? lead.second_min : 0x80;
    const std::uint8_t max = i == 1 ? lead.second_max : 0xBF;
    if (byte < min || byte > max) return {Form::kBroken, i, kReplacement};
    code_point = (code_point << 6) | (byte & 0x3FU);
  }
  return {Form::kValid, lead.num_bytes, code_point};
}

std::optional<std::size_t> first_error(std::string_view text) {
  std::size_t offset = 0;
  while (offset < text.size()) {
    // Eight ASCII bytes at a time: most text is ASCII.
    while (offset + 8 <= text.size()) {
      std::uint64_t word = 0;
      std::memcpy(&word, text.data() + offset, 8);
      if ((word & 0x8080808080808080ULL) != 0) break;
      offset += 8;
    }
    if (offset == text.size()) break;
    const Step step = next(text, offset);
    if (step.form != Form::kValid) return offset;
    offset += step.num_bytes;
  }
  return std::nullopt;
}

bool is_white_space(std::uint32_t code_point) {
  if (code_point < 0x1680) {
    return (code_point >= 0x09 && code_point <= 0x0D) || code_point == 0x20 || code_point == 0x85 ||
           code_point == 0xA0;
  }
  return code_point == 0x1680 || (code_point >= 0x2000 && code_point <= 0x200A) || code_point == 0x2028 ||
         code_point == 0x2029 || code_point == 0x202F || code_point == 0x205F || code_point == 0x3000;
}

void append(std::string& out, std::uint32_t code_point) {
  const auto put = [&out](std::uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | (code_point >> 6));
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | (code_point >> 12));
    put(0x80 | ((code_point >> 6) & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | (code_point >> 18));
    put(0x80 | ((code_point >> 12) & 0x3F));
    put(0x80 | ((code_point >> 6) & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

std::size_t count(std::string_view text) {
  std::size_t num_code_points = 0;
  for (std::size_t offset = 0; offset < text.size(); offset += next(text, offset).num_bytes)
    ++num_code_points;
  return num_code_points;
}

}  // namespace kvcrush::utf8
