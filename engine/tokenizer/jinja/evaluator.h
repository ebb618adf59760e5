// Walks the syntax tree of a template.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>

#include "engine/tokenizer/jinja/ast.h"
#include "engine/tokenizer/jinja/builtins.h"

namespace kvcrush::jinja {

// Names visible in a loop's body, a macro or the whole template; `if` opens none.
struct Scope {
  std::shared_ptr<Scope> parent;
  std::unordered_map<std::string, Value> variables;
};
using ScopePtr = std::shared_ptr<Scope>;

class Evaluator {
 public:
  // `runtime` and the tree must outlive the evaluator and every value that it made.
  explicit Evaluator(Runtime& runtime) : runtime_(runtime) {}

  // Throws TemplateError.
  MarkedText render(const Body& body, const Variables& variables);

 private:
  enum class Flow { kNext, kBreak, kContinue };

  // evaluator.cpp
  Value evaluate(const Expression& expression, const ScopePtr& scope);
  Value evaluate_name(const std::string& name, const ScopePtr& scope);
  Value evaluate_binary(const Expression& expression, const ScopePtr& scope);
  Value evaluate_compare(const Expression& expression, const ScopePtr& scope);
  Value evaluate_conditional(const Expression& expression, const ScopePtr& scope);
  Value evaluate_container(const Expression& expression, const ScopePtr& scope);
  Value evaluate_slice(const Expression& expression, const ScopePtr& scope);
  // `caller` undefined: not from a call block.
  Value evaluate_call(const Expression& expression, const ScopePtr& scope, const Value& caller = {});
  Value call_macro(const Callable& macro, const Arguments& arguments);
  // The arguments behind the first child.
  Arguments evaluate_arguments(const Expression& expression, const ScopePtr& scope, std::string callee);

  // statements.cpp
  Flow execute(const Body& body, const ScopePtr& scope, MarkedText& out);
  Flow execute(const Statement& statement, const ScopePtr& scope, MarkedText& out);
  Flow execute_if(const Statement& statement, const ScopePtr& scope, MarkedText& out);
  Flow execute_for(const Statement& statement, const ScopePtr& scope, MarkedText& out);
  ListPtr loop_items(const Statement& statement, const ScopePtr& scope);
  void assign(const Expression& target, const Value& value, const ScopePtr& scope);
  void define_macro(const Statement& statement, const ScopePtr& scope);
  static Value make_macro(const Statement& statement, const ScopePtr& scope);
  Value call_with_body(const Statement& statement, const ScopePtr& scope);
  void write(MarkedText& out, const MarkedText& text);

  Runtime& runtime_;
  ScopePtr root_;
};

}  // namespace kvcrush::jinja
