// The syntax tree of a template.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/tokenizer/jinja/value.h"

namespace kvcrush::jinja {

enum class ExpressionKind {
  kConstant,
  kName,
  kList,         // args: items
  kTuple,        // args: items
  kDict,         // args: key, value, key, value, ...
  kAttribute,    // args: object; name
  kSubscript,    // args: object, key
  kSlice,        // args: object, start, stop, step (each of the three may be null)
  kUnary,        // args: operand; name: "-", "+", "not"
  kBinary,       // args: left, right; name: the operator, also "and", "or"
  kCompare,      // args: first, second, ...; names: the operators between them
  kConditional,  // args: then, condition, else (may be null)
  kFilter,       // args: input, positional...; named; name
  kTest,         // args: input, positional...; named; name
  kCall,         // args: callee, positional...; named
};

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Expression {
  ExpressionKind kind = ExpressionKind::kConstant;
  int line = 1;
  int depth = 1;  // of the tree below, this node included
  std::string name;
  Value constant;
  std::vector<ExpressionPtr> args;
  std::vector<std::string> names;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
};

enum class StatementKind {
  kText,
  kPrint,
  kIf,
  kFor,
  kSet,
  kSetBlock,
  kMacro,
  kCall,
  kFilterBlock,
  kGroup,
  kBreak,
  kContinue
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

struct Branch {
  ExpressionPtr condition;  // null: else
  Body body;
};

// Where a filter block finds its text; no template can spell it.
inline constexpr std::string_view kBlockText = " block";

struct Statement {
  StatementKind kind = StatementKind::kText;
  int line = 1;
  std::string text;      // kText; kMacro: its name
  ExpressionPtr target;  // kFor, kSet, kSetBlock: name, tuple of names, or attribute of a namespace
  ExpressionPtr value;   // kPrint, kSet; kFor: what is looped over; kCall: the call; kFilterBlock: a filter
                         // of the variable kBlockText
  ExpressionPtr condition;       // kFor: only items for which it is true; may be null
  std::vector<Branch> branches;  // kIf
  Body body;
  Body else_body;                                                 // kFor: when there was no item
  std::vector<std::pair<std::string, ExpressionPtr>> parameters;  // kMacro, kCall; null: no default
};

// Throws TemplateError with the line of what it does not understand.
Body parse(std::string_view source);

}  // namespace kvcrush::jinja
