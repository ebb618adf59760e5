#include "engine/core/readable.h"

namespace kvcrush {
namespace {

constexpr std::size_t kMaxShownBytes = 80;
constexpr std::string_view kHexDigits = "0123456789abcdef";

}  // namespace

std::string readable(std::string_view text) {
  std::string shown;
  for (const char c : text) {
    if (shown.size() >= kMaxShownBytes) return shown + "...";
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7F) {
      shown += c;
    } else {
      shown += "\\x";
      shown += kHexDigits[byte >> 4];
      shown += kHexDigits[byte & 15];
    }
  }
  return shown;
}

std::string in_quotes(std::string_view text) {
  return "'" + readable(text) + "'";
}

}  // namespace kvcrush
