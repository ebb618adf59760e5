#include "engine/tokenizer/jinja/evaluator.h"

#include "engine/tokenizer/jinja/operators.h"

namespace kvcrush::jinja {

Value Evaluator::evaluate(const Expression& expression, const ScopePtr& scope) {
  const Runtime::Level level(runtime_);
  runtime_.charge_steps(1);
  const auto child = [&](std::size_t i) { return evaluate(*expression.args[i], scope); };
  switch (expression.kind) {
    case ExpressionKind::kConstant:
      return expression.constant;
    case ExpressionKind::kName:
      return evaluate_name(expression.name, scope);
    case ExpressionKind::kList:
    case ExpressionKind::kTuple:
    case ExpressionKind::kDict:
      return evaluate_container(expression, scope);
    case ExpressionKind::kAttribute:
      return attribute_of(child(0), expression.name, runtime_);
    case ExpressionKind::kSubscript: {
      const Value object = child(0);
      return item_of(object, child(1), runtime_);
    }
    case ExpressionKind::kSlice:
      return evaluate_slice(expression, scope);
    case ExpressionKind::kUnary: {
      Value operand = child(0);
      if (expression.name == "not") return make_bool(!is_true(operand));
      if (expression.name == "-") return negated(operand);
      if (!operand.is_number()) throw TemplateError("the operand of + must be a number");
      return operand;
    }
    case ExpressionKind::kBinary:
      return evaluate_binary(expression, scope);
    case ExpressionKind::kCompare:
      return evaluate_compare(expression, scope);
    case ExpressionKind::kConditional:
      return evaluate_conditional(expression, scope);
    case ExpressionKind::kFilter: {
      const Value input = child(0);
      return apply_filter(expression.name, input, evaluate_arguments(expression, scope, expression.name),
                          runtime_);
    }
    case ExpressionKind::kTest: {
      const Value input = child(0);
      const Arguments arguments = evaluate_arguments(expression, scope, expression.name);
      return make_bool(apply_test(expression.name, input, arguments, runtime_));
    }
    case ExpressionKind::kCall:
      return evaluate_call(expression, scope);
  }
  return {};
}

Value Evaluator::evaluate_name(const std::string& name, const ScopePtr& scope) {
  for (const Scope* place = scope.get(); place != nullptr; place = place->parent.get()) {
    const auto it = place->variables.find(name);
    if (it != place->variables.end()) return it->second;
  }
  return make_undefined(name);
}

Value Evaluator::evaluate_binary(const Expression& expression, const ScopePtr& scope) {
  Value left = evaluate(*expression.args[0], scope);
  if (expression.name == "and" || expression.name == "or") {
    const bool decided = is_true(left) == (expression.name == "or");
    return decided ? left : evaluate(*expression.args[1], scope);
  }
  const Value right = evaluate(*expression.args[1], scope);
  return binary_operation(expression.name, left, right, runtime_);
}

Value Evaluator::evaluate_compare(const Expression& expression, const ScopePtr& scope) {
  Value left = evaluate(*expression.args[0], scope);
  for (std::size_t i = 0; i < expression.names.size(); ++i) {
    Value right = evaluate(*expression.args[i + 1], scope);
    if (!compare(expression.names[i], left, right, runtime_)) return make_bool(false);
    left = std::move(right);
  }
  return make_bool(true);
}

Value Evaluator::evaluate_conditional(const Expression& expression, const ScopePtr& scope) {
  if (is_true(evaluate(*expression.args[1], scope))) return evaluate(*expression.args[0], scope);
  if (!expression.args[2]) return make_undefined("the else part of an inline if");
  return evaluate(*expression.args[2], scope);
}

Value Evaluator::evaluate_container(const Expression& expression, const ScopePtr& scope) {
  std::vector<Value> items;
  for (const ExpressionPtr& item : expression.args) items.push_back(evaluate(*item, scope));
  if (expression.kind != ExpressionKind::kDict) {
    return make_list(std::move(items), expression.kind == ExpressionKind::kTuple);
  }
  std::vector<std::pair<Value, Value>> entries;
  for (std::size_t i = 0; i + 1 < items.size(); i += 2) entries.emplace_back(items[i], items[i + 1]);
  return make_dict(entries, runtime_);
}

Value Evaluator::evaluate_slice(const Expression& expression, const ScopePtr& scope) {
  const Value object = evaluate(*expression.args[0], scope);
  Value bounds[3] = {make_none(), make_none(), make_none()};
  for (std::size_t i = 0; i < 3; ++i) {
    if (expression.args[i + 1]) bounds[i] = evaluate(*expression.args[i + 1], scope);
  }
  return slice_of(object, &bounds[0], &bounds[1], &bounds[2], runtime_);
}

Arguments Evaluator::evaluate_arguments(const Expression& expression, const ScopePtr& scope,
                                        std::string callee) {
  Arguments arguments;
  arguments.callee = std::move(callee);
  for (std::size_t i = 1; i < expression.args.size(); ++i) {
    arguments.positional.push_back(evaluate(*expression.args[i], scope));
  }
  for (const auto& [name, value] : expression.named)
    arguments.named.emplace_back(name, evaluate(*value, scope));
  return arguments;
}

Value Evaluator::evaluate_call(const Expression& expression, const ScopePtr& scope, const Value& caller) {
  const Value callee = evaluate(*expression.args[0], scope);
  if (callee.is<Undefined>()) throw TemplateError("'" + callee.as<Undefined>().name + "' is undefined");
  if (!callee.is<CallablePtr>()) throw TemplateError(std::string(type_name(callee)) + " cannot be called");
  const Callable& callable = *callee.as<CallablePtr>();
  Arguments arguments = evaluate_arguments(expression, scope, callable.name);
  if (!caller.is<Undefined>()) arguments.named.emplace_back("caller", caller);
  if (callable.macro != nullptr) return call_macro(callable, arguments);
  if (!callable.object.is<Undefined>())
    return call_method(callable.object, callable.name, arguments, runtime_);
  return call_function(callable.name, arguments, runtime_);
}

Value Evaluator::call_macro(const Callable& macro, const Arguments& arguments) {
  const auto& parameters = macro.macro->parameters;
  if (arguments.positional.size() > parameters.size()) {
    throw TemplateError("macro " + macro.name + "() takes at most " + std::to_string(parameters.size()) +
                        " arguments");
  }
  for (const auto& [name, value] : arguments.named) {
    bool known = name == "caller";
    for (const auto& parameter : parameters) known = known || parameter.first == name;
    if (!known) throw TemplateError("macro " + macro.name + "() has no argument \"" + name + "\"");
  }
  auto scope = std::make_shared<Scope>();
  scope->parent = macro.scope.lock();
  if (!scope->parent) scope->parent = root_;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const auto& [name, default_value] = parameters[i];
    const Value* given = arguments.find(i, name);
    if (given != nullptr) {
      scope->variables[name] = *given;
    } else {
      scope->variables[name] = default_value ? evaluate(*default_value, scope) : make_undefined(name);
    }
  }
  if (const Value* caller = arguments.find(kMaxArguments + 1, "caller"))
    scope->variables.try_emplace("caller", *caller);
  MarkedText out;
  execute(macro.macro->body, scope, out);
  return make_text(std::move(out));
}

}  // namespace kvcrush::jinja
