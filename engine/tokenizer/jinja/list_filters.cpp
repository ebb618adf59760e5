#include <algorithm>
#include <map>

#include "engine/tokenizer/jinja/builtins.h"
#include "engine/tokenizer/jinja/operators.h"
#include "engine/tokenizer/jinja/string_ops.h"
#include "engine/tokenizer/jinja/value_text.h"

namespace kvcrush::jinja {
namespace {

Value length(const Value& input, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({});
  // Only characters are counted one by one.
  if (input.is<TextPtr>()) runtime.charge_steps(weight_of(input));
  return make_int(static_cast<std::int64_t>(length_of(input)));
}

Value list(const Value& input, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({});
  const ListPtr items = to_items(input, runtime);
  runtime.charge_steps(items->items.size());
  return make_list(items->items);
}

Value first(const Value& input, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({});
  const ListPtr items = to_items(input, runtime);
  return items->items.empty() ? make_undefined("first item") : items->items.front();
}

Value last(const Value& input, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({});
  const ListPtr items = to_items(input, runtime);
  return items->items.empty() ? make_undefined("last item") : items->items.back();
}

Value reverse(const Value& input, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({});
  std::vector<Value> items = to_items(input, runtime)->items;
  runtime.charge_steps(items.size());
  std::reverse(items.begin(), items.end());
  if (!input.is<TextPtr>()) return make_list(std::move(items));
  MarkedText text;
  for (const Value& item : items) text.append(*item.as<TextPtr>());
  return make_text(std::move(text));
}

Value join(const Value& input, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({"d", "attribute"});
  const Value* separator = arguments.find(0, "d");
  const Value* attribute = arguments.find(1, "attribute");
  const MarkedText between = separator != nullptr ? to_text(*separator, runtime) : MarkedText();
  MarkedText out;
  const ListPtr items = to_items(input, runtime);
  for (std::size_t i = 0; i < items->items.size(); ++i) {
    runtime.charge_steps(1);
    runtime.charge_bytes(between.size());
    if (i > 0) out.append(between);
    const bool looks_up = attribute != nullptr && !attribute->is<None>();
    out.append(to_text(looks_up ? look_up(items->items[i], *attribute, runtime) : items->items[i], runtime));
    if (out.size() > kMaxTextBytes) throw TemplateError("the template writes too much text");
  }
  return make_text(std::move(out));
}

Value entries(const Value& input, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({});
  if (input.is<Undefined>()) return make_list({});
  if (!input.is<DictPtr>())
    throw TemplateError("the input of items must be a dict, not " + std::string(type_name(input)));
  std::vector<Value> pairs;
  for (const auto& [key, value] : input.as<DictPtr>()->entries) {
    runtime.charge_steps(1);
    pairs.push_back(make_list({key, value}, true));
  }
  return make_list(std::move(pairs));
}

// map, select and their like make nothing of what is false, where a loop would refuse it.
ListPtr items_if_any(const Value& input, Runtime& runtime) {
  return is_true(input) ? to_items(input, runtime) : std::make_shared<const List>();
}

Value map(const Value& input, const Arguments& arguments, Runtime& runtime) {
  std::vector<Value> results;
  const ListPtr items = items_if_any(input, runtime);
  const Value* attribute = arguments.find(arguments.positional.size(), "attribute");
  const Value* fallback = arguments.find(arguments.positional.size(), "default");
  Arguments rest;
  if (attribute == nullptr) {
    rest = arguments;
    rest.callee = arguments.require_text(0, "name of a filter").text();
    rest.positional.erase(rest.positional.begin());
  }
  for (const Value& item : items->items) {
    runtime.charge_steps(1);
    if (attribute == nullptr) {
      results.push_back(apply_filter(rest.callee, item, rest, runtime));
      continue;
    }
    Value found = look_up(item, *attribute, runtime);
    if (found.is<Undefined>() && fallback != nullptr) found = *fallback;
    results.push_back(std::move(found));
  }
  return make_list(std::move(results));
}

// select, reject, selectattr, rejectattr: items for which a test (none named: truth) has the wanted outcome.
template <bool by_attribute, bool wanted>
Value choose(const Value& input, const Arguments& arguments, Runtime& runtime) {
  Arguments rest = arguments;
  Value attribute;
  if (by_attribute) {
    attribute = arguments.require(0, "name of an attribute");
    rest.positional.erase(rest.positional.begin());
  }
  if (!rest.positional.empty()) {
    rest.callee = rest.require_text(0, "name of a test").text();
    rest.positional.erase(rest.positional.begin());
    if (!is_test(rest.callee)) throw TemplateError("unknown test \"" + rest.callee + "\"");
  } else {
    rest.callee.clear();
  }
  std::vector<Value> chosen;
  const ListPtr items = items_if_any(input, runtime);
  for (const Value& item : items->items) {
    runtime.charge_steps(1);
    const Value subject = by_attribute ? look_up(item, attribute, runtime) : item;
    const bool outcome =
        rest.callee.empty() ? is_true(subject) : apply_test(rest.callee, subject, rest, runtime);
    if (outcome == wanted) chosen.push_back(item);
  }
  return make_list(std::move(chosen));
}

Value unique(const Value& input, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({});
  std::vector<Value> seen;
  const ListPtr items = to_items(input, runtime);
  for (const Value& item : items->items) {
    runtime.charge_steps(weight_of(item) * (seen.size() + 1));
    // Letters' case does not count, as in the original.
    const auto folded = [&runtime](const Value& value) {
      return value.is<TextPtr>() ? make_text(with_case(*value.as<TextPtr>(), Case::kLower, runtime)) : value;
    };
    const Value key = folded(item);
    const bool is_new = std::none_of(seen.begin(), seen.end(),
                                     [&](const Value& other) { return equals(folded(other), key); });
    if (is_new) seen.push_back(item);
  }
  return make_list(std::move(seen));
}

}  // namespace

Value look_up(Value value, const Value& path, Runtime& runtime) {
  if (!path.is<TextPtr>()) return item_of(value, path, runtime);
  for (const MarkedText& part : split(*path.as<TextPtr>(), MarkedText("."), -1, runtime)) {
    const std::string& name = part.text();
    const bool is_index =
        !name.empty() && name.size() < 10 && name.find_first_not_of("0123456789") == std::string::npos;
    value = item_of(value, is_index ? make_int(std::stoi(name)) : make_text(part), runtime);
  }
  return value;
}

FilterFunction find_list_filter(std::string_view name) {
  static const std::map<std::string_view, FilterFunction> table = {
      {"count", length},
      {"first", first},
      {"items", entries},
      {"join", join},
      {"last", last},
      {"length", length},
      {"list", list},
      {"map", map},
      {"reject", choose<false, false>},
      {"rejectattr", choose<true, false>},
      {"reverse", reverse},
      {"select", choose<false, true>},
      {"selectattr", choose<true, true>},
      {"unique", unique},
  };
  const auto it = table.find(name);
  return it == table.end() ? nullptr : it->second;
}

}  // namespace kvcrush::jinja
