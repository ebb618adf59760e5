#include <map>

#include "engine/tokenizer/jinja/builtins.h"
#include "engine/tokenizer/jinja/operators.h"
#include "engine/tokenizer/jinja/string_ops.h"

namespace kvcrush::jinja {
namespace {

using PlainTest = bool (*)(const Value& input);

bool is_sequence(const Value& value) {
  return value.is<TextPtr>() || value.is<ListPtr>() || value.is<DictPtr>() || value.is<Undefined>();
}

const std::map<std::string_view, PlainTest>& plain_tests() {
  static const std::map<std::string_view, PlainTest> table = {
      {"boolean", [](const Value& value) { return value.is<bool>(); }},
      {"callable", [](const Value& value) { return value.is<CallablePtr>(); }},
      {"defined", [](const Value& value) { return !value.is<Undefined>(); }},
      {"even", [](const Value& value) { return to_int(value, "the input of even") % 2 == 0; }},
      {"false", [](const Value& value) { return value.is<bool>() && !value.as<bool>(); }},
      {"float", [](const Value& value) { return value.is<double>(); }},
      {"integer", [](const Value& value) { return value.is<std::int64_t>(); }},
      {"iterable", is_sequence},
      {"mapping", [](const Value& value) { return value.is<DictPtr>(); }},
      {"none", [](const Value& value) { return value.is<None>(); }},
      {"number", [](const Value& value) { return value.is_number(); }},
      {"odd", [](const Value& value) { return to_int(value, "the input of odd") % 2 != 0; }},
      {"sequence", is_sequence},
      {"string", [](const Value& value) { return value.is<TextPtr>(); }},
      {"true", [](const Value& value) { return value.is<bool>() && value.as<bool>(); }},
      {"undefined", [](const Value& value) { return value.is<Undefined>(); }},
  };
  return table;
}

// Tests that are another spelling of a comparison.
const std::map<std::string_view, std::string_view>& comparisons() {
  static const std::map<std::string_view, std::string_view> table = {
      {"==", "=="},      {"eq", "=="},         {"equalto", "=="}, {"!=", "!="}, {"ne", "!="},
      {"<", "<"},        {"lt", "<"},          {"<=", "<="},      {"le", "<="}, {">", ">"},
      {"gt", ">"},       {"greaterthan", ">"}, {">=", ">="},      {"ge", ">="}, {"in", "in"},
      {"lessthan", "<"}, {"sameas", "=="},
  };
  return table;
}

}  // namespace

bool is_test(std::string_view name) {
  return plain_tests().contains(name) || comparisons().contains(name) || name == "divisibleby" ||
         name == "lower" || name == "upper";
}

bool apply_test(std::string_view name, const Value& input, const Arguments& arguments, Runtime& runtime) {
  if (const auto plain = plain_tests().find(name); plain != plain_tests().end()) {
    arguments.allow({});
    return plain->second(input);
  }
  if (name == "lower" || name == "upper") {
    arguments.allow({});
    const MarkedText& text = to_marked_text(input, "the input of " + std::string(name));
    const Case other = name == "lower" ? Case::kUpper : Case::kLower;
    const Case own = name == "lower" ? Case::kLower : Case::kUpper;
    return with_case(text, own, runtime).text() == text.text() &&
           with_case(text, other, runtime).text() != text.text();
  }
  if (name == "divisibleby") {
    arguments.allow({"num"});
    const std::int64_t divisor = arguments.int_or(0, "num", 0);
    if (divisor == 0) throw TemplateError("division by zero");
    return divisor == -1 || to_int(input, "the input of divisibleby") % divisor == 0;
  }
  arguments.allow({"other"});
  return compare(comparisons().at(name), input, arguments.require(0, "other"), runtime);
}

}  // namespace kvcrush::jinja
