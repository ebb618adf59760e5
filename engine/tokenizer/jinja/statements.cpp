#include "engine/tokenizer/jinja/evaluator.h"
#include "engine/tokenizer/jinja/value_text.h"

namespace kvcrush::jinja {

MarkedText Evaluator::render(const Body& body, const Variables& variables) {
  auto globals = std::make_shared<Scope>();
  for (const std::string_view name : global_functions()) {
    globals->variables[std::string(name)] = make_function(std::string(name));
  }
  for (const auto& [name, value] : variables.by_name) globals->variables[name] = value;
  root_ = std::make_shared<Scope>();
  root_->parent = globals;
  MarkedText out;
  execute(body, root_, out);
  return out;
}

void Evaluator::write(MarkedText& out, const MarkedText& text) {
  runtime_.charge_bytes(text.memory_bytes());
  if (out.size() + text.size() > kMaxTextBytes) throw TemplateError("the template writes too much text");
  out.append(text);
}

Evaluator::Flow Evaluator::execute(const Body& body, const ScopePtr& scope, MarkedText& out) {
  const Runtime::Level level(runtime_);
  for (const auto& statement : body) {
    runtime_.charge_steps(1);
    const Flow flow = execute(*statement, scope, out);
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Evaluator::Flow Evaluator::execute(const Statement& statement, const ScopePtr& scope, MarkedText& out) {
  switch (statement.kind) {
    case StatementKind::kText:
      write(out, MarkedText(statement.text));
      break;
    case StatementKind::kPrint:
      write(out, to_text(evaluate(*statement.value, scope), runtime_));
      break;
    case StatementKind::kIf:
      return execute_if(statement, scope, out);
    case StatementKind::kFor:
      return execute_for(statement, scope, out);
    case StatementKind::kSet:
      assign(*statement.target, evaluate(*statement.value, scope), scope);
      break;
    case StatementKind::kSetBlock: {
      MarkedText text;
      auto inner = std::make_shared<Scope>();
      inner->parent = scope;
      const Flow flow = execute(statement.body, inner, text);
      if (flow != Flow::kNext) return flow;
      assign(*statement.target, make_text(std::move(text)), scope);
      break;
    }
    case StatementKind::kMacro:
      define_macro(statement, scope);
      break;
    case StatementKind::kCall:
      write(out, to_text(call_with_body(statement, scope), runtime_));
      break;
    case StatementKind::kFilterBlock: {
      MarkedText text;
      auto inner = std::make_shared<Scope>();
      inner->parent = scope;
      const Flow flow = execute(statement.body, inner, text);
      if (flow != Flow::kNext) return flow;
      inner->variables[std::string(kBlockText)] = make_text(std::move(text));
      write(out, to_text(evaluate(*statement.value, inner), runtime_));
      break;
    }
    case StatementKind::kGroup:
      return execute(statement.body, scope, out);
    case StatementKind::kBreak:
      return Flow::kBreak;
    case StatementKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Evaluator::Flow Evaluator::execute_if(const Statement& statement, const ScopePtr& scope, MarkedText& out) {
  for (const Branch& branch : statement.branches) {
    if (branch.condition && !is_true(evaluate(*branch.condition, scope))) continue;
    return execute(branch.body, scope, out);
  }
  return Flow::kNext;
}

// What the loop goes over, after its own `if`.
ListPtr Evaluator::loop_items(const Statement& statement, const ScopePtr& scope) {
  const Value sequence = evaluate(*statement.value, scope);
  ListPtr items = to_items(sequence, runtime_);
  if (!statement.condition) return items;
  auto chosen = std::make_shared<List>();
  for (const Value& item : items->items) {
    auto inner = std::make_shared<Scope>();
    inner->parent = scope;
    assign(*statement.target, item, inner);
    if (is_true(evaluate(*statement.condition, inner))) chosen->items.push_back(item);
  }
  return chosen;
}

Evaluator::Flow Evaluator::execute_for(const Statement& statement, const ScopePtr& scope, MarkedText& out) {
  const ListPtr items = loop_items(statement, scope);
  for (std::size_t i = 0; i < items->items.size(); ++i) {
    runtime_.charge_steps(1);
    auto inner = std::make_shared<Scope>();
    inner->parent = scope;
    auto loop = std::make_shared<Loop>();
    loop->items = items;
    loop->index0 = i;
    inner->variables["loop"] = {LoopPtr(std::move(loop))};
    assign(*statement.target, items->items[i], inner);
    if (execute(statement.body, inner, out) == Flow::kBreak) break;
  }
  if (!items->items.empty() || statement.else_body.empty()) return Flow::kNext;
  return execute(statement.else_body, scope, out);
}

void Evaluator::assign(const Expression& target, const Value& value, const ScopePtr& scope) {
  if (target.kind == ExpressionKind::kName) {
    scope->variables[target.name] = value;
    return;
  }
  if (target.kind == ExpressionKind::kAttribute) {
    const Value object = evaluate(*target.args[0], scope);
    if (!object.is<NamespacePtr>()) throw TemplateError("only a namespace's attributes can be set");
    object.as<NamespacePtr>()->attributes[target.name] = value;
    return;
  }
  const ListPtr items = to_items(value, runtime_);
  if (items->items.size() != target.args.size()) {
    throw TemplateError("cannot unpack " + std::to_string(items->items.size()) + " values into " +
                        std::to_string(target.args.size()) + " names");
  }
  for (std::size_t i = 0; i < target.args.size(); ++i) assign(*target.args[i], items->items[i], scope);
}

void Evaluator::define_macro(const Statement& statement, const ScopePtr& scope) {
  scope->variables[statement.text] = make_macro(statement, scope);
}

Value Evaluator::make_macro(const Statement& statement, const ScopePtr& scope) {
  auto macro = std::make_shared<Callable>();
  macro->name = statement.text;
  macro->macro = &statement;
  macro->scope = scope;
  return {CallablePtr(std::move(macro))};
}

Value Evaluator::call_with_body(const Statement& statement, const ScopePtr& scope) {
  // The body sees the variables around the block, and lives no longer than the call.
  auto inner = std::make_shared<Scope>();
  inner->parent = scope;
  return evaluate_call(*statement.value, scope, make_macro(statement, inner));
}

}  // namespace kvcrush::jinja
