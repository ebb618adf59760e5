// Unicode's normal form C: characters that can be written in one code point or several, in one.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace kvcrush {

// Nothing where `text`, which must be valid UTF-8, is in that form already. Time O(n log n), whatever it
// holds.
std::optional<std::string> compose_nfc(std::string_view text);

}  // namespace kvcrush
