// Filters that order what is in a list or dict.
#include <algorithm>
#include <map>

#include "engine/tokenizer/jinja/builtins.h"
#include "engine/tokenizer/jinja/string_ops.h"

namespace kvcrush::jinja {
namespace {

// What an item is ordered by: letters' case does not count unless asked for.
Value sort_key(const Value& item, bool case_sensitive, Runtime& runtime) {
  if (case_sensitive || !item.is<TextPtr>()) return item;
  return make_text(with_case(*item.as<TextPtr>(), Case::kLower, runtime));
}

// Positions of the keys in their order; equal ones stay as they were.
std::vector<std::size_t> order_of(const std::vector<Value>& keys, bool reverse, Runtime& runtime) {
  std::size_t weight = 0;
  for (const Value& key : keys) weight += weight_of(key);
  charge_sort(keys.size(), weight, runtime);
  std::vector<std::size_t> order(keys.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t left, std::size_t right) {
    return reverse ? less(keys[right], keys[left]) : less(keys[left], keys[right]);
  });
  return order;
}

Value dictsort(const Value& input, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({"case_sensitive", "by", "reverse"});
  if (!input.is<DictPtr>())
    throw TemplateError("the input of dictsort must be a dict, not " + std::string(type_name(input)));
  const std::optional<MarkedText> given = arguments.find_text(1, "by");
  const std::string by = given ? given->text() : "key";
  if (by != "key" && by != "value") throw TemplateError("\"by\" of dictsort() must be \"key\" or \"value\"");
  const auto& entries = input.as<DictPtr>()->entries;
  std::vector<Value> keys;
  for (const auto& [key, value] : entries)
    keys.push_back(sort_key(by == "key" ? key : value, arguments.flag(0, "case_sensitive"), runtime));
  std::vector<Value> sorted;
  for (const std::size_t i : order_of(keys, arguments.flag(2, "reverse"), runtime))
    sorted.push_back(make_list({entries[i].first, entries[i].second}, true));
  return make_list(std::move(sorted));
}

std::vector<Value> keys_of(const List& list, const Value* attribute, bool case_sensitive, Runtime& runtime) {
  std::vector<Value> keys;
  for (const Value& item : list.items) {
    runtime.charge_steps(1);
    const bool looks_up = attribute != nullptr && !attribute->is<None>();
    keys.push_back(sort_key(looks_up ? look_up(item, *attribute, runtime) : item, case_sensitive, runtime));
  }
  return keys;
}

Value sort(const Value& input, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({"reverse", "case_sensitive", "attribute"});
  const ListPtr items = to_items(input, runtime);
  const std::vector<Value> keys =
      keys_of(*items, arguments.find(2, "attribute"), arguments.flag(1, "case_sensitive"), runtime);
  std::vector<Value> sorted;
  for (const std::size_t i : order_of(keys, arguments.flag(0, "reverse"), runtime))
    sorted.push_back(items->items[i]);
  return make_list(std::move(sorted));
}

template <bool wants_least>
Value extreme(const Value& input, const Arguments& arguments, Runtime& runtime) {
  arguments.allow({"case_sensitive", "attribute"});
  const ListPtr items = to_items(input, runtime);
  if (items->items.empty()) return make_undefined("item of an empty sequence");
  const std::vector<Value> keys =
      keys_of(*items, arguments.find(1, "attribute"), arguments.flag(0, "case_sensitive"), runtime);
  std::size_t best = 0;
  for (std::size_t i = 1; i < keys.size(); ++i) {
    runtime.charge_steps(weight_of(keys[i]));
    const bool better = wants_least ? less(keys[i], keys[best]) : less(keys[best], keys[i]);
    if (better) best = i;
  }
  return items->items[best];
}

}  // namespace

FilterFunction find_sort_filter(std::string_view name) {
  static const std::map<std::string_view, FilterFunction> table = {
      {"dictsort", dictsort}, {"max", extreme<false>}, {"min", extreme<true>}, {"sort", sort}};
  const auto it = table.find(name);
  return it == table.end() ? nullptr : it->second;
}

}  // namespace kvcrush::jinja
