// SentencePiece writes a space as U+2581. Inside this engine it is a space: text then seldom changes at all.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace kvcrush {

inline constexpr std::string_view kEscapedSpace = "\xE2\x96\x81";

std::string spaces_from_escapes(std::string_view text);
// "<0x0A>" -> "\n"; nothing where it is not so spelled.
std::optional<std::string> byte_of_spelling(std::string_view text);

}  // namespace kvcrush
