#include "engine/loader/hf_steps.h"

namespace kvcrush {

using nlohmann::json;

std::string step_type(const json& step) {
  const auto type = step.is_object() ? step.find("type") : step.end();
  return type != step.end() && type->is_string() ? type->get<std::string>() : std::string();
}

std::vector<const json*> read_steps(const json& tokenizer, const char* key, const char* list_key) {
  std::vector<const json*> steps;
  const auto field = tokenizer.find(key);
  if (field == tokenizer.end() || field->is_null()) return steps;
  const auto list = field->is_object() ? field->find(list_key) : field->end();
  if (step_type(*field) == "Sequence" && list != field->end() && list->is_array()) {
    for (const json& step : *list) steps.push_back(&step);
  } else {
    steps.push_back(&*field);
  }
  return steps;
}

std::string step_types(const std::vector<const json*>& steps) {
  std::string types;
  for (const json* step : steps) types += (types.empty() ? "" : " + ") + step_type(*step);
  return types;
}

bool has_string_pattern(const json& step, const char* text) {
  const auto pattern = step.is_object() ? step.find("pattern") : step.end();
  if (pattern == step.end() || !pattern->is_object()) return false;
  const auto string = pattern->find("String");
  return string != pattern->end() && *string == text;
}

}  // namespace kvcrush
