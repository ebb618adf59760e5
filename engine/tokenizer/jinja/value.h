// Values of the template language. All but namespaces are immutable, so copies share.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "engine/tokenizer/jinja/marked_text.h"
#include "engine/tokenizer/jinja/runtime.h"

namespace kvcrush::jinja {

struct Statement;
struct Scope;
struct List;
struct Dict;
struct Callable;
struct Loop;

struct Undefined {
  std::string name;  // what was looked for
};
struct None {};

using TextPtr = std::shared_ptr<const MarkedText>;
using ListPtr = std::shared_ptr<const List>;
using DictPtr = std::shared_ptr<const Dict>;
using NamespacePtr = std::shared_ptr<Namespace>;
using CallablePtr = std::shared_ptr<const Callable>;
using LoopPtr = std::shared_ptr<const Loop>;

struct Value {
  std::variant<Undefined, None, bool, std::int64_t, double, TextPtr, ListPtr, DictPtr, NamespacePtr,
               CallablePtr, LoopPtr>
      data;

  template <typename T>
  bool is() const {
    return std::holds_alternative<T>(data);
  }
  template <typename T>
  const T& as() const {
    return std::get<T>(data);
  }
  bool is_number() const { return is<std::int64_t>() || is<double>() || is<bool>(); }
};

struct List {
  std::vector<Value> items;
  bool is_tuple = false;
  int depth = 1;
  std::size_t weight = 1;  // of all values inside, counted once per path that leads to them
};

struct Dict {
  std::vector<std::pair<Value, Value>> entries;  // few, looked through one by one; in order of insertion
  int depth = 1;
  std::size_t weight = 1;

  const Value* find(const Value& key) const;
};

struct Namespace {
  std::map<std::string, Value, std::less<>> attributes;
};

// A global function (name only), a method (with its object) or a macro (with its statement and where it was
// defined).
struct Callable {
  std::string name;
  Value object;
  const Statement* macro = nullptr;
  std::weak_ptr<Scope> scope;
};

// The variable `loop` in one iteration.
struct Loop {
  ListPtr items;
  std::size_t index0 = 0;
};

// What a template is rendered with.
struct Variables {
  std::unordered_map<std::string, Value> by_name;
};

Value make_none();
Value make_bool(bool value);
Value make_int(std::int64_t value);
Value make_double(double value);
Value make_undefined(std::string_view name);
Value make_text(std::string_view text, bool from_message = false);
Value make_text(MarkedText text);
// Throws TemplateError when lists lie too deep in lists, or hold too much.
Value make_list(std::vector<Value> items, bool is_tuple = false);
// A later entry replaces an earlier one of the same key.
Value make_dict(const std::vector<std::pair<Value, Value>>& entries, Runtime& runtime);
// The value of `key`; null when there is none.
const Value* find_entry(const Dict& dict, const Value& key, Runtime& runtime);
Value make_function(std::string name);
Value make_method(const Value& object, std::string name);

std::string_view type_name(const Value& value);
bool is_true(const Value& value);
bool equals(const Value& left, const Value& right);
// Python's `<`. Throws TemplateError where the two have no order.
bool less(const Value& left, const Value& right);
// Booleans count as 0 and 1. Throws TemplateError for what is not an integer.
std::int64_t to_int(const Value& value, std::string_view what);
double to_double(const Value& value, std::string_view what);
const MarkedText& to_marked_text(const Value& value, std::string_view what);
// The items that a loop over `value` sees: list items, dict keys, characters; none of an undefined value.
ListPtr to_items(const Value& value, Runtime& runtime);
// About how many steps it takes to walk through all of `value`.
std::size_t weight_of(const Value& value);
// Called before `count` values of that weight together are sorted.
void charge_sort(std::size_t count, std::size_t weight, Runtime& runtime);
// Number of items or characters.
std::size_t length_of(const Value& value);

}  // namespace kvcrush::jinja
