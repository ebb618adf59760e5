// What operators work on: literals, names, subscripts, calls, filters and tests.
#include <algorithm>
#include <charconv>

#include "engine/tokenizer/jinja/builtins.h"
#include "engine/tokenizer/jinja/parser.h"

namespace kvcrush::jinja {

ExpressionPtr Parser::parse_primary() {
  switch (current().type) {
    case TokenType::kName:
      return parse_constant_name();
    case TokenType::kInteger:
    case TokenType::kFloat:
      return parse_number();
    case TokenType::kString: {
      ExpressionPtr text = make(ExpressionKind::kConstant);
      std::string joined;
      while (current().type == TokenType::kString) joined += take().text;
      text->constant = make_text(joined);
      return text;
    }
    default:
      break;
  }
  if (skip_operator("(")) {
    if (skip_operator(")")) return make(ExpressionKind::kTuple);
    ExpressionPtr inner = parse_tuple();
    expect_operator(")");
    return inner;
  }
  if (is_operator("[")) {
    ExpressionPtr list = make(ExpressionKind::kList);
    take();
    while (!is_operator("]")) {
      adopt(*list, parse_expression());
      if (!skip_operator(",")) break;
    }
    expect_operator("]");
    return list;
  }
  if (is_operator("{")) return parse_dict();
  fail_unexpected("a value");
}

ExpressionPtr Parser::parse_constant_name() {
  ExpressionPtr name = make(ExpressionKind::kConstant);
  const std::string_view text = current().text;
  take();
  if (text == "true" || text == "True") {
    name->constant = make_bool(true);
  } else if (text == "false" || text == "False") {
    name->constant = make_bool(false);
  } else if (text == "none" || text == "None") {
    name->constant = make_none();
  } else {
    name->kind = ExpressionKind::kName;
    name->name = text;
  }
  return name;
}

ExpressionPtr Parser::parse_number() {
  ExpressionPtr number = make(ExpressionKind::kConstant);
  const Token token = take();
  const char* end = token.text.data() + token.text.size();
  std::int64_t integer = 0;
  double real = 0;
  const bool is_integer = token.type == TokenType::kInteger;
  const auto result = is_integer ? std::from_chars(token.text.data(), end, integer)
                                 : std::from_chars(token.text.data(), end, real);
  if (result.ec != std::errc() || result.ptr != end) fail("the number " + token.text + " is out of range");
  number->constant = is_integer ? make_int(integer) : make_double(real);
  return number;
}

ExpressionPtr Parser::parse_dict() {
  ExpressionPtr dict = make(ExpressionKind::kDict);
  take();
  while (!is_operator("}")) {
    adopt(*dict, parse_expression());
    expect_operator(":");
    adopt(*dict, parse_expression());
    if (!skip_operator(",")) break;
  }
  expect_operator("}");
  return dict;
}

ExpressionPtr Parser::parse_postfix(ExpressionPtr object) {
  while (true) {
    if (is_operator(".") || is_operator("[")) {
      object = parse_subscript(std::move(object));
    } else if (is_operator("(")) {
      ExpressionPtr call = make(ExpressionKind::kCall);
      adopt(*call, std::move(object));
      parse_arguments(*call);
      object = std::move(call);
    } else {
      return object;
    }
  }
}

ExpressionPtr Parser::parse_subscript(ExpressionPtr object) {
  if (skip_operator(".")) {
    if (current().type == TokenType::kInteger) {
      ExpressionPtr item = make(ExpressionKind::kSubscript);
      adopt(*item, std::move(object));
      adopt(*item, parse_number());
      return item;
    }
    ExpressionPtr attribute = make(ExpressionKind::kAttribute);
    attribute->name = take_name("an attribute's name");
    adopt(*attribute, std::move(object));
    return attribute;
  }
  ExpressionPtr item = make(ExpressionKind::kSubscript);
  take();
  adopt(*item, std::move(object));
  adopt(*item, is_operator(":") ? nullptr : parse_expression());
  while (item->args.size() < 4 && skip_operator(":")) {
    item->kind = ExpressionKind::kSlice;
    adopt(*item, is_operator(":") || is_operator("]") ? nullptr : parse_expression());
  }
  if (item->kind == ExpressionKind::kSlice) item->args.resize(4);
  expect_operator("]");
  return item;
}

ExpressionPtr Parser::parse_filters(ExpressionPtr input) {
  while (true) {
    if (skip_operator("|")) {
      ExpressionPtr filter = make(ExpressionKind::kFilter);
      filter->name = take_name("a filter's name");
      if (!is_filter(filter->name)) fail("unknown filter \"" + filter->name + "\"");
      adopt(*filter, std::move(input));
      if (is_operator("(")) parse_arguments(*filter);
      input = std::move(filter);
    } else if (skip_name("is")) {
      input = parse_test(std::move(input));
    } else if (is_operator("(")) {
      ExpressionPtr call = make(ExpressionKind::kCall);
      adopt(*call, std::move(input));
      parse_arguments(*call);
      input = std::move(call);
    } else {
      return input;
    }
  }
}

ExpressionPtr Parser::parse_test(ExpressionPtr input) {
  const bool negated = skip_name("not");
  ExpressionPtr test = make(ExpressionKind::kTest);
  test->name = take_name("a test's name");
  if (!is_test(test->name)) fail("unknown test \"" + test->name + "\"");
  adopt(*test, std::move(input));
  const TokenType type = current().type;
  bool has_operand = type == TokenType::kString || type == TokenType::kInteger || type == TokenType::kFloat ||
                     is_operator("[") || is_operator("{");
  if (type == TokenType::kName) {
    const auto keywords = {"else", "or", "and", "if", "in", "is", "not"};
    has_operand =
        std::none_of(keywords.begin(), keywords.end(), [this](const char* word) { return is_name(word); });
  }
  if (is_operator("(")) {
    parse_arguments(*test);
  } else if (has_operand) {
    adopt(*test, parse_postfix(parse_primary()));
  }
  if (!negated) return test;
  ExpressionPtr negation = make(ExpressionKind::kUnary, "not");
  adopt(*negation, std::move(test));
  return negation;
}

void Parser::parse_arguments(Expression& call) {
  expect_operator("(");
  while (!is_operator(")")) {
    const Token& after = tokens_[index_ + 1];
    if (current().type == TokenType::kName && after.type == TokenType::kOperator && after.text == "=") {
      std::string name = take().text;
      take();
      ExpressionPtr value = parse_expression();
      call.depth = std::max(call.depth, value->depth + 1);
      if (call.depth > kMaxExpressionDepth) fail("an expression is nested too deep");
      call.named.emplace_back(std::move(name), std::move(value));
    } else {
      if (!call.named.empty()) fail("an argument without a name follows one with a name");
      adopt(call, parse_expression());
    }
    // The child in front is what is called.
    if (call.args.size() + call.named.size() > kMaxArguments + 1) fail("a call has too many arguments");
    if (!skip_operator(",")) break;
  }
  expect_operator(")");
}

}  // namespace kvcrush::jinja
