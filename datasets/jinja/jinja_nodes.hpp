// The syntax tree of a template: the parser makes its nodes, rendering runs them.
#pragma once

#include <array>
#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "datasets/jinja/jinja_values.hpp"

namespace bipo::jinja {

// The variables of a running template, innermost scope last; the first scope is the template's.
class Context {
 public:
  Context(const Json& variables, const CalendarDate& today);

  const CalendarDate& today() const { return today_; }

  Value lookup(const std::string& name) const;
  void set(const std::string& name, Value value) { scopes_.back()[name] = std::move(value); }
  void push_scope() { scopes_.emplace_back(); }
  void pop_scope() { scopes_.pop_back(); }

  // A macro sees the template's own variables, but none of the scopes around its call.
  using Scopes = std::vector<std::map<std::string, Value>>;
  Scopes hide_inner_scopes();
  void restore_inner_scopes(Scopes hidden);

  // Adds to the work done (`weight` bytes made or copied); throws UserError beyond the limit.
  void charge(std::size_t weight);

  int line = 1;         // of the running statement, for messages
  int macro_depth = 0;  // macros may call themselves
  int depth = 0;        // of the recursion

 private:
  CalendarDate today_;
  Scopes scopes_;
  std::size_t charged_ = 0;
};

class Expression {
 public:
  virtual ~Expression() = default;
  // Throws UserError where hostile source would exhaust the stack, the memory or much time.
  Value evaluate(Context& context) const;

 private:
  virtual Value compute(Context& context) const = 0;
};
using ExpressionPtr = std::unique_ptr<const Expression>;

// How a statement affects the loop around it.
enum class Flow { kNext, kContinue, kBreak };

class Statement {
 public:
  int line = 1;
  virtual ~Statement() = default;
  virtual Flow execute(Context& context, std::string& output) const = 0;
};
using StatementPtr = std::unique_ptr<Statement>;
using Body = std::vector<StatementPtr>;

Flow execute_body(const Body& body, Context& context, std::string& output);

struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
};

// Names of filters with their arguments, the first to be applied first.
using FilterChain = std::vector<std::pair<std::string, CallArguments>>;

struct Loop {
  std::vector<std::string> targets;
  ExpressionPtr iterable;
  ExpressionPtr filter;  // may be null
  Body body;
  Body otherwise;
};

struct MacroDefinition {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExpressionPtr> defaults;  // one per parameter, may be null
  Body body;
};

ExpressionPtr make_literal(Json value);
ExpressionPtr make_name(std::string name);
ExpressionPtr make_list(std::vector<ExpressionPtr> elements);
ExpressionPtr make_dict(std::vector<std::pair<ExpressionPtr, ExpressionPtr>> entries);
ExpressionPtr make_attribute(ExpressionPtr base, std::string name);
ExpressionPtr make_subscript(ExpressionPtr base, ExpressionPtr key);
// `bounds` are start, stop and step; each may be null.
ExpressionPtr make_slice(ExpressionPtr base, std::array<ExpressionPtr, 3> bounds);
ExpressionPtr make_call(ExpressionPtr callee, CallArguments arguments);
ExpressionPtr make_method_call(ExpressionPtr base, std::string name, CallArguments arguments);
ExpressionPtr make_filter(ExpressionPtr input, std::string name, CallArguments arguments);
ExpressionPtr make_test(ExpressionPtr input, std::string name, CallArguments arguments,
                        bool negated);
ExpressionPtr make_not(ExpressionPtr operand);
ExpressionPtr make_negative(ExpressionPtr operand);
ExpressionPtr make_arithmetic(std::string operation, ExpressionPtr left, ExpressionPtr right);
ExpressionPtr make_concatenation(std::vector<ExpressionPtr> parts);
// Chained as in Python: a < b < c is a < b and b < c.
ExpressionPtr make_comparison(ExpressionPtr first,
                              std::vector<std::pair<std::string, ExpressionPtr>> rest);
ExpressionPtr make_and_or(bool is_and, ExpressionPtr left, ExpressionPtr right);
// `if_false` may be null.
ExpressionPtr make_conditional(ExpressionPtr condition, ExpressionPtr if_true,
                               ExpressionPtr if_false);

StatementPtr make_data(std::string text);
StatementPtr make_output(ExpressionPtr value);
StatementPtr make_if(std::vector<std::pair<ExpressionPtr, Body>> branches, Body otherwise);
StatementPtr make_for(Loop loop);
// {% set name = value %}, or {% set name.member = value %} unless `member` is empty.
StatementPtr make_assignment(std::string name, std::string member, ExpressionPtr value);
// {% set name %}body{% endset %}.
StatementPtr make_capture(std::string name, Body body);
// {% filter a | b %}body{% endfilter %}: outputs the body's text through the filters.
StatementPtr make_filter_block(FilterChain filters, Body body);
// Marks the assistant's text for training masks; outputs its body.
StatementPtr make_generation(Body body);
StatementPtr make_loop_control(Flow flow);
StatementPtr make_macro(MacroDefinition macro);

}  // namespace bipo::jinja
