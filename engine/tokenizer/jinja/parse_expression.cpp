#include <algorithm>

#include "engine/tokenizer/jinja/parser.h"

namespace kvcrush::jinja {

ExpressionPtr Parser::make(ExpressionKind kind, std::string name) const {
  auto expression = std::make_unique<Expression>();
  expression->kind = kind;
  expression->line = current().line;
  expression->name = std::move(name);
  return expression;
}

void Parser::adopt(Expression& parent, ExpressionPtr child) const {
  if (child) parent.depth = std::max(parent.depth, child->depth + 1);
  parent.args.push_back(std::move(child));
  if (parent.depth > kMaxExpressionDepth) fail("an expression is nested too deep");
}

// One expression, or several with commas between them.
ExpressionPtr Parser::parse_tuple() {
  ExpressionPtr first = parse_expression();
  if (!is_operator(",")) return first;
  ExpressionPtr tuple = make(ExpressionKind::kTuple);
  adopt(*tuple, std::move(first));
  while (skip_operator(",")) {
    const bool ends = is_operator(")") || is_operator("=") || current().type == TokenType::kBlockEnd ||
                      current().type == TokenType::kPrintEnd;
    if (ends) break;
    adopt(*tuple, parse_expression());
  }
  return tuple;
}

ExpressionPtr Parser::parse_expression() {
  if (++expression_depth_ > kMaxExpressionDepth / 2) fail("an expression is nested too deep");
  ExpressionPtr value = parse_or();
  while (skip_name("if")) {
    ExpressionPtr conditional = make(ExpressionKind::kConditional);
    adopt(*conditional, std::move(value));
    adopt(*conditional, parse_or());
    adopt(*conditional, skip_name("else") ? parse_expression() : nullptr);
    value = std::move(conditional);
  }
  --expression_depth_;
  return value;
}

ExpressionPtr Parser::parse_left_to_right(Level operand, std::initializer_list<std::string_view> operators) {
  ExpressionPtr left = (this->*operand)();
  while (true) {
    const auto found = std::find_if(operators.begin(), operators.end(), [this](std::string_view text) {
      return is_operator(text) || is_name(text);
    });
    if (found == operators.end()) return left;
    ExpressionPtr binary = make(ExpressionKind::kBinary, take().text);
    adopt(*binary, std::move(left));
    adopt(*binary, (this->*operand)());
    left = std::move(binary);
  }
}

ExpressionPtr Parser::parse_or() {
  return parse_left_to_right(&Parser::parse_and, {"or"});
}
ExpressionPtr Parser::parse_and() {
  return parse_left_to_right(&Parser::parse_not, {"and"});
}
ExpressionPtr Parser::parse_sum() {
  return parse_left_to_right(&Parser::parse_concat, {"+", "-"});
}
ExpressionPtr Parser::parse_concat() {
  return parse_left_to_right(&Parser::parse_product, {"~"});
}
ExpressionPtr Parser::parse_product() {
  return parse_left_to_right(&Parser::parse_power, {"*", "/", "//", "%"});
}

ExpressionPtr Parser::parse_not() {
  if (!is_name("not")) return parse_compare();
  if (++expression_depth_ > kMaxExpressionDepth / 2) fail("an expression is nested too deep");
  ExpressionPtr negation = make(ExpressionKind::kUnary, take().text);
  adopt(*negation, parse_not());
  --expression_depth_;
  return negation;
}

ExpressionPtr Parser::parse_compare() {
  ExpressionPtr first = parse_sum();
  ExpressionPtr compare;
  while (true) {
    std::string symbol;
    const bool negated_in =
        is_name("not") && tokens_[index_ + 1].type == TokenType::kName && tokens_[index_ + 1].text == "in";
    for (const std::string_view text : {"==", "!=", "<", "<=", ">", ">="}) {
      if (is_operator(text)) symbol = text;
    }
    if (is_name("in")) symbol = "in";
    if (negated_in) {
      take();
      symbol = "not in";
    }
    if (symbol.empty()) return compare ? std::move(compare) : std::move(first);
    take();
    if (!compare) {
      compare = make(ExpressionKind::kCompare);
      adopt(*compare, std::move(first));
    }
    compare->names.push_back(symbol);
    adopt(*compare, parse_sum());
  }
}

ExpressionPtr Parser::parse_power() {
  ExpressionPtr left = parse_unary(true);
  while (is_operator("**")) {
    ExpressionPtr binary = make(ExpressionKind::kBinary, take().text);
    adopt(*binary, std::move(left));
    adopt(*binary, parse_unary(true));
    left = std::move(binary);
  }
  return left;
}

ExpressionPtr Parser::parse_unary(bool with_filter) {
  ExpressionPtr value;
  if (is_operator("-") || is_operator("+")) {
    if (++expression_depth_ > kMaxExpressionDepth / 2) fail("an expression is nested too deep");
    value = make(ExpressionKind::kUnary, take().text);
    adopt(*value, parse_unary(false));
    --expression_depth_;
  } else {
    value = parse_primary();
  }
  value = parse_postfix(std::move(value));
  return with_filter ? parse_filters(std::move(value)) : std::move(value);
}

}  // namespace kvcrush::jinja
