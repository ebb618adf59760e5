// Cuts a template into text and the tokens of its tags, and applies whitespace control as Jinja does with
// trim_blocks and lstrip_blocks on.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace kvcrush::jinja {

enum class TokenType {
  kText,        // between tags
  kPrintBegin,  // {{
  kPrintEnd,
  kBlockBegin,  // {%
  kBlockEnd,
  kName,
  kInteger,
  kFloat,
  kString,  // escapes resolved
  kOperator,
  kEnd,
};

struct Token {
  TokenType type = TokenType::kEnd;
  std::string text;
  int line = 1;
};

// Throws TemplateError with the line of what it does not understand. The last token is kEnd.
std::vector<Token> tokenize(std::string_view source);

}  // namespace kvcrush::jinja
