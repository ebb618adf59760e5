#include <algorithm>

#include "engine/tokenizer/jinja/builtins.h"

namespace kvcrush::jinja {

void Arguments::allow(std::initializer_list<std::string_view> names) const {
  if (positional.size() > names.size()) {
    throw TemplateError(callee + "() takes at most " + std::to_string(names.size()) + " arguments");
  }
  for (const auto& [name, value] : named) {
    const auto place = std::find(names.begin(), names.end(), name);
    if (place == names.end()) throw TemplateError(callee + "() has no argument \"" + name + "\"");
    if (place - names.begin() < static_cast<std::ptrdiff_t>(positional.size())) {
      throw TemplateError(callee + "() is given its argument \"" + name + "\" twice");
    }
  }
}

const Value* Arguments::find(std::size_t index, std::string_view name) const {
  if (index < positional.size()) return &positional[index];
  for (const auto& [other, value] : named) {
    if (other == name) return &value;
  }
  return nullptr;
}

const Value& Arguments::require(std::size_t index, std::string_view name) const {
  const Value* value = find(index, name);
  if (value == nullptr) throw TemplateError(callee + "() needs the argument \"" + std::string(name) + "\"");
  return *value;
}

const MarkedText& Arguments::require_text(std::size_t index, std::string_view name) const {
  return to_marked_text(require(index, name), "\"" + std::string(name) + "\" of " + callee + "()");
}

std::optional<MarkedText> Arguments::find_text(std::size_t index, std::string_view name) const {
  const Value* value = find(index, name);
  if (value == nullptr || value->is<None>()) return std::nullopt;
  return require_text(index, name);
}

std::int64_t Arguments::int_or(std::size_t index, std::string_view name, std::int64_t fallback) const {
  const Value* value = find(index, name);
  if (value == nullptr || value->is<None>()) return fallback;
  return to_int(*value, "\"" + std::string(name) + "\" of " + callee + "()");
}

bool Arguments::flag(std::size_t index, std::string_view name) const {
  const Value* value = find(index, name);
  return value != nullptr && is_true(*value);
}

}  // namespace kvcrush::jinja
