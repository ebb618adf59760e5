#include <algorithm>
#include <map>

#include "engine/tokenizer/jinja/builtins.h"
#include "engine/tokenizer/jinja/string_ops.h"
#include "engine/tokenizer/jinja/value_text.h"
#include "engine/tokenizer/utf8.h"

namespace kvcrush::jinja {
namespace {

using TextMethod = Value (*)(const MarkedText& text, const Arguments& arguments, Runtime& runtime);
using ObjectMethod = Value (*)(const Value& object, const Arguments& arguments, Runtime& runtime);

template <bool left, bool right>
Value strip(const MarkedText& text, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({"chars"});
  return make_text(trimmed(text, arguments.find_text(0, "chars"), runtime, left, right));
}

template <Case letters>
Value change_case(const MarkedText& text, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({});
  return make_text(with_case(text, letters, runtime));
}

template <bool at_start>
Value has_affix(const MarkedText& text, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({"affix"});
  const Value& affix = arguments.require(0, "affix");
  const auto matches = [&](const Value& value) {
    runtime.charge_steps(weight_of(value));
    const std::string& part = to_marked_text(value, "the argument of " + arguments.callee + "()").text();
    return at_start ? text.text().starts_with(part) : text.text().ends_with(part);
  };
  if (!affix.is<ListPtr>()) return make_bool(matches(affix));
  const auto& choices = affix.as<ListPtr>()->items;
  return make_bool(std::any_of(choices.begin(), choices.end(), matches));
}

template <bool at_start>
Value remove_affix(const MarkedText& text, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({"affix"});
  const std::string& affix = arguments.require_text(0, "affix").text();
  runtime.charge_bytes(text.memory_bytes());
  const std::string& bytes = text.text();
  if (at_start) return make_text(text.slice(bytes.starts_with(affix) ? affix.size() : 0, bytes.size()));
  return make_text(text.slice(0, bytes.size() - (bytes.ends_with(affix) ? affix.size() : 0)));
}

Value texts_to_list(std::vector<MarkedText> texts) {
  std::vector<Value> items;
  items.reserve(texts.size());
  for (MarkedText& text : texts) items.push_back(make_text(std::move(text)));
  return make_list(std::move(items));
}

Value split_text(const MarkedText& text, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({"sep", "maxsplit"});
  return texts_to_list(
      split(text, arguments.find_text(0, "sep"), arguments.int_or(1, "maxsplit", -1), runtime));
}

Value split_text_lines(const MarkedText& text, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({});
  return texts_to_list(split_lines(text, runtime));
}

Value replace(const MarkedText& text, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({"old", "new", "count"});
  return make_text(replaced(text, arguments.require_text(0, "old"), arguments.require_text(1, "new"),
                            arguments.int_or(2, "count", -1), runtime));
}

// find, rfind: the character where a part begins, -1 where there is none. index, rindex refuse then.
template <bool from_end, bool must_exist>
Value find(const MarkedText& text, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({"sub"});
  const std::string& part = arguments.require_text(0, "sub").text();
  runtime.charge_bytes(text.memory_bytes() + part.size());
  const std::string& bytes = text.text();
  std::size_t found = find_bytes(bytes, part, 0);
  for (std::size_t next = found; from_end && next != std::string::npos;) {
    runtime.charge_steps(1);
    found = next;
    next = find_bytes(bytes, part, found + 1);
  }
  if (found != std::string::npos)
    return make_int(static_cast<std::int64_t>(utf8::count(std::string_view(bytes).substr(0, found))));
  if (must_exist) throw TemplateError(arguments.callee + "(): the text does not hold what is looked for");
  return make_int(-1);
}

Value split_text_from_end(const MarkedText& text, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({"sep", "maxsplit"});
  const std::optional<MarkedText> separator = arguments.find_text(0, "sep");
  const std::int64_t max_splits = arguments.int_or(1, "maxsplit", -1);
  std::vector<MarkedText> parts = split(text, separator, -1, runtime);
  if (max_splits < 0 || static_cast<std::int64_t>(parts.size()) <= max_splits + 1)
    return texts_to_list(std::move(parts));
  if (!separator) throw TemplateError("rsplit() at white space supports no \"maxsplit\"");
  const std::size_t num_joined = parts.size() - static_cast<std::size_t>(max_splits);
  MarkedText first = std::move(parts[0]);
  for (std::size_t i = 1; i < num_joined; ++i) {
    first.append(*separator);
    first.append(parts[i]);
  }
  std::vector<MarkedText> kept = {std::move(first)};
  kept.insert(kept.end(), parts.begin() + static_cast<std::ptrdiff_t>(num_joined), parts.end());
  return texts_to_list(std::move(kept));
}

// Over ASCII: digits of other scripts do not count.
Value is_digits(const MarkedText& text, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({});
  runtime.charge_bytes(text.size());
  const std::string& bytes = text.text();
  return make_bool(!bytes.empty() &&
                   std::all_of(bytes.begin(), bytes.end(), [](char c) { return c >= '0' && c <= '9'; }));
}

Value count(const MarkedText& text, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({"sub"});
  const MarkedText& part = arguments.require_text(0, "sub");
  runtime.charge_bytes(text.memory_bytes());
  if (part.size() == 0) return make_int(static_cast<std::int64_t>(utf8::count(text.text())) + 1);
  return make_int(static_cast<std::int64_t>(split(text, part, -1, runtime).size()) - 1);
}

Value join(const MarkedText& text, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({"iterable"});
  const ListPtr items = to_items(arguments.require(0, "iterable"), runtime);
  for (const Value& item : items->items) to_marked_text(item, "an item of join()");
  Arguments separator;
  separator.callee = "join";
  separator.positional.push_back(make_text(text));
  return apply_filter("join",
                      arguments.positional.empty() ? arguments.named[0].second : arguments.positional[0],
                      separator, runtime);
}

const std::map<std::string_view, TextMethod>& text_methods() {
  static const std::map<std::string_view, TextMethod> table = {
      {"capitalize", change_case<Case::kCapitalize>},
      {"count", count},
      {"endswith", has_affix<false>},
      {"find", find<false, false>},
      {"format", format_text},
      {"index", find<false, true>},
      {"isdigit", is_digits},
      {"join", join},
      {"lower", change_case<Case::kLower>},
      {"lstrip", strip<true, false>},
      {"removeprefix", remove_affix<true>},
      {"removesuffix", remove_affix<false>},
      {"replace", replace},
      {"rfind", find<true, false>},
      {"rindex", find<true, true>},
      {"rsplit", split_text_from_end},
      {"rstrip", strip<false, true>},
      {"split", split_text},
      {"splitlines", split_text_lines},
      {"startswith", has_affix<true>},
      {"strip", strip<true, true>},
      {"title", change_case<Case::kTitle>},
      {"upper", change_case<Case::kUpper>},
  };
  return table;
}

Value dict_items(const Value& dict, const Arguments& arguments, Runtime& runtime) {
  return apply_filter("items", dict, arguments, runtime);
}

Value dict_keys(const Value& dict, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({});
  return make_list(to_items(dict, runtime)->items);
}

Value dict_values(const Value& dict, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({});
  runtime.charge_steps(dict.as<DictPtr>()->entries.size());
  std::vector<Value> values;
  for (const auto& entry : dict.as<DictPtr>()->entries) values.push_back(entry.second);
  return make_list(std::move(values));
}

Value dict_get(const Value& dict, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({"key", "default"});
  const Value& key = arguments.require(0, "key");
  if (const Value* value = find_entry(*dict.as<DictPtr>(), key, runtime)) return *value;
  const Value* fallback = arguments.find(1, "default");
  return fallback != nullptr ? *fallback : make_none();
}

Value list_count(const Value& list, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({"value"});
  const Value& wanted = arguments.require(0, "value");
  const auto& items = list.as<ListPtr>()->items;
  runtime.charge_steps(weight_of(list) + items.size() * weight_of(wanted));
  return make_int(std::count_if(items.begin(), items.end(),
                                [&wanted](const Value& item) { return equals(item, wanted); }));
}

Value list_index(const Value& list, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({"value"});
  const Value& wanted = arguments.require(0, "value");
  const auto& items = list.as<ListPtr>()->items;
  runtime.charge_steps(weight_of(list) + items.size() * weight_of(wanted));
  const auto found =
      std::find_if(items.begin(), items.end(), [&wanted](const Value& item) { return equals(item, wanted); });
  if (found == items.end()) throw TemplateError("index(): the list does not hold what is looked for");
  return make_int(found - items.begin());
}

const std::map<std::string_view, ObjectMethod>& list_methods() {
  static const std::map<std::string_view, ObjectMethod> table = {{"count", list_count},
                                                                 {"index", list_index}};
  return table;
}

const std::map<std::string_view, ObjectMethod>& dict_methods() {
  static const std::map<std::string_view, ObjectMethod> table = {
      {"get", dict_get}, {"items", dict_items}, {"keys", dict_keys}, {"values", dict_values}};
  return table;
}

Value cycle(const Loop& loop, const Arguments& arguments) {
  if (arguments.positional.empty()) throw TemplateError("loop.cycle() needs values");
  return arguments.positional[loop.index0 % arguments.positional.size()];
}

}  // namespace

bool has_method(const Value& object, std::string_view name) {
  if (object.is<TextPtr>()) return text_methods().contains(name);
  if (object.is<ListPtr>()) return list_methods().contains(name);
  if (object.is<DictPtr>()) return dict_methods().contains(name);
  return object.is<LoopPtr>() && name == "cycle";
}

Value call_method(const Value& object, std::string_view name, const Arguments& arguments, Runtime& runtime) {
  if (object.is<TextPtr>()) return text_methods().at(name)(*object.as<TextPtr>(), arguments, runtime);
  if (object.is<ListPtr>()) return list_methods().at(name)(object, arguments, runtime);
  if (object.is<DictPtr>()) return dict_methods().at(name)(object, arguments, runtime);
  return cycle(*object.as<LoopPtr>(), arguments);
}

}  // namespace kvcrush::jinja
