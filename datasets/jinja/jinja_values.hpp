// The values of a running template, and Python's operations on them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "datasets/jinja/jinja.hpp"

namespace bipo::jinja {

// A name, attribute or item that does not exist; `why` is the message for erroneous uses.
struct Undefined {
  std::string why;
};

// A built-in function, by name.
struct Function {
  std::string name;
};

struct Namespace;        // made by namespace(): the only value that a template can change
struct MacroDefinition;  // part of the syntax tree, which outlives every value

using Value =
    std::variant<Undefined, Json, std::shared_ptr<Namespace>, Function, const MacroDefinition*>;

struct Namespace {
  std::map<std::string, Value> members;
};

// Throws UserError for a namespace as the value: one inside itself would never be freed.
void set_member(Namespace& space, const std::string& name, Value value);

// Returns the cost of making and copying a value, roughly in bytes.  Throws UserError for a value
// that is larger than require_reasonable_size allows or nested more than 100 deep.
std::size_t weight_of(const Value& value);

// Throws UserError for texts and values of more than 4 MiB.
void require_reasonable_size(std::size_t bytes);

// Return the JSON or string inside; null if the value is of another kind.
const Json* as_json(const Value& value);
const std::string* as_string(const Value& value);

// Throws UserError for values that JSON cannot hold.
const Json& require_json(const Value& value);
std::int64_t require_integer(const Value& value, std::string_view what);

std::string type_name(const Value& value);  // Python's name of the type, for messages
bool is_truthy(const Value& value);
std::string to_text(const Value& value);  // str(); not implemented for lists and dicts
bool are_equal(const Value& left, const Value& right);
bool is_less(const Value& left, const Value& right);
bool contains(const Value& container, const Value& element);

// A dict is a JSON object, whose keys are strings: an integer is kept as text that no string can
// be. Return the text for a key, a string or an integer (UserError for others), and the key itself.
std::string stored_key(const Json& key);
Json key_of(const std::string& stored);

// Returns what iterating yields: items of a list, characters of a string, keys of a dict.
std::vector<Json> elements_of(const Value& value);
std::size_t length_of(const Value& value);

Value attribute_of(const Value& base, const std::string& name);
Value item_of(const Value& base, const Value& key);
Value slice_of(const Value& base, std::optional<std::int64_t> start,
               std::optional<std::int64_t> stop, std::optional<std::int64_t> step);

// `operation` is one of + - * / // %.
Value arithmetic(const std::string& operation, const Value& left, const Value& right);

// The arguments of json.dumps.
struct JsonStyle {
  bool ensure_ascii = false;
  std::optional<std::int64_t> indent = {};
  std::string between_elements = ", ";
  std::string after_key = ": ";
  bool sort_keys = false;
};

std::string to_json_text(const Json& value, const JsonStyle& style);

enum class Side { kLeft, kRight, kBoth };
std::string_view strip(std::string_view text, Side side);  // Python's whitespace
std::vector<std::string> code_points(std::string_view utf8);

}  // namespace bipo::jinja
