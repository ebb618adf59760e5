#include "engine/tokenizer/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <optional>

#include "engine/tokenizer/jinja/literals.h"
#include "engine/tokenizer/jinja/runtime.h"
#include "engine/tokenizer/jinja/string_ops.h"
#include "engine/tokenizer/utf8.h"

namespace kvcrush::jinja {
namespace {

bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
bool is_name_part(char c) {
  return is_name_start(c) || is_digit(c);
}

// "\r\n" and "\r" become "\n"; one newline at the very end does not count.
std::string normalize_newlines(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      text += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      text += source[i];
    }
  }
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalize_newlines(source)) {}

  std::vector<Token> run() {
    while (offset_ < source_.size()) {
      const std::size_t tag = find_tag();
      lex_text(tag);
      if (tag == source_.size()) break;
      const char kind = source_[tag + 1];
      advance_to(tag + 2);
      if (offset_ < source_.size() && (source_[offset_] == '-' || source_[offset_] == '+'))
        advance_to(offset_ + 1);
      if (kind == '#') {
        skip_comment();
      } else if (kind == '%' && opens_raw()) {
        lex_raw();
      } else {
        lex_tag(kind == '{');
      }
    }
    add(TokenType::kEnd, {});
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw TemplateError("line " + std::to_string(line_) + ": " + what);
  }

  void add(TokenType type, std::string text) { tokens_.push_back({type, std::move(text), line_}); }

  void advance_to(std::size_t offset) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(offset_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(offset), '\n'));
    offset_ = offset;
  }

  bool at(std::string_view text) const { return source_.compare(offset_, text.size(), text) == 0; }

  std::size_t find_tag() const {
    for (std::size_t i = offset_; i + 1 < source_.size(); ++i) {
      if (source_[i] != '{') continue;
      const char next = source_[i + 1];
      if (next == '{' || next == '%' || next == '#') return i;
    }
    return source_.size();
  }

  // The text up to `tag`, less what the tag's sign or lstrip_blocks takes off its end.
  void lex_text(std::size_t tag) {
    std::string_view text = std::string_view(source_).substr(offset_, tag - offset_);
    if (tag < source_.size()) {
      const char sign = tag + 2 < source_.size() ? source_[tag + 2] : ' ';
      if (sign == '-') {
        text = text.substr(0, trimmed_range(text, std::nullopt, false, true).second);
      } else if (sign != '+' && source_[tag + 1] != '{') {
        const std::size_t newline = text.rfind('\n');
        const std::size_t line_begin = newline == std::string_view::npos ? 0 : newline + 1;
        const bool line_starts_here = offset_ == 0 || source_[offset_ - 1] == '\n' || line_begin > 0;
        const std::string_view indent = text.substr(line_begin);
        const bool blank = trimmed_range(indent, std::nullopt, true, false).first == indent.size();
        if (line_starts_here && blank) text = text.substr(0, line_begin);
      }
    }
    if (!text.empty()) add(TokenType::kText, std::string(text));
    advance_to(tag);
  }

  // What a tag's end takes off the text behind it: all white space after '-', one newline after a block or
  // comment.
  void skip_after_tag(char sign, bool trims_newline) {
    if (sign == '-') {
      const std::string_view rest = std::string_view(source_).substr(offset_);
      advance_to(offset_ + trimmed_range(rest, std::nullopt, true, false).first);
    } else if (sign != '+' && trims_newline && at("\n")) {
      advance_to(offset_ + 1);
    }
  }

  // Whether the tag whose inside begins here is {% raw %}; its end is behind it then.
  bool opens_raw() {
    const std::optional<std::pair<std::size_t, char>> end = tag_of("raw", offset_);
    if (!end) return false;
    advance_to(end->first);
    skip_after_tag(end->second, false);
    return true;
  }

  // The end of a tag that holds only `name`, and the sign before its end, where `offset` is behind "{%" and
  // its sign.
  std::optional<std::pair<std::size_t, char>> tag_of(std::string_view name, std::size_t offset) const {
    const std::string_view rest = std::string_view(source_).substr(offset);
    std::size_t at = trimmed_range(rest, std::nullopt, true, false).first;
    if (rest.substr(at, name.size()) != name) return std::nullopt;
    at += name.size();
    at += trimmed_range(rest.substr(at), std::nullopt, true, false).first;
    const char sign = at < rest.size() && (rest[at] == '-' || rest[at] == '+') ? rest[at] : ' ';
    if (sign != ' ') ++at;
    if (rest.substr(at, 2) != "%}") return std::nullopt;
    return std::pair(offset + at + 2, sign);
  }

  // Text up to {% endraw %}, whatever is in it.
  void lex_raw() {
    for (std::size_t tag = source_.find("{%", offset_); tag != std::string::npos;
         tag = source_.find("{%", tag + 2)) {
      const bool has_sign = tag + 2 < source_.size() && (source_[tag + 2] == '-' || source_[tag + 2] == '+');
      const auto end = tag_of("endraw", tag + (has_sign ? 3 : 2));
      if (!end) continue;
      lex_text(tag);
      advance_to(end->first);
      return skip_after_tag(end->second, true);
    }
    fail("\"endraw\" is missing");
  }

  void skip_comment() {
    const std::size_t end = source_.find("#}", offset_);
    if (end == std::string::npos) fail("a comment is not closed");
    const char sign = end > offset_ ? source_[end - 1] : ' ';
    advance_to(end + 2);
    skip_after_tag(sign, true);
  }

  void lex_tag(bool print) {
    add(print ? TokenType::kPrintBegin : TokenType::kBlockBegin, print ? "{{" : "{%");
    const std::string_view closer = print ? "}}" : "%}";
    std::string open_brackets;
    while (true) {
      skip_spaces();
      if (offset_ >= source_.size()) fail("a tag is not closed");
      const char sign = source_[offset_];
      const bool has_sign = sign == '-' || (sign == '+' && !print);
      // Inside brackets "}}" closes two dicts.
      if (open_brackets.empty() && source_.compare(offset_ + (has_sign ? 1 : 0), 2, closer) == 0) {
        add(print ? TokenType::kPrintEnd : TokenType::kBlockEnd, std::string(closer));
        advance_to(offset_ + (has_sign ? 3 : 2));
        skip_after_tag(has_sign ? sign : ' ', !print);
        return;
      }
      lex_token(open_brackets);
    }
  }

  void skip_spaces() {
    const std::string_view rest = std::string_view(source_).substr(offset_);
    advance_to(offset_ + trimmed_range(rest, std::nullopt, true, false).first);
  }

  void lex_token(std::string& open_brackets) {
    const char c = source_[offset_];
    if (is_name_start(c)) return lex_while(TokenType::kName, is_name_part);
    if (is_digit(c)) return lex_number();
    if (c == '\'' || c == '"') return lex_string(c);
    lex_operator(open_brackets);
  }

  template <typename F>
  void lex_while(TokenType type, F belongs) {
    std::size_t end = offset_;
    while (end < source_.size() && belongs(source_[end])) ++end;
    add(type, source_.substr(offset_, end - offset_));
    advance_to(end);
  }

  void lex_number() {
    NumberLiteral number = read_number(std::string_view(source_).substr(offset_));
    add(number.is_float ? TokenType::kFloat : TokenType::kInteger, std::move(number.text));
    advance_to(offset_ + number.num_bytes);
  }

  void lex_string(char quote) {
    std::size_t end = offset_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) fail("a string is not closed");
    Result<std::string> text = unescape(std::string_view(source_).substr(offset_ + 1, end - offset_ - 1));
    if (!text.ok()) fail(text.status().message());
    add(TokenType::kString, std::move(text).value());
    advance_to(end + 1);
  }

  void lex_operator(std::string& open_brackets) {
    constexpr std::array<std::string_view, 6> kLong = {"//", "**", "==", "!=", ">=", "<="};
    for (const std::string_view symbol : kLong) {
      if (!at(symbol)) continue;
      add(TokenType::kOperator, std::string(symbol));
      return advance_to(offset_ + symbol.size());
    }
    const char c = source_[offset_];
    if (std::string_view("+-/*%~[](){}><=.:|,;").find(c) == std::string_view::npos) {
      fail("unexpected character \"" + source_.substr(offset_, utf8::next(source_, offset_).num_bytes) +
           "\"");
    }
    if (c == '(') open_brackets += ')';
    if (c == '[') open_brackets += ']';
    if (c == '{') open_brackets += '}';
    if (c == ')' || c == ']' || c == '}') {
      if (open_brackets.empty() || open_brackets.back() != c) fail(std::string("unexpected \"") + c + "\"");
      open_brackets.pop_back();
    }
    add(TokenType::kOperator, std::string(1, c));
    advance_to(offset_ + 1);
  }

  std::string source_;
  std::size_t offset_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  if (source.size() > kMaxSourceBytes)
    throw TemplateError("the template is longer than " + std::to_string(kMaxSourceBytes) + " bytes");
  return Lexer(source).run();
}

}  // namespace kvcrush::jinja
