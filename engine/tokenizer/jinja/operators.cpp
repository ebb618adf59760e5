#include "engine/tokenizer/jinja/operators.h"

#include <algorithm>
#include <cmath>

#include "engine/tokenizer/jinja/builtins.h"
#include "engine/tokenizer/jinja/string_ops.h"
#include "engine/tokenizer/jinja/value_text.h"
#include "engine/tokenizer/utf8.h"

namespace kvcrush::jinja {
namespace {

[[noreturn]] void fail_operands(std::string_view symbol, const Value& left, const Value& right) {
  const Value& bad = left.is<Undefined>() ? left : right;
  if (bad.is<Undefined>()) throw TemplateError("'" + bad.as<Undefined>().name + "' is undefined");
  throw TemplateError("cannot compute " + std::string(type_name(left)) + " " + std::string(symbol) + " " +
                      std::string(type_name(right)));
}

[[noreturn]] void fail_range() {
  throw TemplateError("a number grows out of range");
}

std::int64_t floor_divide(std::int64_t left, std::int64_t right) {
  if (right == -1 && left == INT64_MIN) fail_range();
  const std::int64_t quotient = left / right;
  return quotient - ((left % right != 0 && (left < 0) != (right < 0)) ? 1 : 0);
}

std::int64_t power(std::int64_t base, std::int64_t exponent) {
  std::int64_t result = 1;
  // Beyond 64 factors only 0, 1 and -1 stay in range.
  if (exponent > 64 && (base == 0 || base == 1 || base == -1)) exponent = 2 + exponent % 2;
  for (std::int64_t i = 0; i < exponent; ++i) {
    if (__builtin_mul_overflow(result, base, &result)) fail_range();
  }
  return result;
}

Value int_operation(std::string_view symbol, std::int64_t left, std::int64_t right) {
  std::int64_t result = 0;
  bool overflow = false;
  if (symbol == "+") {
    overflow = __builtin_add_overflow(left, right, &result);
  } else if (symbol == "-") {
    overflow = __builtin_sub_overflow(left, right, &result);
  } else if (symbol == "*") {
    overflow = __builtin_mul_overflow(left, right, &result);
  } else if (symbol == "**") {
    if (right < 0) return make_double(std::pow(static_cast<double>(left), static_cast<double>(right)));
    result = power(left, right);
  } else {
    if (right == 0) throw TemplateError("division by zero");
    if (symbol == "/") return make_double(static_cast<double>(left) / static_cast<double>(right));
    const std::int64_t quotient = floor_divide(left, right);
    result = symbol == "//" ? quotient : left - quotient * right;
  }
  if (overflow) fail_range();
  return make_int(result);
}

Value double_operation(std::string_view symbol, double left, double right) {
  if (symbol == "+") return make_double(left + right);
  if (symbol == "-") return make_double(left - right);
  if (symbol == "*") return make_double(left * right);
  if (symbol == "**") return make_double(std::pow(left, right));
  if (right == 0.0) throw TemplateError("division by zero");
  if (symbol == "/") return make_double(left / right);
  if (symbol == "//") return make_double(std::floor(left / right));
  double remainder = std::fmod(left, right);
  if (remainder != 0.0 && (remainder < 0) != (right < 0)) remainder += right;
  return make_double(remainder);
}

Value concatenated(const MarkedText& left, const MarkedText& right, Runtime& runtime) {
  runtime.charge_bytes(left.memory_bytes() + right.memory_bytes());
  MarkedText text = left;
  text.append(right);
  return make_text(std::move(text));
}

Value joined_lists(const List& left, const List& right, Runtime& runtime) {
  runtime.charge_steps(left.items.size() + right.items.size());
  std::vector<Value> items = left.items;
  items.insert(items.end(), right.items.begin(), right.items.end());
  return make_list(std::move(items), left.is_tuple);
}

Value repeated_list(const List& list, std::int64_t count, Runtime& runtime) {
  std::vector<Value> items;
  for (std::int64_t i = 0; i < count && !list.items.empty(); ++i) {
    runtime.charge_steps(list.items.size());
    items.insert(items.end(), list.items.begin(), list.items.end());
  }
  return make_list(std::move(items), list.is_tuple);
}

Value loop_attribute(const Loop& loop, const std::string& name) {
  const auto index = static_cast<std::int64_t>(loop.index0);
  const auto length = static_cast<std::int64_t>(loop.items->items.size());
  if (name == "index") return make_int(index + 1);
  if (name == "index0") return make_int(index);
  if (name == "revindex") return make_int(length - index);
  if (name == "revindex0") return make_int(length - index - 1);
  if (name == "first") return make_bool(index == 0);
  if (name == "last") return make_bool(index + 1 == length);
  if (name == "length") return make_int(length);
  // Only recursive loops, which this language lacks, go deeper.
  if (name == "depth") return make_int(1);
  if (name == "depth0") return make_int(0);
  if (name == "previtem" && index > 0) return loop.items->items[loop.index0 - 1];
  if (name == "nextitem" && index + 1 < length) return loop.items->items[loop.index0 + 1];
  return make_undefined(name);
}

// Where `value` points to in a sequence of `length`, as the bound of a slice.
std::int64_t slice_bound(const Value* value, std::int64_t fallback, std::int64_t length, bool backwards) {
  if (value == nullptr || value->is<None>()) return fallback;
  std::int64_t bound = to_int(*value, "a slice's bound");
  if (bound < 0) bound = bound < -length ? -1 : bound + length;
  if (backwards) return std::clamp<std::int64_t>(bound, -1, length - 1);
  return std::clamp<std::int64_t>(bound, 0, length);
}

bool contains(const Value& container, const Value& item) {
  if (container.is<TextPtr>()) {
    const MarkedText& part = to_marked_text(item, "what is looked for in a string");
    return find_bytes(container.as<TextPtr>()->text(), part.text(), 0) != std::string::npos;
  }
  if (container.is<ListPtr>()) {
    const auto& items = container.as<ListPtr>()->items;
    return std::any_of(items.begin(), items.end(),
                       [&item](const Value& other) { return equals(item, other); });
  }
  if (container.is<DictPtr>()) return container.as<DictPtr>()->find(item) != nullptr;
  if (container.is<Undefined>()) return false;
  throw TemplateError("cannot look for something in " + std::string(type_name(container)));
}

}  // namespace

Value binary_operation(std::string_view symbol, const Value& left, const Value& right, Runtime& runtime) {
  if (symbol == "~") return concatenated(to_text(left, runtime), to_text(right, runtime), runtime);
  if (left.is_number() && right.is_number()) {
    if (left.is<double>() || right.is<double>()) {
      return double_operation(symbol, to_double(left, "an operand"), to_double(right, "an operand"));
    }
    return int_operation(symbol, to_int(left, "an operand"), to_int(right, "an operand"));
  }
  if (symbol == "+") {
    if (left.is<TextPtr>() && right.is<TextPtr>()) {
      return concatenated(*left.as<TextPtr>(), *right.as<TextPtr>(), runtime);
    }
    const bool lists = left.is<ListPtr>() && right.is<ListPtr>();
    if (lists && left.as<ListPtr>()->is_tuple == right.as<ListPtr>()->is_tuple) {
      return joined_lists(*left.as<ListPtr>(), *right.as<ListPtr>(), runtime);
    }
  }
  if (symbol == "*") {
    const Value& count = right.is<std::int64_t>() ? right : left;
    const Value& sequence = right.is<std::int64_t>() ? left : right;
    if (count.is<std::int64_t>()) {
      const std::int64_t times = count.as<std::int64_t>();
      if (sequence.is<TextPtr>()) return make_text(repeated(*sequence.as<TextPtr>(), times, runtime));
      if (sequence.is<ListPtr>()) return repeated_list(*sequence.as<ListPtr>(), times, runtime);
    }
  }
  fail_operands(symbol, left, right);
}

Value negated(const Value& value) {
  if (value.is<double>()) return make_double(-value.as<double>());
  return int_operation("-", 0, to_int(value, "the operand of -"));
}

bool compare(std::string_view symbol, const Value& left, const Value& right, Runtime& runtime) {
  runtime.charge_steps(weight_of(left) + weight_of(right));
  if (symbol == "==") return equals(left, right);
  if (symbol == "!=") return !equals(left, right);
  if (symbol == "in") return contains(right, left);
  if (symbol == "not in") return !contains(right, left);
  if (left.is<Undefined>() || right.is<Undefined>()) fail_operands(symbol, left, right);
  if (symbol == "<") return less(left, right);
  if (symbol == ">") return less(right, left);
  if (symbol == "<=") return less(left, right) || equals(left, right);
  return less(right, left) || equals(left, right);
}

Value attribute_of(const Value& object, const std::string& name, Runtime& runtime) {
  if (object.is<Undefined>()) throw TemplateError("'" + object.as<Undefined>().name + "' is undefined");
  if (object.is<LoopPtr>()) {
    return name == "cycle" ? make_method(object, name) : loop_attribute(*object.as<LoopPtr>(), name);
  }
  if (object.is<NamespacePtr>()) {
    const auto& attributes = object.as<NamespacePtr>()->attributes;
    const auto it = attributes.find(name);
    return it == attributes.end() ? make_undefined(name) : it->second;
  }
  if (has_method(object, name)) return make_method(object, name);
  return object.is<DictPtr>() ? item_of(object, make_text(name), runtime) : make_undefined(name);
}

Value item_of(const Value& object, const Value& key, Runtime& runtime) {
  if (object.is<Undefined>()) throw TemplateError("'" + object.as<Undefined>().name + "' is undefined");
  if (object.is<DictPtr>()) {
    if (const Value* value = find_entry(*object.as<DictPtr>(), key, runtime)) return *value;
  }
  if (key.is<TextPtr>()) {
    const std::string& name = key.as<TextPtr>()->text();
    return object.is<DictPtr>() && !has_method(object, name) ? make_undefined(name)
                                                             : attribute_of(object, name, runtime);
  }
  const bool is_sequence = object.is<ListPtr>() || object.is<TextPtr>();
  if (!is_sequence || !key.is<std::int64_t>()) return make_undefined("item");
  const std::int64_t wanted = key.as<std::int64_t>();
  if (object.is<ListPtr>()) {
    const auto& items = object.as<ListPtr>()->items;
    const auto length = static_cast<std::int64_t>(items.size());
    const std::int64_t index = wanted < 0 ? wanted + length : wanted;
    return index < 0 || index >= length ? make_undefined("item") : items[static_cast<std::size_t>(index)];
  }
  const MarkedText& text = *object.as<TextPtr>();
  const auto offsets = character_offsets(text.text(), runtime);
  const auto length = static_cast<std::int64_t>(offsets.size()) - 1;
  const std::int64_t index = wanted < 0 ? wanted + length : wanted;
  if (index < 0 || index >= length) return make_undefined("item");
  const auto i = static_cast<std::size_t>(index);
  return make_text(text.slice(offsets[i], offsets[i + 1]));
}

Value slice_of(const Value& object, const Value* start, const Value* stop, const Value* step,
               Runtime& runtime) {
  if (!object.is<ListPtr>() && !object.is<TextPtr>()) {
    if (object.is<Undefined>()) throw TemplateError("'" + object.as<Undefined>().name + "' is undefined");
    throw TemplateError("cannot take a slice of " + std::string(type_name(object)));
  }
  const std::int64_t stride = step == nullptr || step->is<None>() ? 1 : to_int(*step, "a slice's step");
  if (stride == 0) throw TemplateError("a slice's step must not be 0");
  const bool is_text = object.is<TextPtr>();
  std::vector<std::size_t> offsets;
  if (is_text) offsets = character_offsets(object.as<TextPtr>()->text(), runtime);
  const auto length =
      static_cast<std::int64_t>(is_text ? offsets.size() - 1 : object.as<ListPtr>()->items.size());
  const bool backwards = stride < 0;
  const std::int64_t first = slice_bound(start, backwards ? length - 1 : 0, length, backwards);
  const std::int64_t last = slice_bound(stop, backwards ? -1 : length, length, backwards);

  MarkedText text;
  std::vector<Value> items;
  for (std::int64_t i = first; backwards ? i > last : i < last;) {
    const auto index = static_cast<std::size_t>(i);
    if (is_text) {
      text.append(*object.as<TextPtr>(), offsets[index], offsets[index + 1]);
    } else {
      runtime.charge_steps(1);
      items.push_back(object.as<ListPtr>()->items[index]);
    }
    if (__builtin_add_overflow(i, stride, &i)) break;
  }
  return is_text ? make_text(std::move(text)) : make_list(std::move(items), object.as<ListPtr>()->is_tuple);
}

}  // namespace kvcrush::jinja
