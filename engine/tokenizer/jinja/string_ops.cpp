#include "engine/tokenizer/jinja/string_ops.h"

#include <locale.h>
#include <string.h>
#include <wctype.h>

#include <algorithm>
#include <string>
#include <unordered_set>

#include "engine/tokenizer/utf8.h"

namespace kvcrush::jinja {
namespace {

// Case tables of the C library's UTF-8 locale, whatever the process has set for itself.
locale_t unicode_locale() {
  static const locale_t locale = [] {
    const locale_t utf8_locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
    return utf8_locale != nullptr ? utf8_locale : newlocale(LC_CTYPE_MASK, "C", nullptr);
  }();
  return locale;
}

bool is_letter(std::uint32_t code) {
  return iswalpha_l(static_cast<wint_t>(code), unicode_locale()) != 0;
}

std::uint32_t cased(std::uint32_t code, bool upper) {
  const auto letter = static_cast<wint_t>(code);
  return static_cast<std::uint32_t>(upper ? towupper_l(letter, unicode_locale())
                                          : towlower_l(letter, unicode_locale()));
}

bool begins_title_word(std::uint32_t previous, Case letters) {
  if (letters == Case::kTitle) return !is_letter(previous);
  return is_space(previous) || previous == '-' || previous == '(' || previous == '{' || previous == '[' ||
         previous == '<';
}

// The characters of a text, to be looked up in constant time.
std::unordered_set<std::string_view> characters_of(std::string_view text) {
  std::unordered_set<std::string_view> characters;
  for (std::size_t offset = 0; offset < text.size();) {
    const std::size_t num_bytes = utf8::next(text, offset).num_bytes;
    characters.insert(text.substr(offset, num_bytes));
    offset += num_bytes;
  }
  return characters;
}

// Start of the code point that ends at `end`.
std::size_t character_before(std::string_view text, std::size_t begin, std::size_t end) {
  std::size_t start = end - 1;
  while (start > begin && end - start < 4 && (static_cast<std::uint8_t>(text[start]) & 0xC0) == 0x80) --start;
  return start + utf8::next(text, start).num_bytes == end ? start : end - 1;
}

std::vector<MarkedText> split_at_spaces(const MarkedText& text, std::int64_t max_splits, Runtime& runtime) {
  std::vector<MarkedText> parts;
  std::size_t offset = trimmed_range(text.text(), std::nullopt, true, false).first;
  while (offset < text.size()) {
    runtime.charge_steps(1);
    if (max_splits >= 0 && static_cast<std::int64_t>(parts.size()) == max_splits) {
      parts.push_back(text.slice(offset, text.size()));
      break;
    }
    std::size_t end = offset;
    std::size_t num_space_bytes = 0;
    for (; end < text.size(); end += utf8::next(text.text(), end).num_bytes) {
      const utf8::Step step = utf8::next(text.text(), end);
      if (is_space(step.code_point)) {
        num_space_bytes =
            trimmed_range(std::string_view(text.text()).substr(end), std::nullopt, true, false).first;
        break;
      }
    }
    parts.push_back(text.slice(offset, end));
    offset = end + num_space_bytes;
  }
  return parts;
}

}  // namespace

bool is_space(std::uint32_t code) {
  return (code >= 0x09 && code <= 0x0D) || (code >= 0x1C && code <= 0x20) || code == 0x85 || code == 0xA0 ||
         code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 ||
         code == 0x202F || code == 0x205F || code == 0x3000;
}

std::pair<std::size_t, std::size_t> trimmed_range(std::string_view text,
                                                  const std::optional<std::string_view>& chars, bool left,
                                                  bool right) {
  std::unordered_set<std::string_view> set;
  if (chars) set = characters_of(*chars);
  const auto goes = [&](std::size_t begin, std::size_t end) {
    if (chars) return set.contains(text.substr(begin, end - begin));
    return is_space(utf8::next(text, begin).code_point);
  };
  std::size_t begin = 0;
  std::size_t end = text.size();
  while (left && begin < end) {
    const std::size_t after = begin + utf8::next(text, begin).num_bytes;
    if (!goes(begin, after)) break;
    begin = after;
  }
  while (right && end > begin) {
    const std::size_t before = character_before(text, begin, end);
    if (!goes(before, end)) break;
    end = before;
  }
  return {begin, end};
}

MarkedText trimmed(const MarkedText& text, const std::optional<MarkedText>& chars, Runtime& runtime,
                   bool left, bool right) {
  runtime.charge_bytes(text.memory_bytes() + (chars ? chars->memory_bytes() : 0));
  std::optional<std::string_view> set;
  if (chars) set = chars->text();
  const auto [begin, end] = trimmed_range(text.text(), set, left, right);
  return text.slice(begin, end);
}

MarkedText with_case(const MarkedText& text, Case letters, Runtime& runtime) {
  runtime.charge_bytes(text.memory_bytes());
  MarkedText out;
  bool word_begins = true;
  for (std::size_t offset = 0; offset < text.size();) {
    const utf8::Step step = utf8::next(text.text(), offset);
    const bool from_message = text.from_message_at(offset);
    if (step.form == utf8::Form::kValid) {
      const bool upper = letters == Case::kUpper || (letters != Case::kLower && word_begins);
      std::string character;
      utf8::append(character, cased(step.code_point, upper));
      out.append(character, from_message);
    } else {
      out.append(text, offset, offset + step.num_bytes);
    }
    word_begins = letters != Case::kCapitalize && begins_title_word(step.code_point, letters);
    offset += step.num_bytes;
  }
  return out;
}

std::vector<MarkedText> split(const MarkedText& text, const std::optional<MarkedText>& separator,
                              std::int64_t max_splits, Runtime& runtime) {
  runtime.charge_bytes(text.memory_bytes() + (separator ? separator->memory_bytes() : 0));
  if (!separator) return split_at_spaces(text, max_splits, runtime);
  if (separator->size() == 0) throw TemplateError("split() needs a separator that is not empty");
  std::vector<MarkedText> parts;
  std::size_t begin = 0;
  while (max_splits < 0 || static_cast<std::int64_t>(parts.size()) < max_splits) {
    runtime.charge_steps(1);
    const std::size_t end = find_bytes(text.text(), separator->text(), begin);
    if (end == std::string::npos) break;
    parts.push_back(text.slice(begin, end));
    begin = end + separator->size();
  }
  parts.push_back(text.slice(begin, text.size()));
  return parts;
}

std::vector<MarkedText> split_lines(const MarkedText& text, Runtime& runtime) {
  runtime.charge_bytes(text.memory_bytes());
  const auto ends_line = [](std::uint32_t code) {
    return (code >= 0x0A && code <= 0x0D) || (code >= 0x1C && code <= 0x1E) || code == 0x85 ||
           code == 0x2028 || code == 0x2029;
  };
  std::vector<MarkedText> lines;
  std::size_t begin = 0;
  for (std::size_t offset = 0; offset < text.size();) {
    const utf8::Step step = utf8::next(text.text(), offset);
    std::size_t after = offset + step.num_bytes;
    if (ends_line(step.code_point)) {
      runtime.charge_steps(1);
      lines.push_back(text.slice(begin, offset));
      if (step.code_point == '\r' && after < text.size() && text.text()[after] == '\n') ++after;
      begin = after;
    }
    offset = after;
  }
  if (begin < text.size()) lines.push_back(text.slice(begin, text.size()));
  return lines;
}

MarkedText replaced(const MarkedText& text, const MarkedText& old_text, const MarkedText& new_text,
                    std::int64_t max_count, Runtime& runtime) {
  runtime.charge_bytes(text.memory_bytes());
  MarkedText out;
  std::size_t copied = 0;
  std::size_t offset = 0;
  for (std::int64_t count = 0; max_count < 0 || count < max_count; ++count) {
    // An empty string is found before every character and at the end.
    const std::size_t found =
        old_text.size() == 0 ? offset : find_bytes(text.text(), old_text.text(), offset);
    if (found > text.size()) break;
    runtime.charge_steps(1);
    // Each may begin a run and end one.
    const std::size_t num_bytes = new_text.memory_bytes() + 2 * sizeof(MarkedText::Run);
    runtime.charge_bytes(out.size() + new_text.size() > kMaxTextBytes ? kMaxTextBytes + 1 : num_bytes);
    out.append(text, copied, found);
    out.append(new_text);
    copied = found;
    if (old_text.size() != 0) {
      copied = offset = found + old_text.size();
    } else if (found == text.size()) {
      break;
    } else {
      offset = found + utf8::next(text.text(), found).num_bytes;
    }
  }
  out.append(text, copied, text.size());
  return out;
}

MarkedText repeated(const MarkedText& text, std::int64_t count, Runtime& runtime) {
  MarkedText out;
  if (count <= 0 || text.size() == 0) return out;
  const std::size_t times = static_cast<std::size_t>(count);
  runtime.charge_bytes(times > kMaxTextBytes ? kMaxTextBytes + 1 : text.memory_bytes() * times);
  for (std::size_t i = 0; i < times; ++i) out.append(text);
  return out;
}

std::size_t find_bytes(std::string_view text, std::string_view part, std::size_t from) {
  if (from > text.size()) return std::string_view::npos;
  const void* found = memmem(text.data() + from, text.size() - from, part.data(), part.size());
  if (found == nullptr) return std::string_view::npos;
  return static_cast<std::size_t>(static_cast<const char*>(found) - text.data());
}

std::vector<std::size_t> character_offsets(std::string_view text, Runtime& runtime) {
  runtime.charge_bytes(text.size());
  std::vector<std::size_t> offsets;
  for (std::size_t offset = 0; offset < text.size(); offset += utf8::next(text, offset).num_bytes) {
    offsets.push_back(offset);
  }
  offsets.push_back(text.size());
  return offsets;
}

}  // namespace kvcrush::jinja
