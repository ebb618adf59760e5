// JSON text as values of the template language.
#pragma once

#include <string_view>

#include "engine/tokenizer/jinja/value.h"

namespace kvcrush::jinja {

// As Python's json.loads: keys in order, the last of equal keys counts. All text is marked as a message's.
// Throws TemplateError with the byte (from 0) where it breaks. Integers beyond 64 bits are refused.
Value parse_json(std::string_view text, Runtime& runtime);

}  // namespace kvcrush::jinja
