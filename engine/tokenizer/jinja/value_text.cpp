#include "engine/tokenizer/jinja/value_text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "engine/tokenizer/utf8.h"

namespace kvcrush::jinja {
namespace {

// The shortest digits that read back as the same number, laid out the way Python does.
std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::array<char, 64> buffer{};
  const auto scientific =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::scientific);
  std::string text(buffer.data(), scientific.ptr);
  const std::size_t e = text.find('e');
  int exponent = 0;
  const char* digits = text.data() + e + 1 + (text[e + 1] == '+' ? 1 : 0);
  std::from_chars(digits, text.data() + text.size(), exponent);
  if (exponent < -4 || exponent >= 16) return text;
  const auto fixed =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::fixed);
  std::string plain(buffer.data(), fixed.ptr);
  if (plain.find('.') == std::string::npos) plain += ".0";
  return plain;
}

std::string hex_escape(std::string_view prefix, std::uint32_t code, int num_digits) {
  std::string text(prefix);
  for (int shift = 4 * (num_digits - 1); shift >= 0; shift -= 4)
    text += "0123456789abcdef"[(code >> shift) & 0xF];
  return text;
}

// Whether Python's repr escapes it: separators, controls, format characters and private use.
bool is_unprintable(std::uint32_t code) {
  struct Range {
    std::uint32_t first;
    std::uint32_t last;
  };
  constexpr Range kRanges[] = {{0, 0x1F},          {0x7F, 0xA0},       {0xAD, 0xAD},     {0x600, 0x605},
                               {0x61C, 0x61C},     {0x6DD, 0x6DD},     {0x70F, 0x70F},   {0x1680, 0x1680},
                               {0x180E, 0x180E},   {0x2000, 0x200F},   {0x2028, 0x202F}, {0x205F, 0x206F},
                               {0x3000, 0x3000},   {0xD800, 0xF8FF},   {0xFEFF, 0xFEFF}, {0xFFF9, 0xFFFB},
                               {0xE0001, 0xE007F}, {0xF0000, 0x10FFFF}};
  return std::any_of(std::begin(kRanges), std::end(kRanges),
                     [code](const Range& range) { return code >= range.first && code <= range.last; });
}

// The escape of one code point in Python's repr; empty: it stands for itself.
std::string repr_escape(std::uint32_t code, char quote) {
  if (code == '\\') return "\\\\";
  if (code == static_cast<std::uint32_t>(quote)) return std::string("\\") + quote;
  if (code == '\n') return "\\n";
  if (code == '\r') return "\\r";
  if (code == '\t') return "\\t";
  if (!is_unprintable(code)) return {};
  if (code <= 0xFF) return hex_escape("\\x", code, 2);
  return code <= 0xFFFF ? hex_escape("\\u", code, 4) : hex_escape("\\U", code, 8);
}

std::string json_escape(std::uint32_t code, bool ensure_ascii) {
  switch (code) {
    case '"':
      return "\\\"";
    case '\\':
      return "\\\\";
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    case '\b':
      return "\\b";
    case '\f':
      return "\\f";
    default:
      break;
  }
  constexpr std::uint32_t kFirstOfSurrogates = 0x10000;
  if (code < 0x20 || (ensure_ascii && code >= 0x7F && code < kFirstOfSurrogates))
    return hex_escape("\\u", code, 4);
  if (!ensure_ascii || code < 0x7F) return {};
  const std::uint32_t offset = code - kFirstOfSurrogates;
  return hex_escape("\\u", 0xD800 + (offset >> 10), 4) + hex_escape("\\u", 0xDC00 + (offset & 0x3FF), 4);
}

class Writer {
 public:
  // `json` null: as Python's repr.
  Writer(Runtime& runtime, const JsonStyle* json) : runtime_(runtime), json_(json) {}

  void write(const Value& value) {
    runtime_.charge_steps(1);
    if (value.is<TextPtr>()) return quote(*value.as<TextPtr>());
    if (value.is<ListPtr>()) return write_list(*value.as<ListPtr>());
    if (value.is<DictPtr>()) return write_dict(*value.as<DictPtr>());
    if (value.is<None>()) return put(json_ != nullptr ? "null" : "None");
    if (value.is<bool>())
      return put(value.as<bool>() ? (json_ != nullptr ? "true" : "True")
                                  : (json_ != nullptr ? "false" : "False"));
    if (value.is<std::int64_t>()) return put(std::to_string(value.as<std::int64_t>()));
    if (value.is<double>()) return put(float_text(value.as<double>()));
    if (json_ != nullptr) throw TemplateError("cannot write " + std::string(type_name(value)) + " as JSON");
    put(value.is<Undefined>() ? "Undefined" : "<" + std::string(type_name(value)) + ">");
  }

  MarkedText take() { return std::move(out_); }

 private:
  void put(std::string_view text) {
    runtime_.charge_bytes(text.size());
    out_.append(text, false);
  }

  void put(const MarkedText& text) {
    runtime_.charge_bytes(text.memory_bytes());
    out_.append(text);
  }

  void quote(const MarkedText& text) {
    runtime_.charge_bytes(text.memory_bytes());
    const std::string& bytes = text.text();
    const bool has_single = bytes.find('\'') != std::string::npos;
    const char mark = json_ != nullptr || (has_single && bytes.find('"') == std::string::npos) ? '"' : '\'';
    out_.append(std::string_view(&mark, 1), false);
    std::size_t plain_begin = 0;
    for (std::size_t offset = 0; offset < bytes.size();) {
      const utf8::Step step = utf8::next(bytes, offset);
      const std::string escape = json_ != nullptr ? json_escape(step.code_point, json_->ensure_ascii)
                                                  : repr_escape(step.code_point, mark);
      const std::size_t end = offset + step.num_bytes;
      if (!escape.empty()) {
        out_.append(text, plain_begin, offset);
        out_.append(escape, text.from_message_at(offset));
        plain_begin = end;
      }
      offset = end;
    }
    out_.append(text, plain_begin, bytes.size());
    out_.append(std::string_view(&mark, 1), false);
  }

  void separate(const MarkedText* own, std::string_view usual) {
    if (own != nullptr) return put(*own);
    put(usual);
  }

  void new_line() {
    if (json_ == nullptr || !json_->indent) return;
    put("\n" + std::string(static_cast<std::size_t>(*json_->indent * level_), ' '));
  }

  // `write_item(i)` for each of `count` items between the brackets.
  template <typename F>
  void write_items(char open, char close, std::size_t count, F write_item) {
    put(std::string_view(&open, 1));
    ++level_;
    for (std::size_t i = 0; i < count; ++i) {
      if (i > 0) separate(json_ == nullptr ? nullptr : &json_->item_separator, ", ");
      new_line();
      write_item(i);
    }
    --level_;
    if (count > 0) new_line();
    put(std::string_view(&close, 1));
  }

  void write_list(const List& list) {
    const bool round = list.is_tuple && json_ == nullptr;
    write_items(round ? '(' : '[', round ? ')' : ']', list.items.size(), [&](std::size_t i) {
      write(list.items[i]);
      if (round && list.items.size() == 1) put(",");
    });
  }

  void write_dict(const Dict& dict) {
    const auto entries = in_order(dict);
    write_items('{', '}', entries.size(), [&](std::size_t i) {
      const auto& [key, value] = *entries[i];
      write(key);
      separate(json_ == nullptr ? nullptr : &json_->key_separator, ": ");
      write(value);
    });
  }

  std::vector<const std::pair<Value, Value>*> in_order(const Dict& dict) {
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dict.entries) {
      if (json_ != nullptr && !entry.first.is<TextPtr>())
        throw TemplateError("a JSON object's keys must be strings");
      entries.push_back(&entry);
    }
    if (json_ == nullptr || !json_->sort_keys) return entries;
    charge_sort(entries.size(), dict.weight, runtime_);
    std::stable_sort(entries.begin(), entries.end(),
                     [](const auto* left, const auto* right) { return less(left->first, right->first); });
    return entries;
  }

  Runtime& runtime_;
  const JsonStyle* json_;
  int level_ = 0;
  MarkedText out_;
};

}  // namespace

MarkedText to_text(const Value& value, Runtime& runtime) {
  if (value.is<TextPtr>()) {
    runtime.charge_bytes(value.as<TextPtr>()->memory_bytes());
    return *value.as<TextPtr>();
  }
  if (value.is<Undefined>()) return {};
  Writer writer(runtime, nullptr);
  writer.write(value);
  return writer.take();
}

MarkedText to_json(const Value& value, const JsonStyle& style, Runtime& runtime) {
  Writer writer(runtime, &style);
  writer.write(value);
  return writer.take();
}

}  // namespace kvcrush::jinja
