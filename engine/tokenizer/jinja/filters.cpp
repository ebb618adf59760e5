#include <charconv>
#include <cmath>
#include <map>

#include "engine/tokenizer/jinja/builtins.h"
#include "engine/tokenizer/jinja/string_ops.h"
#include "engine/tokenizer/jinja/value_text.h"

namespace kvcrush::jinja {
namespace {

template <Case letters>
Value change_case(const Value& input, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({});
  return make_text(with_case(to_text(input, runtime), letters, runtime));
}

Value trim(const Value& input, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({"chars"});
  return make_text(trimmed(to_text(input, runtime), arguments.find_text(0, "chars"), runtime));
}

Value replace(const Value& input, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({"old", "new", "count"});
  return make_text(replaced(to_text(input, runtime), to_text(arguments.require(0, "old"), runtime),
                            to_text(arguments.require(1, "new"), runtime), arguments.int_or(2, "count", -1),
                            runtime));
}

Value default_value(const Value& input, const Arguments& arguments, Runtime&) {
  arguments.allow({"default_value", "boolean"});
  const bool missing = input.is<Undefined>() || (arguments.flag(1, "boolean") && !is_true(input));
  if (!missing) return input;
  const Value* value = arguments.find(0, "default_value");
  return value != nullptr ? *value : make_text("");
}

Value tojson(const Value& input, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({"ensure_ascii", "indent", "separators", "sort_keys"});
  if (arguments.flag(0, "ensure_ascii") || arguments.flag(2, "separators") ||
      arguments.flag(3, "sort_keys")) {
    throw TemplateError("tojson() supports only its argument \"indent\"");
  }
  const Value* indent = arguments.find(1, "indent");
  if (indent == nullptr || indent->is<None>()) return make_text(to_json(input, std::nullopt, runtime));
  const std::int64_t width = to_int(*indent, "\"indent\" of tojson()");
  if (width < 0 || width > 16) throw TemplateError("\"indent\" of tojson() must be from 0 to 16");
  return make_text(to_json(input, static_cast<int>(width), runtime));
}

Value string(const Value& input, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({});
  return input.is<TextPtr>() ? input : make_text(to_text(input, runtime));
}

Value same(const Value& input, const Arguments&, Runtime&) {
  return input;
}

// A number at the start of trimmed text that fills it.
template <typename T>
std::optional<T> parse_number(const Value& input, Runtime& runtime) {
  const MarkedText text = trimmed(to_marked_text(input, "a number"), std::nullopt, runtime);
  const char* begin = text.text().data();
  const char* end = begin + text.size();
  if (begin != end && *begin == '+') ++begin;
  T number{};
  const auto result = std::from_chars(begin, end, number);
  if (result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return number;
}

Value to_integer(const Value& input, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({"default"});
  Value fallback = make_int(arguments.int_or(0, "default", 0));
  std::optional<double> real;
  if (input.is<TextPtr>()) {
    if (const auto number = parse_number<std::int64_t>(input, runtime)) return make_int(*number);
    real = parse_number<double>(input, runtime);
  } else if (input.is<double>()) {
    real = input.as<double>();
  } else if (input.is_number()) {
    return make_int(to_int(input, ""));
  }
  constexpr double kTwoTo63 = 9223372036854775808.0;
  if (!real || !(std::abs(*real) < kTwoTo63)) return fallback;
  return make_int(static_cast<std::int64_t>(*real));
}

Value to_float(const Value& input, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({"default"});
  if (input.is_number()) return make_double(to_double(input, ""));
  if (input.is<TextPtr>()) {
    if (const auto number = parse_number<double>(input, runtime)) return make_double(*number);
  }
  const Value* fallback = arguments.find(0, "default");
  return fallback != nullptr ? *fallback : make_double(0.0);
}

Value absolute(const Value& input, const Arguments& arguments, Runtime&) {
  arguments.allow({});
  if (input.is<double>()) return make_double(std::abs(input.as<double>()));
  const std::int64_t number = to_int(input, "the input of abs");
  if (number == INT64_MIN) throw TemplateError("a number grows out of range");
  return make_int(number < 0 ? -number : number);
}

// As Python's filter of that name: every line but the first, blank ones left alone.
Value indent(const Value& input, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({"width", "first", "blank"});
  const Value* given = arguments.find(0, "width");
  MarkedText margin;
  if (given != nullptr && given->is<TextPtr>()) {
    margin = to_text(*given, runtime);
  } else {
    margin = repeated(MarkedText(" "), arguments.int_or(0, "width", 4), runtime);
  }
  const std::vector<MarkedText> lines = split(to_text(input, runtime), MarkedText("\n"), -1, runtime);
  MarkedText out;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out.append("\n", false);
    const bool wanted =
        i > 0 ? lines[i].size() > 0 || arguments.flag(2, "blank") : arguments.flag(1, "first");
    if (wanted) {
      runtime.charge_bytes(margin.size());
      out.append(margin);
    }
    out.append(lines[i]);
  }
  return make_text(std::move(out));
}

const std::map<std::string_view, FilterFunction>& filters() {
  static const std::map<std::string_view, FilterFunction> table = {
      {"abs", absolute},
      {"capitalize", change_case<Case::kCapitalize>},
      {"d", default_value},
      {"default", default_value},
      {"float", to_float},
      {"indent", indent},
      {"int", to_integer},
      {"lower", change_case<Case::kLower>},
      {"replace", replace},
      {"safe", same},
      {"string", string},
      {"title", change_case<Case::kTitleWords>},
      {"tojson", tojson},
      {"trim", trim},
      {"upper", change_case<Case::kUpper>},
  };
  return table;
}

FilterFunction find_filter(std::string_view name) {
  const auto it = filters().find(name);
  return it != filters().end() ? it->second : find_list_filter(name);
}

}  // namespace

bool is_filter(std::string_view name) {
  return find_filter(name) != nullptr;
}

Value apply_filter(std::string_view name, const Value& input, const Arguments& arguments, Runtime& runtime) {
  const FilterFunction filter = find_filter(name);
  if (filter == nullptr) throw TemplateError("unknown filter \"" + std::string(name) + "\"");
  const Runtime::Level level(runtime);  // map() may apply itself
  return filter(input, arguments, runtime);
}

}  // namespace kvcrush::jinja
