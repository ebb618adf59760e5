#include <algorithm>
#include <array>
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

// An indent given as text, and separators that are not two strings, are mistakes of the template.
JsonStyle json_style(const Arguments& arguments) {
  arguments.allow({"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = arguments.flag(0, "ensure_ascii");
  style.sort_keys = arguments.flag(3, "sort_keys");
  constexpr std::int64_t kMaxIndent = 16;
  if (const Value* indent = arguments.find(1, "indent"); indent != nullptr && !indent->is<None>()) {
    const std::int64_t width = to_int(*indent, "\"indent\" of tojson()");
    if (width < 0 || width > kMaxIndent) throw TemplateError("\"indent\" of tojson() must be from 0 to 16");
    style.indent = static_cast<int>(width);
    style.item_separator = MarkedText(",");
  }
  if (const Value* pair = arguments.find(2, "separators"); pair != nullptr && !pair->is<None>()) {
    if (!pair->is<ListPtr>() || pair->as<ListPtr>()->items.size() != 2)
      throw TemplateError("\"separators\" of tojson() must be a pair of strings");
    style.item_separator = to_marked_text(pair->as<ListPtr>()->items[0], "a separator of tojson()");
    style.key_separator = to_marked_text(pair->as<ListPtr>()->items[1], "a separator of tojson()");
  }
  return style;
}

Value tojson(const Value& input, const Arguments& arguments, Runtime& runtime) {
  return make_text(to_json(input, json_style(arguments), runtime));
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

// Half to even in "common" mode, as Python's round().
Value round(const Value& input, const Arguments& arguments, Runtime&) {
  arguments.allow({"precision", "method"});
  const double number = to_double(input, "the input of round");
  constexpr std::int64_t kMaxPrecision = 15;
  const std::int64_t precision =
      std::clamp(arguments.int_or(0, "precision", 0), -kMaxPrecision, kMaxPrecision);
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const Value* method = arguments.find(1, "method");
  const std::string name = method == nullptr ? "common" : arguments.require_text(1, "method").text();
  if (name == "common") {
    if (!input.is<double>() && precision >= 0) return make_int(to_int(input, ""));
    // Correct rounding is the printing of that many digits.
    if (precision < 0) return make_double(std::nearbyint(number * scale) / scale);
    std::array<char, 512> buffer{};
    const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), number,
                                   std::chars_format::fixed, static_cast<int>(precision));
    double rounded = number;
    if (end.ec == std::errc()) std::from_chars(buffer.data(), end.ptr, rounded);
    return make_double(rounded);
  }
  if (name == "ceil") return make_double(std::ceil(number * scale) / scale);
  if (name == "floor") return make_double(std::floor(number * scale) / scale);
  throw TemplateError("\"method\" of round() must be \"common\", \"ceil\" or \"floor\"");
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
      {"round", round},
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
  if (it != filters().end()) return it->second;
  const FilterFunction of_lists = find_list_filter(name);
  return of_lists != nullptr ? of_lists : find_sort_filter(name);
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
