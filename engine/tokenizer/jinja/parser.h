// Recursive descent over the tokens of a template, in the precedence of Jinja.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/jinja/ast.h"
#include "engine/tokenizer/jinja/lexer.h"

namespace kvcrush::jinja {

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}
  Body parse_template();

 private:
  // Statements: parse_statement.cpp. A body ends before a block whose first name is one of `ends`.
  Body parse_body(std::initializer_list<std::string_view> ends);
  std::unique_ptr<Statement> parse_block();
  void parse_if(Statement& statement);
  void parse_for(Statement& statement);
  void parse_set(Statement& statement);
  void parse_macro(Statement& statement);
  void parse_call(Statement& statement);
  void parse_filter_block(Statement& statement);
  void parse_parameters(Statement& statement);
  void parse_macro_body(Statement& statement, std::string_view end);
  ExpressionPtr parse_target(bool allow_attribute);
  ExpressionPtr parse_target_name(bool allow_attribute);
  void end_block();

  // Expressions: parse_expression.cpp, loosest binding first.
  ExpressionPtr parse_tuple();
  ExpressionPtr parse_expression();
  ExpressionPtr parse_or();
  ExpressionPtr parse_and();
  ExpressionPtr parse_not();
  ExpressionPtr parse_compare();
  ExpressionPtr parse_sum();
  ExpressionPtr parse_concat();
  ExpressionPtr parse_product();
  ExpressionPtr parse_power();
  ExpressionPtr parse_unary(bool with_filter);

  // Operands: parse_operand.cpp.
  ExpressionPtr parse_primary();
  ExpressionPtr parse_constant_name();
  ExpressionPtr parse_number();
  ExpressionPtr parse_dict();
  ExpressionPtr parse_postfix(ExpressionPtr object);
  ExpressionPtr parse_subscript(ExpressionPtr object);
  ExpressionPtr parse_filters(ExpressionPtr input);
  ExpressionPtr parse_test(ExpressionPtr input);
  void parse_arguments(Expression& call);
  using Level = ExpressionPtr (Parser::*)();
  ExpressionPtr parse_left_to_right(Level operand, std::initializer_list<std::string_view> operators);
  ExpressionPtr make(ExpressionKind kind, std::string name = {}) const;
  // Takes over the child and refuses trees that are too deep to evaluate.
  void adopt(Expression& parent, ExpressionPtr child) const;

  const Token& current() const { return tokens_[index_]; }
  bool is_operator(std::string_view text) const;
  bool is_name(std::string_view text) const;
  bool skip_operator(std::string_view text);
  bool skip_name(std::string_view text);
  void expect_operator(std::string_view text);
  void expect_name(std::string_view text);
  std::string take_name(std::string_view what);
  Token take();
  [[noreturn]] void fail(const std::string& what) const;
  [[noreturn]] void fail_unexpected(std::string_view wanted) const;

  std::vector<Token> tokens_;
  std::size_t index_ = 0;
  int expression_depth_ = 0;
  int statement_depth_ = 0;
  int loop_depth_ = 0;
};

}  // namespace kvcrush::jinja
