// Values written as text: what {{ }} prints, and JSON.
#pragma once

#include <optional>

#include "engine/tokenizer/jinja/value.h"

namespace kvcrush::jinja {

// As Python's str(). Text keeps its marks, also inside lists and dicts.
MarkedText to_text(const Value& value, Runtime& runtime);

// As Python's json.dumps(ensure_ascii=False). `indent`: spaces per level, on several lines; none: one line.
MarkedText to_json(const Value& value, std::optional<int> indent, Runtime& runtime);

}  // namespace kvcrush::jinja
