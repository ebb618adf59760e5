// Text of unknown origin, such as a name in a file, as a message shows it.
#pragma once

#include <string>
#include <string_view>

namespace kvcrush {

// What is not printable ASCII as \xNN, and only the first 80 characters or so. Thus a file can neither fill a
// log nor give orders to the terminal that shows it.
std::string readable(std::string_view text);
// The same in single quotes.
std::string in_quotes(std::string_view text);

}  // namespace kvcrush
