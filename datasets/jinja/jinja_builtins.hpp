// The filters, tests, methods and functions that templates may use.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "datasets/jinja/jinja_values.hpp"

namespace bipo::jinja {

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// All throw UserError naming the filter, test, method or function if it is not implemented or the
// arguments do not fit it; raise_exception throws TemplateRefusal.
Value apply_filter(const std::string& name, const Value& input, const Arguments& arguments);
bool apply_test(const std::string& name, const Value& input, const Arguments& arguments);
Value call_method(const Value& base, const std::string& name, const Arguments& arguments);
Value call_function(const std::string& name, const Arguments& arguments, const CalendarDate& today);

bool is_function(const std::string& name);

// Returns the argument of every parameter, nullopt if none was passed; `callee` is for messages.
std::vector<std::optional<Value>> bind_arguments(const std::string& callee,
                                                 const Arguments& arguments,
                                                 const std::vector<std::string>& parameters);

// Returns an argument, or nothing where it was not passed or is none.
std::optional<Value> given(const std::optional<Value>& argument);

}  // namespace bipo::jinja
