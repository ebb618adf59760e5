#include <algorithm>

#include "engine/tokenizer/jinja/parser.h"

namespace kvcrush::jinja {

Body parse(std::string_view source) {
  return Parser(tokenize(source)).parse_template();
}

Body Parser::parse_template() {
  Body body = parse_body({});
  if (current().type != TokenType::kEnd) fail_unexpected("text or a tag");
  return body;
}

bool Parser::is_operator(std::string_view text) const {
  return current().type == TokenType::kOperator && current().text == text;
}

bool Parser::is_name(std::string_view text) const {
  return current().type == TokenType::kName && current().text == text;
}

bool Parser::skip_operator(std::string_view text) {
  if (!is_operator(text)) return false;
  take();
  return true;
}

bool Parser::skip_name(std::string_view text) {
  if (!is_name(text)) return false;
  take();
  return true;
}

void Parser::expect_operator(std::string_view text) {
  if (!skip_operator(text)) fail_unexpected("\"" + std::string(text) + "\"");
}

void Parser::expect_name(std::string_view text) {
  if (!skip_name(text)) fail_unexpected("\"" + std::string(text) + "\"");
}

std::string Parser::take_name(std::string_view what) {
  if (current().type != TokenType::kName) fail_unexpected(what);
  return take().text;
}

Token Parser::take() {
  Token token = current();
  if (token.type != TokenType::kEnd) ++index_;
  return token;
}

void Parser::fail(const std::string& what) const {
  throw TemplateError("line " + std::to_string(current().line) + ": " + what);
}

void Parser::fail_unexpected(std::string_view wanted) const {
  const std::string found = current().type == TokenType::kEnd
                                ? "the template ends"
                                : "\"" + current().text.substr(0, 40) + "\" stands";
  fail(found + " where " + std::string(wanted) + " was expected");
}

void Parser::end_block() {
  if (current().type != TokenType::kBlockEnd) fail_unexpected("\"%}\"");
  take();
}

Body Parser::parse_body(std::initializer_list<std::string_view> ends) {
  if (++statement_depth_ > kMaxStatementDepth) fail("blocks are nested too deep");
  Body body;
  while (current().type != TokenType::kEnd) {
    if (current().type == TokenType::kBlockBegin) {
      const Token& name = tokens_[index_ + 1];
      const bool is_end =
          name.type == TokenType::kName && std::find(ends.begin(), ends.end(), name.text) != ends.end();
      if (is_end) break;
      body.push_back(parse_block());
      continue;
    }
    auto statement = std::make_unique<Statement>();
    statement->line = current().line;
    const Token token = take();
    if (token.type == TokenType::kText) {
      statement->text = token.text;
    } else {
      statement->kind = StatementKind::kPrint;
      statement->value = parse_tuple();
      if (current().type != TokenType::kPrintEnd) fail_unexpected("\"}}\"");
      take();
    }
    body.push_back(std::move(statement));
  }
  if (ends.size() > 0) {
    if (current().type == TokenType::kEnd) fail("\"" + std::string(*(ends.end() - 1)) + "\" is missing");
    take();  // {%
  }
  --statement_depth_;
  return body;
}

std::unique_ptr<Statement> Parser::parse_block() {
  auto statement = std::make_unique<Statement>();
  take();
  statement->line = current().line;
  if (skip_name("if")) {
    parse_if(*statement);
  } else if (skip_name("for")) {
    parse_for(*statement);
  } else if (skip_name("set")) {
    parse_set(*statement);
  } else if (skip_name("macro")) {
    parse_macro(*statement);
  } else if (skip_name("call")) {
    parse_call(*statement);
  } else if (skip_name("filter")) {
    parse_filter_block(*statement);
  } else if (skip_name("generation")) {
    // Marks what the assistant wrote, for training; here its body is all that matters.
    statement->kind = StatementKind::kGroup;
    end_block();
    statement->body = parse_body({"endgeneration"});
    expect_name("endgeneration");
    end_block();
  } else if (is_name("break") || is_name("continue")) {
    if (loop_depth_ == 0) fail("\"" + current().text + "\" outside a loop");
    statement->kind = take().text == "break" ? StatementKind::kBreak : StatementKind::kContinue;
    end_block();
  } else {
    fail("unknown tag \"" + current().text + "\"");
  }
  return statement;
}

void Parser::parse_if(Statement& statement) {
  statement.kind = StatementKind::kIf;
  Branch branch;
  branch.condition = parse_tuple();
  while (true) {
    end_block();
    const bool is_else = branch.condition == nullptr;
    branch.body = is_else ? parse_body({"endif"}) : parse_body({"elif", "else", "endif"});
    statement.branches.push_back(std::move(branch));
    branch = {};
    if (skip_name("endif")) break;
    if (skip_name("elif")) {
      branch.condition = parse_tuple();
    } else {
      expect_name("else");
    }
  }
  end_block();
}

void Parser::parse_for(Statement& statement) {
  statement.kind = StatementKind::kFor;
  statement.target = parse_target(false);
  expect_name("in");
  // Not a conditional expression: an "if" here filters the items.
  statement.value = parse_or();
  if (skip_name("if")) statement.condition = parse_expression();
  if (is_name("recursive")) fail("recursive loops are not supported");
  end_block();
  ++loop_depth_;
  statement.body = parse_body({"else", "endfor"});
  --loop_depth_;
  if (skip_name("else")) {
    end_block();
    statement.else_body = parse_body({"endfor"});
  }
  expect_name("endfor");
  end_block();
}

void Parser::parse_set(Statement& statement) {
  statement.target = parse_target(true);
  if (skip_operator("=")) {
    statement.kind = StatementKind::kSet;
    statement.value = parse_tuple();
    end_block();
    return;
  }
  statement.kind = StatementKind::kSetBlock;
  end_block();
  statement.body = parse_body({"endset"});
  expect_name("endset");
  end_block();
}

void Parser::parse_macro(Statement& statement) {
  statement.kind = StatementKind::kMacro;
  statement.text = take_name("a macro's name");
  expect_operator("(");
  parse_parameters(statement);
  end_block();
  parse_macro_body(statement, "endmacro");
}

// {% call(parameters) callee(arguments) %}: the callee gets the body as the macro `caller`.
void Parser::parse_call(Statement& statement) {
  statement.kind = StatementKind::kCall;
  statement.text = "caller";
  if (skip_operator("(")) parse_parameters(statement);
  statement.value = parse_expression();
  if (statement.value->kind != ExpressionKind::kCall) fail("a call block needs a call");
  end_block();
  parse_macro_body(statement, "endcall");
}

void Parser::parse_filter_block(Statement& statement) {
  statement.kind = StatementKind::kFilterBlock;
  --index_;  // the tag's name stands for the first "|"
  tokens_[index_] = {TokenType::kOperator, "|", current().line};
  statement.value = parse_filters(make(ExpressionKind::kName, std::string(kBlockText)));
  end_block();
  statement.body = parse_body({"endfilter"});
  expect_name("endfilter");
  end_block();
}

void Parser::parse_parameters(Statement& statement) {
  while (!is_operator(")")) {
    std::string name = take_name("a parameter's name");
    ExpressionPtr default_value;
    if (skip_operator("=")) default_value = parse_expression();
    statement.parameters.emplace_back(std::move(name), std::move(default_value));
    if (statement.parameters.size() > kMaxArguments) fail("a macro has too many parameters");
    if (!skip_operator(",")) break;
  }
  expect_operator(")");
}

void Parser::parse_macro_body(Statement& statement, std::string_view end) {
  const int outer_loop_depth = std::exchange(loop_depth_, 0);
  statement.body = parse_body({end});
  loop_depth_ = outer_loop_depth;
  expect_name(end);
  end_block();
}

// name, name.attribute, or several names with commas between them
ExpressionPtr Parser::parse_target(bool allow_attribute) {
  const bool in_brackets = skip_operator("(");
  ExpressionPtr first = parse_target_name(allow_attribute);
  if (is_operator(",")) {
    ExpressionPtr tuple = make(ExpressionKind::kTuple);
    adopt(*tuple, std::move(first));
    while (skip_operator(",")) {
      if (current().type != TokenType::kName || is_name("in")) break;
      adopt(*tuple, parse_target_name(allow_attribute));
    }
    first = std::move(tuple);
  }
  if (in_brackets) expect_operator(")");
  return first;
}

ExpressionPtr Parser::parse_target_name(bool allow_attribute) {
  for (const std::string_view word : {"true", "false", "none", "True", "False", "None"}) {
    if (is_name(word)) fail("cannot assign to \"" + std::string(word) + "\"");
  }
  ExpressionPtr name = make(ExpressionKind::kName, take_name("a variable's name"));
  if (!allow_attribute || !skip_operator(".")) return name;
  ExpressionPtr attribute = make(ExpressionKind::kAttribute, take_name("an attribute's name"));
  adopt(*attribute, std::move(name));
  return attribute;
}

}  // namespace kvcrush::jinja
