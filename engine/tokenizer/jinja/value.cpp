#include "engine/tokenizer/jinja/value.h"

#include <algorithm>
#include <bit>

#include "engine/tokenizer/utf8.h"

namespace kvcrush::jinja {
namespace {

int depth_of(const Value& value) {
  if (value.is<ListPtr>()) return value.as<ListPtr>()->depth;
  if (value.is<DictPtr>()) return value.as<DictPtr>()->depth;
  if (value.is<CallablePtr>()) return depth_of(value.as<CallablePtr>()->object) + 1;
  if (value.is<LoopPtr>()) return value.as<LoopPtr>()->items->depth + 1;
  return 0;
}

// Accounts for `value` inside a list or dict.
template <typename T>
void take_in(T& container, const Value& value) {
  container.depth = std::max(container.depth, depth_of(value) + 1);
  if (container.depth > kMaxValueDepth) throw LimitError("lists or dicts lie too deep in each other");
  container.weight += weight_of(value);
  if (container.weight > kMaxSteps) throw LimitError("a list or dict holds too much");
}

// What comparing `key` with all keys of the dict may cost: one step does for some small keys.
std::size_t search_steps(const Dict& dict, const Value& key) {
  constexpr std::size_t kKeysPerStep = 16;
  return dict.entries.size() * weight_of(key) / kKeysPerStep;
}

bool lists_equal(const List& left, const List& right) {
  return left.is_tuple == right.is_tuple &&
         std::equal(left.items.begin(), left.items.end(), right.items.begin(), right.items.end(), equals);
}

bool dicts_equal(const Dict& left, const Dict& right) {
  if (left.entries.size() != right.entries.size()) return false;
  return std::all_of(left.entries.begin(), left.entries.end(), [&right](const auto& entry) {
    const Value* other = right.find(entry.first);
    return other != nullptr && equals(entry.second, *other);
  });
}

[[noreturn]] void fail_type(const Value& value, std::string_view what, std::string_view wanted) {
  std::string message = std::string(what) + " must be " + std::string(wanted) + ", not ";
  if (value.is<Undefined>())
    throw TemplateError(message + "the undefined '" + value.as<Undefined>().name + "'");
  throw TemplateError(message + std::string(type_name(value)));
}

}  // namespace

Runtime::~Runtime() {
  for (const NamespacePtr& space : namespaces_) space->attributes.clear();
}

void Runtime::charge_steps(std::size_t num_steps) {
  num_steps_ += num_steps;
  if (num_steps_ > kMaxSteps)
    throw LimitError("the template takes more than " + std::to_string(kMaxSteps) + " steps");
}

void Runtime::charge_bytes(std::size_t num_bytes) {
  num_bytes_ += num_bytes;
  if (num_bytes > kMaxTextBytes || num_bytes_ > kMaxWrittenBytes) {
    throw LimitError("the template writes too much text");
  }
}

NamespacePtr Runtime::make_namespace() {
  namespaces_.push_back(std::make_shared<Namespace>());
  return namespaces_.back();
}

Runtime::Level::Level(Runtime& runtime) : runtime_(runtime) {
  if (runtime_.depth_ >= kMaxEvaluationDepth) throw TemplateError("the template recurses too deep");
  ++runtime_.depth_;
}

const Value* Dict::find(const Value& key) const {
  for (const auto& [name, value] : entries) {
    if (equals(name, key)) return &value;
  }
  return nullptr;
}

Value make_none() {
  return {None{}};
}
Value make_bool(bool value) {
  return {value};
}
Value make_int(std::int64_t value) {
  return {value};
}
Value make_double(double value) {
  return {value};
}
Value make_undefined(std::string_view name) {
  constexpr std::size_t kMaxNameBytes = 100;  // it is there for messages
  return {Undefined{std::string(name.substr(0, kMaxNameBytes))}};
}
Value make_text(MarkedText text) {
  return {std::make_shared<const MarkedText>(std::move(text))};
}
Value make_text(std::string_view text, bool from_message) {
  return make_text(MarkedText(text, from_message));
}

Value make_list(std::vector<Value> items, bool is_tuple) {
  auto list = std::make_shared<List>();
  for (const Value& item : items) take_in(*list, item);
  list->items = std::move(items);
  list->is_tuple = is_tuple;
  return {ListPtr(std::move(list))};
}

const Value* find_entry(const Dict& dict, const Value& key, Runtime& runtime) {
  runtime.charge_steps(search_steps(dict, key));
  return dict.find(key);
}

Value make_dict(const std::vector<std::pair<Value, Value>>& entries, Runtime& runtime) {
  auto dict = std::make_shared<Dict>();
  for (const auto& [key, value] : entries) {
    if (key.is<ListPtr>() || key.is<DictPtr>()) throw TemplateError("a dict's key must be a plain value");
    const std::size_t num_steps = search_steps(*dict, key);
    runtime.charge_steps(num_steps);
    take_in(*dict, value);
    dict->weight += num_steps;  // who compares two dicts looks for every key
    const auto same = std::find_if(dict->entries.begin(), dict->entries.end(),
                                   [&key = key](const auto& entry) { return equals(entry.first, key); });
    if (same != dict->entries.end()) {
      same->second = value;
    } else {
      dict->entries.emplace_back(key, value);
    }
  }
  return {DictPtr(std::move(dict))};
}

Value make_function(std::string name) {
  auto callable = std::make_shared<Callable>();
  callable->name = std::move(name);
  return {CallablePtr(std::move(callable))};
}

Value make_method(const Value& object, std::string name) {
  auto callable = std::make_shared<Callable>();
  callable->name = std::move(name);
  callable->object = object;
  if (depth_of(object) >= kMaxValueDepth) throw TemplateError("methods lie too deep in each other");
  return {CallablePtr(std::move(callable))};
}

std::string_view type_name(const Value& value) {
  constexpr std::string_view kNames[] = {"undefined",   "none",       "a boolean", "an integer",
                                         "a float",     "a string",   "a list",    "a dict",
                                         "a namespace", "a function", "a loop"};
  return kNames[value.data.index()];
}

bool is_true(const Value& value) {
  if (value.is<Undefined>() || value.is<None>()) return false;
  if (value.is<bool>()) return value.as<bool>();
  if (value.is<std::int64_t>()) return value.as<std::int64_t>() != 0;
  if (value.is<double>()) return value.as<double>() != 0.0;
  if (value.is<TextPtr>()) return value.as<TextPtr>()->size() != 0;
  if (value.is<ListPtr>()) return !value.as<ListPtr>()->items.empty();
  if (value.is<DictPtr>()) return !value.as<DictPtr>()->entries.empty();
  return true;
}

bool equals(const Value& left, const Value& right) {
  if (left.is_number() && right.is_number()) {
    if (left.is<double>() || right.is<double>()) return to_double(left, "") == to_double(right, "");
    return to_int(left, "") == to_int(right, "");
  }
  if (left.data.index() != right.data.index()) return false;
  if (left.is<TextPtr>()) return left.as<TextPtr>()->text() == right.as<TextPtr>()->text();
  if (left.is<ListPtr>()) return lists_equal(*left.as<ListPtr>(), *right.as<ListPtr>());
  if (left.is<DictPtr>()) return dicts_equal(*left.as<DictPtr>(), *right.as<DictPtr>());
  if (left.is<NamespacePtr>()) return left.as<NamespacePtr>() == right.as<NamespacePtr>();
  if (left.is<CallablePtr>()) return left.as<CallablePtr>() == right.as<CallablePtr>();
  if (left.is<LoopPtr>()) return left.as<LoopPtr>() == right.as<LoopPtr>();
  return true;
}

bool less(const Value& left, const Value& right) {
  if (left.is_number() && right.is_number()) {
    if (left.is<double>() || right.is<double>()) return to_double(left, "") < to_double(right, "");
    return to_int(left, "") < to_int(right, "");
  }
  // UTF-8 orders as its code points do.
  if (left.is<TextPtr>() && right.is<TextPtr>())
    return left.as<TextPtr>()->text() < right.as<TextPtr>()->text();
  if (left.is<ListPtr>() && right.is<ListPtr>()) {
    const auto& a = left.as<ListPtr>()->items;
    const auto& b = right.as<ListPtr>()->items;
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
      if (!equals(a[i], b[i])) return less(a[i], b[i]);
    }
    return a.size() < b.size();
  }
  throw TemplateError(std::string(type_name(left)) + " and " + std::string(type_name(right)) +
                      " have no order");
}

std::int64_t to_int(const Value& value, std::string_view what) {
  if (value.is<bool>()) return value.as<bool>() ? 1 : 0;
  if (value.is<std::int64_t>()) return value.as<std::int64_t>();
  fail_type(value, what, "an integer");
}

double to_double(const Value& value, std::string_view what) {
  if (value.is<double>()) return value.as<double>();
  if (!value.is_number()) fail_type(value, what, "a number");
  return static_cast<double>(to_int(value, what));
}

const MarkedText& to_marked_text(const Value& value, std::string_view what) {
  if (!value.is<TextPtr>()) fail_type(value, what, "a string");
  return *value.as<TextPtr>();
}

ListPtr to_items(const Value& value, Runtime& runtime) {
  if (value.is<ListPtr>()) return value.as<ListPtr>();
  auto list = std::make_shared<List>();
  if (value.is<Undefined>()) return list;
  if (value.is<DictPtr>()) {
    runtime.charge_steps(value.as<DictPtr>()->entries.size());
    for (const auto& entry : value.as<DictPtr>()->entries) list->items.push_back(entry.first);
    return list;
  }
  if (value.is<TextPtr>()) {
    const MarkedText& text = *value.as<TextPtr>();
    for (std::size_t offset = 0; offset < text.size();) {
      runtime.charge_steps(1);
      const std::size_t end = offset + utf8::next(text.text(), offset).num_bytes;
      list->items.push_back(make_text(text.slice(offset, end)));
      offset = end;
    }
    return list;
  }
  throw TemplateError("cannot loop over " + std::string(type_name(value)));
}

std::size_t weight_of(const Value& value) {
  constexpr std::size_t kTextBytesPerStep = 4096;
  if (value.is<TextPtr>()) return 1 + value.as<TextPtr>()->size() / kTextBytesPerStep;
  if (value.is<ListPtr>()) return value.as<ListPtr>()->weight;
  if (value.is<DictPtr>()) return value.as<DictPtr>()->weight;
  return 1;
}

void charge_sort(std::size_t count, std::size_t weight, Runtime& runtime) {
  runtime.charge_steps(weight * static_cast<std::size_t>(std::bit_width(count)));
}

std::size_t length_of(const Value& value) {
  if (value.is<Undefined>()) return 0;
  if (value.is<TextPtr>()) return utf8::count(value.as<TextPtr>()->text());
  if (value.is<ListPtr>()) return value.as<ListPtr>()->items.size();
  if (value.is<DictPtr>()) return value.as<DictPtr>()->entries.size();
  throw TemplateError(std::string(type_name(value)) + " has no length");
}

}  // namespace kvcrush::jinja
