// Evaluates the nodes of a template's syntax tree.
#include "datasets/jinja/jinja_nodes.hpp"

#include <fmt/format.h>

#include <iterator>
#include <optional>

#include "datasets/jinja/jinja_builtins.hpp"

namespace bipo::jinja {
namespace {

constexpr int kDeepestMacroCall = 100;
constexpr int kDeepestRecursion = 1500;  // one tag can need 1000; well within the stack
constexpr std::size_t kMostWork = std::size_t{1} << 28;
constexpr std::size_t kStepWeight = 256;
constexpr std::size_t kIterationWeight = 8192;  // the variable `loop` is made anew

// Counts one level of recursion while the object lives.
class DepthGuard {
 public:
  explicit DepthGuard(Context& context) : context_(context) {
    if (context_.depth >= kDeepestRecursion) {
      throw UserError("the template's calls and expressions are nested too deeply");
    }
    ++context_.depth;
  }
  ~DepthGuard() { --context_.depth; }
  DepthGuard(const DepthGuard&) = delete;
  DepthGuard& operator=(const DepthGuard&) = delete;

 private:
  Context& context_;
};

// Keeps a scope open while the object lives.
class ScopeGuard {
 public:
  explicit ScopeGuard(Context& context) : context_(context) { context_.push_scope(); }
  ~ScopeGuard() { context_.pop_scope(); }
  ScopeGuard(const ScopeGuard&) = delete;
  ScopeGuard& operator=(const ScopeGuard&) = delete;

 private:
  Context& context_;
};

// Nodes that run a function of the context, and of the output for statements.
template <typename Compute>
class ExpressionOf : public Expression {
 public:
  explicit ExpressionOf(Compute compute) : compute_(std::move(compute)) {}

 private:
  Value compute(Context& context) const override { return compute_(context); }
  Compute compute_;
};

template <typename Execute>
class StatementOf : public Statement {
 public:
  explicit StatementOf(Execute execute) : execute_(std::move(execute)) {}
  Flow execute(Context& context, std::string& output) const override {
    return execute_(context, output);
  }

 private:
  Execute execute_;
};

template <typename Compute>
ExpressionPtr expression(Compute compute) {
  return std::make_unique<ExpressionOf<Compute>>(std::move(compute));
}

template <typename Execute>
StatementPtr statement(Execute execute) {
  return std::make_unique<StatementOf<Execute>>(std::move(execute));
}

Arguments evaluate_arguments(const CallArguments& arguments, Context& context) {
  Arguments values;
  for (const auto& argument : arguments.positional) {
    values.positional.push_back(argument->evaluate(context));
  }
  for (const auto& [name, argument] : arguments.named) {
    values.named.emplace_back(name, argument->evaluate(context));
  }
  return values;
}

Value call_macro(const MacroDefinition& macro, const Arguments& arguments, Context& context) {
  if (context.macro_depth >= kDeepestMacroCall) {
    throw UserError(fmt::format("the macro '{}' calls itself too deeply", macro.name));
  }
  const auto bound =
      bind_arguments(fmt::format("macro '{}'", macro.name), arguments, macro.parameters);
  auto hidden = context.hide_inner_scopes();
  context.push_scope();
  ++context.macro_depth;
  for (std::size_t index = 0; index < bound.size(); ++index) {
    const std::string& parameter = macro.parameters[index];
    if (bound[index]) {
      context.set(parameter, *bound[index]);
    } else if (macro.defaults[index]) {
      context.set(parameter, macro.defaults[index]->evaluate(context));
    } else {
      context.set(parameter, Undefined{fmt::format("the parameter '{}' was not given", parameter)});
    }
  }
  std::string output;
  execute_body(macro.body, context, output);
  --context.macro_depth;
  context.pop_scope();
  context.restore_inner_scopes(std::move(hidden));
  return Json(output);
}

bool compare(const std::string& operation, const Value& left, const Value& right) {
  if (operation == "==" || operation == "!=") {
    return are_equal(left, right) == (operation == "==");
  }
  if (operation == "in" || operation == "not in") {
    return contains(right, left) == (operation == "in");
  }
  if (operation == "<" || operation == ">=") {
    return is_less(left, right) == (operation == "<");
  }
  return is_less(right, left) == (operation == ">");
}

// The variable `loop`; previtem and nextitem are absent, thus undefined, at the ends.
Json loop_variable(const std::vector<Json>& elements, std::size_t index) {
  Json loop = Json::object();
  loop["index"] = index + 1;
  loop["index0"] = index;
  loop["revindex"] = elements.size() - index;
  loop["revindex0"] = elements.size() - index - 1;
  loop["first"] = index == 0;
  loop["last"] = index + 1 == elements.size();
  loop["length"] = elements.size();
  if (index > 0) {
    loop["previtem"] = elements[index - 1];
  }
  if (index + 1 < elements.size()) {
    loop["nextitem"] = elements[index + 1];
  }
  return loop;
}

std::optional<std::int64_t> slice_bound(const ExpressionPtr& bound, Context& context) {
  if (!bound) {
    return std::nullopt;
  }
  const Value value = bound->evaluate(context);
  const bool is_none = as_json(value) != nullptr && as_json(value)->is_null();
  return is_none ? std::nullopt : std::optional(require_integer(value, "a bound of a slice"));
}

Value call(const Value& function, const Arguments& arguments, Context& context) {
  if (const auto* builtin = std::get_if<Function>(&function)) {
    return call_function(builtin->name, arguments, context.today());
  }
  if (const auto* macro = std::get_if<const MacroDefinition*>(&function)) {
    return call_macro(**macro, arguments, context);
  }
  if (const auto* undefined = std::get_if<Undefined>(&function)) {
    throw UserError(undefined->why + ", so it cannot be called");
  }
  throw UserError(fmt::format("a {} cannot be called", type_name(function)));
}

void bind_targets(const std::vector<std::string>& targets, Context& context, const Json& element) {
  if (targets.size() == 1) {
    context.set(targets.front(), element);
    return;
  }
  const auto parts = elements_of(Value(element));
  if (parts.size() != targets.size()) {
    throw UserError(
        fmt::format("{} values cannot be unpacked into {} names", parts.size(), targets.size()));
  }
  for (std::size_t index = 0; index < parts.size(); ++index) {
    context.set(targets[index], parts[index]);
  }
}

Flow run_loop(const Loop& loop, Context& context, std::string& output) {
  auto elements = elements_of(loop.iterable->evaluate(context));
  if (loop.filter) {
    std::erase_if(elements, [&](const Json& element) {
      const ScopeGuard scope(context);
      bind_targets(loop.targets, context, element);
      return !is_truthy(loop.filter->evaluate(context));
    });
  }
  for (std::size_t index = 0; index < elements.size(); ++index) {
    const ScopeGuard scope(context);
    Value variable = loop_variable(elements, index);
    context.charge(kIterationWeight + weight_of(variable));
    context.set("loop", std::move(variable));
    bind_targets(loop.targets, context, elements[index]);
    if (execute_body(loop.body, context, output) == Flow::kBreak) {
      break;
    }
  }
  return elements.empty() ? execute_body(loop.otherwise, context, output) : Flow::kNext;
}

// Runs a body whose text is no output by itself: a loop's end within it drops the text.
Flow execute_apart(const Body& body, Context& context, std::string& text) {
  const ScopeGuard scope(context);
  return execute_body(body, context, text);
}

void assign_member(const std::string& name, const std::string& member, Value value,
                   Context& context) {
  const Value target = context.lookup(name);
  const auto* space = std::get_if<std::shared_ptr<Namespace>>(&target);
  if (space == nullptr) {
    throw UserError(
        fmt::format("'{}' is no namespace, so '{}.{}' cannot be set", name, name, member));
  }
  set_member(**space, member, std::move(value));
}

}  // namespace

Context::Context(const Json& variables, const CalendarDate& today) : today_(today), scopes_(1) {
  for (const auto& [name, value] : variables.items()) {
    scopes_.front()[name] = value;
  }
}

Value Context::lookup(const std::string& name) const {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    if (const auto found = scope->find(name); found != scope->end()) {
      return found->second;
    }
  }
  if (is_function(name)) {
    return Function{name};
  }
  return Undefined{fmt::format("'{}' is undefined", name)};
}

Context::Scopes Context::hide_inner_scopes() {
  Scopes hidden(std::make_move_iterator(scopes_.begin() + 1),
                std::make_move_iterator(scopes_.end()));
  scopes_.resize(1);
  return hidden;
}

void Context::restore_inner_scopes(Scopes hidden) {
  scopes_.insert(scopes_.end(), std::make_move_iterator(hidden.begin()),
                 std::make_move_iterator(hidden.end()));
}

void Context::charge(std::size_t weight) {
  charged_ += weight;
  if (charged_ > kMostWork) {
    throw UserError("the template needs more work than any conversation justifies");
  }
}

Value Expression::evaluate(Context& context) const {
  const DepthGuard depth(context);
  Value value = compute(context);
  context.charge(kStepWeight + weight_of(value));
  return value;
}

Flow execute_body(const Body& body, Context& context, std::string& output) {
  const DepthGuard depth(context);
  for (const auto& statement : body) {
    context.charge(kStepWeight);
    context.line = statement->line;
    if (const Flow flow = statement->execute(context, output); flow != Flow::kNext) {
      return flow;
    }
  }
  return Flow::kNext;
}

ExpressionPtr make_literal(Json value) {
  return expression([value = std::move(value)](Context&) { return value; });
}

ExpressionPtr make_name(std::string name) {
  return expression([name = std::move(name)](Context& context) { return context.lookup(name); });
}

ExpressionPtr make_list(std::vector<ExpressionPtr> elements) {
  return expression([elements = std::move(elements)](Context& context) {
    Json list = Json::array();
    for (const auto& element : elements) {
      list.push_back(require_json(element->evaluate(context)));
    }
    return list;
  });
}

ExpressionPtr make_dict(std::vector<std::pair<ExpressionPtr, ExpressionPtr>> entries) {
  return expression([entries = std::move(entries)](Context& context) {
    Json dict = Json::object();
    for (const auto& [key, value] : entries) {
      const std::string name = stored_key(require_json(key->evaluate(context)));
      dict[name] = require_json(value->evaluate(context));
    }
    return dict;
  });
}

ExpressionPtr make_attribute(ExpressionPtr base, std::string name) {
  return expression([base = std::move(base), name = std::move(name)](Context& context) {
    return attribute_of(base->evaluate(context), name);
  });
}

ExpressionPtr make_subscript(ExpressionPtr base, ExpressionPtr key) {
  return expression([base = std::move(base), key = std::move(key)](Context& context) {
    const Value container = base->evaluate(context);
    return item_of(container, key->evaluate(context));
  });
}

ExpressionPtr make_slice(ExpressionPtr base, std::array<ExpressionPtr, 3> bounds) {
  return expression([base = std::move(base), bounds = std::move(bounds)](Context& context) {
    const Value sequence = base->evaluate(context);
    const auto start = slice_bound(bounds[0], context);
    const auto stop = slice_bound(bounds[1], context);
    return slice_of(sequence, start, stop, slice_bound(bounds[2], context));
  });
}

ExpressionPtr make_call(ExpressionPtr callee, CallArguments arguments) {
  return expression(
      [callee = std::move(callee), arguments = std::move(arguments)](Context& context) {
        const Value function = callee->evaluate(context);
        return call(function, evaluate_arguments(arguments, context), context);
      });
}

ExpressionPtr make_method_call(ExpressionPtr base, std::string name, CallArguments arguments) {
  return expression([base = std::move(base), name = std::move(name),
                     arguments = std::move(arguments)](Context& context) {
    const Value object = base->evaluate(context);
    return call_method(object, name, evaluate_arguments(arguments, context));
  });
}

ExpressionPtr make_filter(ExpressionPtr input, std::string name, CallArguments arguments) {
  return expression([input = std::move(input), name = std::move(name),
                     arguments = std::move(arguments)](Context& context) {
    const Value value = input->evaluate(context);
    return apply_filter(name, value, evaluate_arguments(arguments, context));
  });
}

ExpressionPtr make_test(ExpressionPtr input, std::string name, CallArguments arguments,
                        bool negated) {
  return expression([input = std::move(input), name = std::move(name),
                     arguments = std::move(arguments), negated](Context& context) {
    const Value value = input->evaluate(context);
    return Json(apply_test(name, value, evaluate_arguments(arguments, context)) != negated);
  });
}

ExpressionPtr make_not(ExpressionPtr operand) {
  return expression([operand = std::move(operand)](Context& context) {
    return Json(!is_truthy(operand->evaluate(context)));
  });
}

ExpressionPtr make_negative(ExpressionPtr operand) {
  return expression([operand = std::move(operand)](Context& context) {
    return arithmetic("-", Json(0), operand->evaluate(context));
  });
}

ExpressionPtr make_arithmetic(std::string operation, ExpressionPtr left, ExpressionPtr right) {
  return expression([operation = std::move(operation), left = std::move(left),
                     right = std::move(right)](Context& context) {
    const Value first = left->evaluate(context);
    return arithmetic(operation, first, right->evaluate(context));
  });
}

ExpressionPtr make_concatenation(std::vector<ExpressionPtr> parts) {
  return expression([parts = std::move(parts)](Context& context) {
    std::string text;
    for (const auto& part : parts) {
      text += to_text(part->evaluate(context));
      require_reasonable_size(text.size());
    }
    return Json(text);
  });
}

ExpressionPtr make_comparison(ExpressionPtr first,
                              std::vector<std::pair<std::string, ExpressionPtr>> rest) {
  return expression([first = std::move(first), rest = std::move(rest)](Context& context) {
    Value left = first->evaluate(context);
    for (const auto& [operation, operand] : rest) {
      Value right = operand->evaluate(context);
      if (!compare(operation, left, right)) {
        return Json(false);
      }
      left = std::move(right);
    }
    return Json(true);
  });
}

ExpressionPtr make_and_or(bool is_and, ExpressionPtr left, ExpressionPtr right) {
  return expression([is_and, left = std::move(left), right = std::move(right)](Context& context) {
    const Value value = left->evaluate(context);
    return is_truthy(value) == is_and ? right->evaluate(context) : value;
  });
}

ExpressionPtr make_conditional(ExpressionPtr condition, ExpressionPtr if_true,
                               ExpressionPtr if_false) {
  return expression([condition = std::move(condition), if_true = std::move(if_true),
                     if_false = std::move(if_false)](Context& context) {
    if (is_truthy(condition->evaluate(context))) {
      return if_true->evaluate(context);
    }
    return if_false ? if_false->evaluate(context)
                    : Value(Undefined{"a conditional without 'else' has no value here"});
  });
}

StatementPtr make_data(std::string text) {
  return statement([text = std::move(text)](Context& context, std::string& output) {
    context.charge(text.size());
    output += text;
    return Flow::kNext;
  });
}

StatementPtr make_output(ExpressionPtr value) {
  return statement([value = std::move(value)](Context& context, std::string& output) {
    output += to_text(value->evaluate(context));
    return Flow::kNext;
  });
}

StatementPtr make_if(std::vector<std::pair<ExpressionPtr, Body>> branches, Body otherwise) {
  return statement([branches = std::move(branches), otherwise = std::move(otherwise)](
                       Context& context, std::string& output) {
    for (const auto& [condition, body] : branches) {
      if (is_truthy(condition->evaluate(context))) {
        return execute_body(body, context, output);
      }
    }
    return execute_body(otherwise, context, output);
  });
}

StatementPtr make_for(Loop loop) {
  return statement([loop = std::move(loop)](Context& context, std::string& output) {
    return run_loop(loop, context, output);
  });
}

StatementPtr make_assignment(std::string name, std::string member, ExpressionPtr value) {
  return statement([name = std::move(name), member = std::move(member), value = std::move(value)](
                       Context& context, std::string&) {
    Value assigned = value->evaluate(context);
    if (member.empty()) {
      context.set(name, std::move(assigned));
    } else {
      assign_member(name, member, std::move(assigned), context);
    }
    return Flow::kNext;
  });
}

StatementPtr make_capture(std::string name, Body body) {
  return statement(
      [name = std::move(name), body = std::move(body)](Context& context, std::string&) {
        std::string text;
        const Flow flow = execute_apart(body, context, text);
        if (flow == Flow::kNext) {
          context.set(name, Json(text));
        }
        return flow;
      });
}

StatementPtr make_filter_block(FilterChain filters, Body body) {
  return statement([filters = std::move(filters), body = std::move(body)](Context& context,
                                                                          std::string& output) {
    std::string text;
    const Flow flow = execute_apart(body, context, text);
    if (flow != Flow::kNext) {
      return flow;
    }
    Value value = Json(text);
    for (const auto& [name, arguments] : filters) {
      value = apply_filter(name, value, evaluate_arguments(arguments, context));
      context.charge(weight_of(value));
    }
    output += to_text(value);
    return Flow::kNext;
  });
}

StatementPtr make_generation(Body body) {
  return statement([body = std::move(body)](Context& context, std::string& output) {
    return execute_body(body, context, output);
  });
}

StatementPtr make_loop_control(Flow flow) {
  return statement([flow](Context&, std::string&) { return flow; });
}

StatementPtr make_macro(MacroDefinition macro) {
  return statement([macro = std::move(macro)](Context& context, std::string&) {
    context.set(macro.name, &macro);
    return Flow::kNext;
  });
}

}  // namespace bipo::jinja
