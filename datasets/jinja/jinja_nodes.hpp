// The syntax tree of a template, and how each of its nodes is evaluated.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "datasets/jinja/jinja_values.hpp"

namespace bipo::jinja {

// The variables in sight while a template runs.  Innermost scope last; the first one is the
// template's.
class Context {
 public:
  Context(const Json& variables, const CalendarDate& today);

  const CalendarDate& today() const { return today_; }

  Value lookup(const std::string& name) const;
  void set(const std::string& name, Value value) { scopes_.back()[name] = std::move(value); }
  void push_scope() { scopes_.emplace_back(); }
  void pop_scope() { scopes_.pop_back(); }

  // A macro sees the template's own variables, not those around its call.
  using Scopes = std::vector<std::map<std::string, Value>>;
  Scopes hide_inner_scopes();
  void restore_inner_scopes(Scopes hidden);

  // Counts the work of making or copying so much; throws UserError once it is too much in all.
  void charge(std::size_t weight);

  int line = 1;         // of the statement that runs, for messages
  int macro_depth = 0;  // macros may call themselves
  int depth = 0;        // of the recursion

 private:
  CalendarDate today_;
  Scopes scopes_;
  std::size_t charged_ = 0;
};

// Counts one level of recursion for as long as the object lives.
class DepthGuard {
 public:
  explicit DepthGuard(Context& context);  // throws UserError when it is one too many
  ~DepthGuard() { --context_.depth; }
  DepthGuard(const DepthGuard&) = delete;
  DepthGuard& operator=(const DepthGuard&) = delete;

 private:
  Context& context_;
};

// A scope for as long as the object lives.
class ScopeGuard {
 public:
  explicit ScopeGuard(Context& context) : context_(context) { context_.push_scope(); }
  ~ScopeGuard() { context_.pop_scope(); }
  ScopeGuard(const ScopeGuard&) = delete;
  ScopeGuard& operator=(const ScopeGuard&) = delete;

 private:
  Context& context_;
};

class Expression {
 public:
  virtual ~Expression() = default;
  // Throws UserError where hostile source would use up the stack, the memory or much time.
  Value evaluate(Context& context) const;

 private:
  virtual Value compute(Context& context) const = 0;
};
using ExpressionPtr = std::unique_ptr<const Expression>;

// What a statement does to the loop around it.
enum class Flow { kNext, kContinue, kBreak };

struct Statement {
  int line = 1;
  virtual ~Statement() = default;
  virtual Flow execute(Context& context, std::string& output) const = 0;
};
using StatementPtr = std::unique_ptr<const Statement>;
using Body = std::vector<StatementPtr>;

Flow execute_body(const Body& body, Context& context, std::string& output);

struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
};

struct Literal : Expression {
  Json value;
  explicit Literal(Json literal) : value(std::move(literal)) {}

 private:
  Value compute(Context& context) const override;
};

struct Name : Expression {
  std::string name;
  explicit Name(std::string identifier) : name(std::move(identifier)) {}

 private:
  Value compute(Context& context) const override;
};

struct ListDisplay : Expression {
  std::vector<ExpressionPtr> elements;

 private:
  Value compute(Context& context) const override;
};

struct DictDisplay : Expression {
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> entries;

 private:
  Value compute(Context& context) const override;
};

struct Attribute : Expression {
  ExpressionPtr base;
  std::string name;

 private:
  Value compute(Context& context) const override;
};

struct Subscript : Expression {
  ExpressionPtr base;
  ExpressionPtr key;

 private:
  Value compute(Context& context) const override;
};

struct Slice : Expression {
  ExpressionPtr base;
  ExpressionPtr start;  // each of the three may be absent
  ExpressionPtr stop;
  ExpressionPtr step;

 private:
  Value compute(Context& context) const override;
};

struct Call : Expression {
  ExpressionPtr callee;
  CallArguments arguments;

 private:
  Value compute(Context& context) const override;
};

struct MethodCall : Expression {
  ExpressionPtr base;
  std::string name;
  CallArguments arguments;

 private:
  Value compute(Context& context) const override;
};

struct Filter : Expression {
  ExpressionPtr input;
  std::string name;
  CallArguments arguments;

 private:
  Value compute(Context& context) const override;
};

struct Test : Expression {
  ExpressionPtr input;
  std::string name;
  CallArguments arguments;
  bool negated = false;

 private:
  Value compute(Context& context) const override;
};

struct Not : Expression {
  ExpressionPtr operand;

 private:
  Value compute(Context& context) const override;
};

struct Negative : Expression {
  ExpressionPtr operand;

 private:
  Value compute(Context& context) const override;
};

struct Arithmetic : Expression {
  std::string operation;
  ExpressionPtr left;
  ExpressionPtr right;

 private:
  Value compute(Context& context) const override;
};

struct Concatenation : Expression {
  std::vector<ExpressionPtr> parts;

 private:
  Value compute(Context& context) const override;
};

// Chained as in Python: a < b < c is a < b and b < c.
struct Comparison : Expression {
  ExpressionPtr first;
  std::vector<std::pair<std::string, ExpressionPtr>> rest;

 private:
  Value compute(Context& context) const override;
};

struct AndOr : Expression {
  bool is_and = true;
  ExpressionPtr left;
  ExpressionPtr right;

 private:
  Value compute(Context& context) const override;
};

struct Conditional : Expression {
  ExpressionPtr condition;
  ExpressionPtr if_true;
  ExpressionPtr if_false;  // may be absent

 private:
  Value compute(Context& context) const override;
};

struct Data : Statement {
  std::string text;
  Flow execute(Context& context, std::string& output) const override;
};

struct Output : Statement {
  ExpressionPtr expression;
  Flow execute(Context& context, std::string& output) const override;
};

struct If : Statement {
  std::vector<std::pair<ExpressionPtr, Body>> branches;
  Body otherwise;
  Flow execute(Context& context, std::string& output) const override;
};

struct For : Statement {
  std::vector<std::string> targets;
  ExpressionPtr iterable;
  ExpressionPtr filter;  // may be absent
  Body body;
  Body otherwise;
  Flow execute(Context& context, std::string& output) const override;

 private:
  void bind_targets(Context& context, const Json& element) const;
};

// {% set name = value %} and {% set space.member = value %}.
struct Assignment : Statement {
  std::string name;
  std::string member;  // empty for a plain variable
  ExpressionPtr value;
  Flow execute(Context& context, std::string& output) const override;
};

// {% set name %}text{% endset %}.
struct Capture : Statement {
  std::string name;
  Body body;
  Flow execute(Context& context, std::string& output) const override;
};

// Marks the assistant's text for training masks; its output is its body's.
struct Generation : Statement {
  Body body;
  Flow execute(Context& context, std::string& output) const override;
};

struct LoopControl : Statement {
  Flow flow = Flow::kNext;
  Flow execute(Context& context, std::string& output) const override;
};

struct MacroDefinition : Statement {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExpressionPtr> defaults;  // one per parameter, may be absent
  Body body;
  Flow execute(Context& context, std::string& output) const override;
};

}  // namespace bipo::jinja
