// Evaluates the nodes of a template's syntax tree.
#include "datasets/jinja/jinja_nodes.hpp"

#include <fmt/format.h>

#include <iterator>
#include <optional>

#include "datasets/jinja/jinja_builtins.hpp"

namespace bipo::jinja {
namespace {

constexpr int kDeepestMacroCall = 100;
constexpr int kDeepestRecursion = 1500;  // one tag can ask for 1000; well within the stack
constexpr std::size_t kMostWork = std::size_t{1} << 28;
constexpr std::size_t kStepWeight = 256;
constexpr std::size_t kIterationWeight = 8192;  // the variable `loop` is made anew

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
    throw UserError("the template asks for more work than any conversation needs");
  }
}

DepthGuard::DepthGuard(Context& context) : context_(context) {
  if (context_.depth >= kDeepestRecursion) {
    throw UserError("the template's calls and expressions are nested too deeply");
  }
  ++context_.depth;
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

Value Literal::compute(Context&) const {
  return value;
}

Value Name::compute(Context& context) const {
  return context.lookup(name);
}

Value ListDisplay::compute(Context& context) const {
  Json list = Json::array();
  for (const auto& element : elements) {
    list.push_back(require_json(element->evaluate(context)));
  }
  return list;
}

Value DictDisplay::compute(Context& context) const {
  Json dict = Json::object();
  for (const auto& [key, value] : entries) {
    const Value name = key->evaluate(context);
    if (as_string(name) == nullptr) {
      throw UserError(fmt::format("a dict key that is {} is not supported", type_name(name)));
    }
    dict[*as_string(name)] = require_json(value->evaluate(context));
  }
  return dict;
}

Value Attribute::compute(Context& context) const {
  return attribute_of(base->evaluate(context), name);
}

Value Subscript::compute(Context& context) const {
  const Value container = base->evaluate(context);
  return item_of(container, key->evaluate(context));
}

Value Slice::compute(Context& context) const {
  const Value sequence = base->evaluate(context);
  const auto bound = [&](const ExpressionPtr& expression) -> std::optional<std::int64_t> {
    if (!expression) {
      return std::nullopt;
    }
    const Value value = expression->evaluate(context);
    const bool is_none = as_json(value) != nullptr && as_json(value)->is_null();
    return is_none ? std::nullopt : std::optional(require_integer(value, "a bound of a slice"));
  };
  return slice_of(sequence, bound(start), bound(stop), bound(step));
}

Value Call::compute(Context& context) const {
  const Value function = callee->evaluate(context);
  const Arguments values = evaluate_arguments(arguments, context);
  if (const auto* builtin = std::get_if<Function>(&function)) {
    return call_function(builtin->name, values, context.today());
  }
  if (const auto* macro = std::get_if<const MacroDefinition*>(&function)) {
    return call_macro(**macro, values, context);
  }
  if (const auto* undefined = std::get_if<Undefined>(&function)) {
    throw UserError(undefined->why + ", so it cannot be called");
  }
  throw UserError(fmt::format("a {} cannot be called", type_name(function)));
}

Value MethodCall::compute(Context& context) const {
  const Value object = base->evaluate(context);
  return call_method(object, name, evaluate_arguments(arguments, context));
}

Value Filter::compute(Context& context) const {
  const Value value = input->evaluate(context);
  return apply_filter(name, value, evaluate_arguments(arguments, context));
}

Value Test::compute(Context& context) const {
  const Value value = input->evaluate(context);
  return Json(apply_test(name, value, evaluate_arguments(arguments, context)) != negated);
}

Value Not::compute(Context& context) const {
  return Json(!is_truthy(operand->evaluate(context)));
}

Value Negative::compute(Context& context) const {
  return arithmetic("-", Json(0), operand->evaluate(context));
}

Value Arithmetic::compute(Context& context) const {
  const Value first = left->evaluate(context);
  return arithmetic(operation, first, right->evaluate(context));
}

Value Concatenation::compute(Context& context) const {
  std::string text;
  for (const auto& part : parts) {
    text += to_text(part->evaluate(context));
    require_reasonable_size(text.size());
  }
  return Json(text);
}

Value Comparison::compute(Context& context) const {
  Value left = first->evaluate(context);
  for (const auto& [operation, expression] : rest) {
    Value right = expression->evaluate(context);
    if (!compare(operation, left, right)) {
      return Json(false);
    }
    left = std::move(right);
  }
  return Json(true);
}

Value AndOr::compute(Context& context) const {
  const Value value = left->evaluate(context);
  return is_truthy(value) == is_and ? right->evaluate(context) : value;
}

Value Conditional::compute(Context& context) const {
  if (is_truthy(condition->evaluate(context))) {
    return if_true->evaluate(context);
  }
  return if_false ? if_false->evaluate(context)
                  : Value(Undefined{"a conditional without 'else' has no value here"});
}

Flow Data::execute(Context& context, std::string& output) const {
  context.charge(text.size());
  output += text;
  return Flow::kNext;
}

Flow Output::execute(Context& context, std::string& output) const {
  output += to_text(expression->evaluate(context));
  return Flow::kNext;
}

Flow If::execute(Context& context, std::string& output) const {
  for (const auto& [condition, body] : branches) {
    if (is_truthy(condition->evaluate(context))) {
      return execute_body(body, context, output);
    }
  }
  return execute_body(otherwise, context, output);
}

void For::bind_targets(Context& context, const Json& element) const {
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

Flow For::execute(Context& context, std::string& output) const {
  auto elements = elements_of(iterable->evaluate(context));
  if (filter) {
    std::erase_if(elements, [&](const Json& element) {
      const ScopeGuard scope(context);
      bind_targets(context, element);
      return !is_truthy(filter->evaluate(context));
    });
  }
  for (std::size_t index = 0; index < elements.size(); ++index) {
    const ScopeGuard scope(context);
    Value loop = loop_variable(elements, index);
    context.charge(kIterationWeight + weight_of(loop));
    context.set("loop", std::move(loop));
    bind_targets(context, elements[index]);
    if (execute_body(body, context, output) == Flow::kBreak) {
      break;
    }
  }
  return elements.empty() ? execute_body(otherwise, context, output) : Flow::kNext;
}

Flow Assignment::execute(Context& context, std::string&) const {
  Value assigned = value->evaluate(context);
  if (member.empty()) {
    context.set(name, std::move(assigned));
    return Flow::kNext;
  }
  const Value target = context.lookup(name);
  const auto* space = std::get_if<std::shared_ptr<Namespace>>(&target);
  if (space == nullptr) {
    throw UserError(
        fmt::format("'{}' is no namespace, so '{}.{}' cannot be set", name, name, member));
  }
  set_member(**space, member, std::move(assigned));
  return Flow::kNext;
}

Flow Capture::execute(Context& context, std::string&) const {
  std::string text;
  {
    const ScopeGuard scope(context);
    execute_body(body, context, text);
  }
  context.set(name, Json(text));
  return Flow::kNext;
}

Flow Generation::execute(Context& context, std::string& output) const {
  return execute_body(body, context, output);
}

Flow LoopControl::execute(Context&, std::string&) const {
  return flow;
}

Flow MacroDefinition::execute(Context& context, std::string&) const {
  context.set(name, this);
  return Flow::kNext;
}

}  // namespace bipo::jinja
