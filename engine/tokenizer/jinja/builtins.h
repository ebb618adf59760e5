// Filters, tests, methods and global functions of the template language.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/tokenizer/jinja/value.h"

namespace kvcrush::jinja {

struct Arguments {
  std::string callee;  // for messages
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  // Throws TemplateError when there are more arguments than `names`, or a named one that is not among them.
  void allow(std::initializer_list<std::string_view> names) const;
  // By place or by name; null when not given.
  const Value* find(std::size_t index, std::string_view name) const;
  const Value& require(std::size_t index, std::string_view name) const;
  const MarkedText& require_text(std::size_t index, std::string_view name) const;
  std::optional<MarkedText> find_text(std::size_t index,
                                      std::string_view name) const;  // `none` counts as not given
  std::int64_t int_or(std::size_t index, std::string_view name, std::int64_t fallback) const;
  bool flag(std::size_t index, std::string_view name) const;
};

bool is_filter(std::string_view name);
bool is_test(std::string_view name);
// Whether values of this type have such a method.
bool has_method(const Value& object, std::string_view name);
const std::vector<std::string_view>& global_functions();

Value apply_filter(std::string_view name, const Value& input, const Arguments& arguments, Runtime& runtime);
bool apply_test(std::string_view name, const Value& input, const Arguments& arguments, Runtime& runtime);
Value call_method(const Value& object, std::string_view name, const Arguments& arguments, Runtime& runtime);
Value call_function(std::string_view name, const Arguments& arguments, Runtime& runtime);

// The method format() of text.
Value format_text(const MarkedText& text, const Arguments& arguments, Runtime& runtime);

// Tables of the filters that work on lists, and of those that order; the rest are in filters.cpp.
using FilterFunction = Value (*)(const Value& input, const Arguments& arguments, Runtime& runtime);
FilterFunction find_list_filter(std::string_view name);
FilterFunction find_sort_filter(std::string_view name);

// What `path` leads to from `value`: "a.b.0" looks up one after the other.
Value look_up(Value value, const Value& path, Runtime& runtime);

}  // namespace kvcrush::jinja
