// Operators of the template language, with Python's meaning.
#pragma once

#include <string_view>

#include "engine/tokenizer/jinja/value.h"

namespace kvcrush::jinja {

// + - * / // % ** ~
Value binary_operation(std::string_view symbol, const Value& left, const Value& right, Runtime& runtime);
Value negated(const Value& value);
// == != < <= > >= in, not in
bool compare(std::string_view symbol, const Value& left, const Value& right, Runtime& runtime);

// object.name; undefined when there is none.
Value attribute_of(const Value& object, const std::string& name, Runtime& runtime);
// object[key]; undefined when there is none.
Value item_of(const Value& object, const Value& key, Runtime& runtime);
// object[start:stop:step]; null and none: not given.
Value slice_of(const Value& object, const Value* start, const Value* stop, const Value* step,
               Runtime& runtime);

}  // namespace kvcrush::jinja
