// Steps of a tokenizer.json: objects with a "type", alone or in a Sequence.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace kvcrush {

// Empty where it has none.
std::string step_type(const nlohmann::json& step);
// The steps of field `key` of `tokenizer` in their order, those of a Sequence under its `list_key`. None
// where the field is absent or null.
std::vector<const nlohmann::json*> read_steps(const nlohmann::json& tokenizer, const char* key,
                                              const char* list_key);
// "A + B"
std::string step_types(const std::vector<const nlohmann::json*>& steps);
// Whether `step` has a "pattern" of the form {"String": text}.
bool has_string_pattern(const nlohmann::json& step, const char* text);

}  // namespace kvcrush
