// Text in columns of a terminal. What comes from others is shown without harm: control characters and broken
// UTF-8 become question marks.
#pragma once

#include <string>
#include <string_view>

namespace kvcrush::cli {

// Columns that the text takes once it is made harmless.
int text_columns(std::string_view text);

// At most so many columns; what does not fit ends in an ellipsis, never inside a character.
std::string truncate(std::string_view text, int columns);
// Exactly so many columns: truncated, or filled with blanks behind or in front.
std::string fit_left(std::string_view text, int columns);
std::string fit_right(std::string_view text, int columns);

}  // namespace kvcrush::cli
