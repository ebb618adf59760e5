// Values written as text: what {{ }} prints, and JSON.
#pragma once

#include <optional>
#include <string>

#include "engine/tokenizer/jinja/value.h"

namespace kvcrush::jinja {

// As Python's str(). Text keeps its marks, also inside lists and dicts.
MarkedText to_text(const Value& value, Runtime& runtime);

// The arguments of Python's json.dumps, with the defaults that chat templates get.
struct JsonStyle {
  std::optional<int> indent;  // spaces per level, on several lines; none: one line
  bool ensure_ascii = false;
  bool sort_keys = false;
  MarkedText item_separator{", "};
  MarkedText key_separator{": "};
};
MarkedText to_json(const Value& value, const JsonStyle& style, Runtime& runtime);

}  // namespace kvcrush::jinja
