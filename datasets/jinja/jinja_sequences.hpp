// Filters of numbers and sequences, and the methods of strings that count, find and format.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "datasets/jinja/jinja_builtins.hpp"

namespace bipo::jinja {

// One argument per parameter, nullopt where none was passed.
using Bound = std::vector<std::optional<Value>>;

// A filter or method: calls `body` with the bound arguments.
struct Builtin {
  std::vector<std::string> parameters;
  std::function<Value(const Value& input, const Bound& bound)> body;
};

using Builtins = std::map<std::string, Builtin>;

// Returns the attribute "a", "a.b" or "a.0" of an element, an index where a part is a number.
Value attribute_at(const Json& element, const std::string& path);

const Builtins& sequence_filters();

// Methods of strings: those that count, find, cut and join.
const Builtins& text_methods();

// Python's str.format with plain fields: {}, {0} and {name}; throws UserError for format
// specifications, conversions and attributes.
Json format_text(const std::string& text, const Arguments& arguments);

// Jinja2's format filter: the % operator with %s and %d; throws UserError for other directives.
Json format_by_percent(const std::string& text, const Arguments& arguments);

// Jinja2's map: an attribute of every element, or a filter of every element.
Json map_elements(const Value& input, const Arguments& arguments);

}  // namespace bipo::jinja
