// str.format() as far as templates use it: "{}", "{0}", "{name}", and braces doubled for themselves.
#include <charconv>

#include "engine/tokenizer/jinja/builtins.h"
#include "engine/tokenizer/jinja/value_text.h"

namespace kvcrush::jinja {
namespace {

const Value& field_value(std::string_view field, std::size_t& next, const Arguments& arguments) {
  if (field.find_first_of("!:.[") != std::string_view::npos)
    throw TemplateError("format() supports only fields that are empty, a number or a name");
  if (!field.empty() && (field[0] < '0' || field[0] > '9')) {
    for (const auto& [name, value] : arguments.named) {
      if (name == field) return value;
    }
    throw TemplateError("format() has no argument \"" + std::string(field) + "\"");
  }
  std::size_t index = next;
  if (field.empty()) {
    ++next;
  } else if (const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), index);
             error != std::errc() || end != field.data() + field.size()) {
    throw TemplateError("format() has no argument \"" + std::string(field) + "\"");
  }
  if (index >= arguments.positional.size())
    throw TemplateError("format() has " + std::to_string(arguments.positional.size()) +
                        " arguments without a name, and its text asks for more");
  return arguments.positional[index];
}

}  // namespace

Value format_text(const MarkedText& text, const Arguments& arguments, Runtime& runtime) {
  runtime.charge_bytes(text.memory_bytes());
  const std::string& bytes = text.text();
  MarkedText out;
  std::size_t next = 0;
  for (std::size_t offset = 0; offset < bytes.size();) {
    const std::size_t brace = bytes.find_first_of("{}", offset);
    out.append(text, offset, std::min(brace, bytes.size()));
    if (brace == std::string::npos) break;
    if (brace + 1 < bytes.size() && bytes[brace + 1] == bytes[brace]) {
      out.append(text, brace, brace + 1);
      offset = brace + 2;
      continue;
    }
    const std::size_t end = bytes[brace] == '{' ? bytes.find('}', brace) : std::string::npos;
    if (end == std::string::npos) throw TemplateError("format() is given a single brace");
    runtime.charge_steps(1 + arguments.named.size());
    out.append(to_text(
        field_value(std::string_view(bytes).substr(brace + 1, end - brace - 1), next, arguments), runtime));
    if (out.size() > kMaxTextBytes) throw TemplateError("the template writes too much text");
    offset = end + 1;
  }
  return make_text(std::move(out));
}

}  // namespace kvcrush::jinja
