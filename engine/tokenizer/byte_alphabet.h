// GPT-2's spelling of bytes as printable code points, in which byte-level vocabularies are written.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace kvcrush {

// The bytes that `spelling` stands for; none where a code point is not of the alphabet.
std::optional<std::string> bytes_from_alphabet(std::string_view spelling);

// The spelling of `bytes`.
std::string alphabet_from_bytes(std::string_view bytes);

}  // namespace kvcrush
