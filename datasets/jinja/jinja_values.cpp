// Python's rules for truth, text, comparison, indexing and arithmetic, over the values of a
// template.
#include "datasets/jinja/jinja_values.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "datasets/text/unicode_text.hpp"

namespace bipo::jinja {
namespace {

// Before an integer that is a dict's key; no byte of UTF-8 has this value.
constexpr char kIntegerKey = '\xff';

constexpr std::size_t kLargestValue = std::size_t{4} << 20;
constexpr std::size_t kNodeWeight = 32;  // with what the allocator needs
constexpr int kDeepestValue = 100;

// The characters beyond ASCII that str.isspace() accepts.
constexpr std::array<std::string_view, 19> kWideSpaces = {
    "\u0085", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003",
    "\u2004", "\u2005", "\u2006", "\u2007", "\u2008", "\u2009", "\u200a",
    "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"};

bool is_ascii_space(char character) {
  return (character >= '\t' && character <= '\r') || (character >= '\x1c' && character <= ' ');
}

// Returns the bytes of the white-space character at that end of `text`; 0 without one.
std::size_t space_at(Side side, std::string_view text) {
  const bool left = side == Side::kLeft;
  if (!text.empty() && is_ascii_space(left ? text.front() : text.back())) {
    return 1;
  }
  for (const std::string_view space : kWideSpaces) {
    if (left ? text.starts_with(space) : text.ends_with(space)) {
      return space.size();
    }
  }
  return 0;
}

std::string float_text(double value) {
  if (std::isnan(value)) {
    return "nan";
  }
  const std::string digits = fmt::format("{}", value);
  const bool reads_as_integer = digits.find_first_not_of("-0123456789") == std::string::npos;
  return reads_as_integer ? digits + ".0" : digits;
}

std::string json_type_name(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "None";
    case Json::value_t::boolean:
      return "bool";
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned:
      return "int";
    case Json::value_t::number_float:
      return "float";
    case Json::value_t::string:
      return "str";
    case Json::value_t::array:
      return "list";
    default:
      return "dict";
  }
}

// In Python True and False are the integers 1 and 0.
Json with_booleans_as_integers(const Json& value) {
  return value.is_boolean() ? Json(value.get<bool>() ? 1 : 0) : value;
}

bool is_number(const Json& value) {
  return value.is_number() || value.is_boolean();
}

[[noreturn]] void refuse_operands(std::string_view operation, const Value& left,
                                  const Value& right) {
  for (const Value* operand : {&left, &right}) {
    if (const auto* undefined = std::get_if<Undefined>(operand)) {
      throw UserError(undefined->why);
    }
  }
  throw UserError(fmt::format("'{}' between {} and {} is not supported", operation, type_name(left),
                              type_name(right)));
}

bool rounds_down(std::int64_t left, std::int64_t right) {
  return left % right != 0 && (left < 0) != (right < 0);
}

std::int64_t floor_divide(std::int64_t left, std::int64_t right) {
  return left / right - (rounds_down(left, right) ? 1 : 0);
}

std::int64_t floor_modulo(std::int64_t left, std::int64_t right) {
  return left % right + (rounds_down(left, right) ? right : 0);
}

Json integer_arithmetic(const std::string& operation, std::int64_t left, std::int64_t right) {
  std::int64_t result = 0;
  bool overflows = false;
  if (operation == "+") {
    overflows = __builtin_add_overflow(left, right, &result);
  } else if (operation == "-") {
    overflows = __builtin_sub_overflow(left, right, &result);
  } else if (operation == "*") {
    overflows = __builtin_mul_overflow(left, right, &result);
  } else if (right == 0) {
    throw UserError(fmt::format("division by zero in '{}'", operation));
  } else if (operation == "/") {
    return Json(static_cast<double>(left) / static_cast<double>(right));
  } else if (right == -1) {
    overflows = operation == "//" && __builtin_sub_overflow(std::int64_t{0}, left, &result);
  } else {
    result = operation == "//" ? floor_divide(left, right) : floor_modulo(left, right);
  }
  if (overflows) {
    throw UserError(fmt::format("{} {} {} is beyond 64-bit integers", left, operation, right));
  }
  return Json(result);
}

Json float_arithmetic(const std::string& operation, double left, double right) {
  if (operation == "+") {
    return Json(left + right);
  }
  if (operation == "-") {
    return Json(left - right);
  }
  if (operation == "*") {
    return Json(left * right);
  }
  if (right == 0) {
    throw UserError(fmt::format("division by zero in '{}'", operation));
  }
  if (operation == "/") {
    return Json(left / right);
  }
  const double remainder = std::fmod(left, right);
  const bool wraps = remainder != 0 && (remainder < 0) != (right < 0);
  const double modulo = wraps ? remainder + right : remainder;
  return Json(operation == "%" ? modulo : std::floor((left - modulo) / right + 0.5));
}

// Returns the positions that Python's slice selects from a sequence of `length`.
std::vector<std::size_t> slice_positions(std::optional<std::int64_t> start,
                                         std::optional<std::int64_t> stop, std::int64_t step,
                                         std::int64_t length) {
  // Larger steps select the same, but may overflow.
  step = std::clamp(step, -length - 1, length + 1);
  const std::int64_t lowest = step > 0 ? 0 : -1;
  const std::int64_t highest = step > 0 ? length : length - 1;
  const auto bound = [&](std::optional<std::int64_t> given, std::int64_t otherwise) {
    if (!given) {
      return otherwise;
    }
    return std::clamp(*given < 0 ? *given + length : *given, lowest, highest);
  };
  const std::int64_t begin = bound(start, step > 0 ? lowest : highest);
  const std::int64_t end = bound(stop, step > 0 ? highest : lowest);
  std::vector<std::size_t> positions;
  for (std::int64_t at = begin; step > 0 ? at < end : at > end; at += step) {
    positions.push_back(static_cast<std::size_t>(at));
  }
  return positions;
}

// Returns the weight of a value that is nested at most `levels` deep.
std::size_t weight_within(const Json& value, int levels) {
  if (levels == 0) {
    throw UserError("a value of the template is nested too deeply");
  }
  if (value.is_string()) {
    return kNodeWeight + value.get_ref<const std::string&>().size();
  }
  std::size_t weight = kNodeWeight;
  if (value.is_object()) {
    for (const auto& [key, element] : value.items()) {
      weight += key.size() + weight_within(element, levels - 1);
    }
  } else if (value.is_array()) {
    for (const Json& element : value) {
      weight += weight_within(element, levels - 1);
    }
  }
  return weight;
}

std::string dump_json(const Json& value, const JsonStyle& style, std::size_t depth) {
  const auto line_break = [&](std::size_t levels) {
    return style.indent ? "\n" + std::string(static_cast<std::size_t>(*style.indent) * levels, ' ')
                        : std::string();
  };
  if (value.is_number_float()) {
    return float_text(value.get<double>());
  }
  if (!value.is_structured() || value.empty()) {
    return value.dump(-1, ' ', style.ensure_ascii);
  }
  std::vector<std::pair<Json, const Json*>> elements;
  for (const auto& [key, element] : value.items()) {
    elements.emplace_back(value.is_object() ? key_of(key) : Json(), &element);
  }
  if (value.is_object() && style.sort_keys) {
    // Python sorts by code points, as bytes of UTF-8 do.
    std::stable_sort(elements.begin(), elements.end(), [](const auto& a, const auto& b) {
      return is_less(Value(a.first), Value(b.first));
    });
  }
  std::string text;
  for (const auto& [key, element] : elements) {
    text += text.empty() ? "" : style.between_elements;
    text += line_break(depth + 1);
    if (value.is_object()) {
      const Json name = key.is_string() ? key : Json(key.dump());
      text += name.dump(-1, ' ', style.ensure_ascii) + style.after_key;
    }
    text += dump_json(*element, style, depth + 1);
    require_reasonable_size(text.size());
  }
  text += line_break(depth);
  return value.is_object() ? "{" + text + "}" : "[" + text + "]";
}

}  // namespace

void set_member(Namespace& space, const std::string& name, Value value) {
  if (std::holds_alternative<std::shared_ptr<Namespace>>(value)) {
    throw UserError("a namespace inside a namespace is not supported");
  }
  space.members[name] = std::move(value);
}

void require_reasonable_size(std::size_t bytes) {
  if (bytes > kLargestValue) {
    throw UserError(fmt::format("the template makes a value of more than {} bytes", kLargestValue));
  }
}

std::size_t weight_of(const Value& value) {
  const Json* json = as_json(value);
  const std::size_t weight = json == nullptr ? kNodeWeight : weight_within(*json, kDeepestValue);
  require_reasonable_size(weight);
  return weight;
}

const Json* as_json(const Value& value) {
  return std::get_if<Json>(&value);
}

const std::string* as_string(const Value& value) {
  const Json* json = as_json(value);
  return json != nullptr ? json->get_ptr<const std::string*>() : nullptr;
}

const Json& require_json(const Value& value) {
  if (const auto* undefined = std::get_if<Undefined>(&value)) {
    throw UserError(undefined->why);
  }
  const Json* json = as_json(value);
  if (json == nullptr) {
    throw UserError(fmt::format("a {} cannot be used here", type_name(value)));
  }
  return *json;
}

std::int64_t require_integer(const Value& value, std::string_view what) {
  const Json& json = require_json(value);
  if (!json.is_number_integer() && !json.is_boolean()) {
    throw UserError(fmt::format("{} must be an integer, not {}", what, type_name(value)));
  }
  return with_booleans_as_integers(json).get<std::int64_t>();
}

std::string type_name(const Value& value) {
  if (const Json* json = as_json(value)) {
    return json_type_name(*json);
  }
  if (std::holds_alternative<Undefined>(value)) {
    return "undefined value";
  }
  return std::holds_alternative<std::shared_ptr<Namespace>>(value) ? "namespace" : "function";
}

bool is_truthy(const Value& value) {
  const Json* json = as_json(value);
  if (json == nullptr) {
    return !std::holds_alternative<Undefined>(value);
  }
  if (json->is_string()) {
    return !json->get_ref<const std::string&>().empty();
  }
  if (is_number(*json)) {
    return with_booleans_as_integers(*json) != Json(0);
  }
  return !json->empty();
}

std::string to_text(const Value& value) {
  if (std::holds_alternative<Undefined>(value)) {
    return "";
  }
  const Json& json = require_json(value);
  switch (json.type()) {
    case Json::value_t::null:
      return "None";
    case Json::value_t::boolean:
      return json.get<bool>() ? "True" : "False";
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned:
      return json.dump();
    case Json::value_t::number_float:
      return float_text(json.get<double>());
    case Json::value_t::string:
      return json.get<std::string>();
    default:
      throw UserError(
          fmt::format("writing a {} as text is not supported (tojson is)", type_name(value)));
  }
}

bool are_equal(const Value& left, const Value& right) {
  if (left.index() != right.index()) {
    return false;
  }
  if (std::holds_alternative<Undefined>(left)) {
    return true;
  }
  return with_booleans_as_integers(require_json(left)) ==
         with_booleans_as_integers(require_json(right));
}

bool is_less(const Value& left, const Value& right) {
  const Json* a = as_json(left);
  const Json* b = as_json(right);
  const bool comparable = a != nullptr && b != nullptr &&
                          ((is_number(*a) && is_number(*b)) || (a->is_string() && b->is_string()));
  if (!comparable) {
    refuse_operands("<", left, right);
  }
  return with_booleans_as_integers(*a) < with_booleans_as_integers(*b);
}

bool contains(const Value& container, const Value& element) {
  if (const std::string* text = as_string(container)) {
    const std::string* part = as_string(element);
    if (part == nullptr) {
      refuse_operands("in", element, container);
    }
    return text->find(*part) != std::string::npos;
  }
  const auto candidates = elements_of(container);
  return std::any_of(candidates.begin(), candidates.end(),
                     [&](const Json& candidate) { return are_equal(Value(candidate), element); });
}

std::string stored_key(const Json& key) {
  if (key.is_string()) {
    return key.get<std::string>();
  }
  if (!key.is_number_integer()) {
    throw UserError(fmt::format("a dict key that is {} is not supported", type_name(Value(key))));
  }
  return kIntegerKey + key.dump();
}

Json key_of(const std::string& stored) {
  return stored.starts_with(kIntegerKey) ? Json::parse(stored.substr(1)) : Json(stored);
}

std::vector<Json> elements_of(const Value& value) {
  std::vector<Json> elements;
  if (std::holds_alternative<Undefined>(value)) {
    return elements;
  }
  const Json& json = require_json(value);
  if (json.is_string()) {
    for (const std::string& character : code_points(json.get_ref<const std::string&>())) {
      elements.emplace_back(character);
    }
  } else if (json.is_object()) {
    for (const auto& [key, unused] : json.items()) {
      elements.push_back(key_of(key));
    }
  } else if (json.is_array()) {
    elements.assign(json.begin(), json.end());
  } else {
    throw UserError(fmt::format("a {} cannot be iterated over", type_name(value)));
  }
  return elements;
}

std::size_t length_of(const Value& value) {
  const Json* json = as_json(value);
  const bool sized = std::holds_alternative<Undefined>(value) ||
                     (json != nullptr && (json->is_structured() || json->is_string()));
  if (!sized) {
    throw UserError(fmt::format("a {} has no length", type_name(value)));
  }
  return elements_of(value).size();
}

Value attribute_of(const Value& base, const std::string& name) {
  if (const auto* undefined = std::get_if<Undefined>(&base)) {
    throw UserError(undefined->why);
  }
  if (const auto* space = std::get_if<std::shared_ptr<Namespace>>(&base)) {
    const auto found = (*space)->members.find(name);
    return found != (*space)->members.end()
               ? found->second
               : Value(Undefined{fmt::format("the namespace has no member '{}'", name)});
  }
  const Json& json = require_json(base);
  if (json.is_object() && json.contains(name)) {
    return json.at(name);
  }
  return Undefined{fmt::format("a {} has no attribute '{}'", type_name(base), name)};
}

Value item_of(const Value& base, const Value& key) {
  if (const std::string* name = as_string(key)) {
    return attribute_of(base, *name);
  }
  const Json& json = require_json(base);
  const Json& index = require_json(key);
  const Undefined missing{fmt::format("a {} has no element {}", type_name(base), index.dump())};
  if (json.is_object() && index.is_number_integer()) {
    const auto found = json.find(stored_key(index));
    return found != json.end() ? Value(*found) : Value(missing);
  }
  if (!index.is_number_integer() || (!json.is_array() && !json.is_string())) {
    return missing;
  }
  const auto elements = elements_of(base);
  const auto length = static_cast<std::int64_t>(elements.size());
  const auto position = index.get<std::int64_t>();
  if (position >= length || position < -length) {
    return missing;
  }
  return elements[static_cast<std::size_t>(position < 0 ? position + length : position)];
}

Value slice_of(const Value& base, std::optional<std::int64_t> start,
               std::optional<std::int64_t> stop, std::optional<std::int64_t> step) {
  const Json& json = require_json(base);
  if (!json.is_array() && !json.is_string()) {
    throw UserError(fmt::format("a {} cannot be sliced", type_name(base)));
  }
  if (step.value_or(1) == 0) {
    throw UserError("the step of a slice must not be zero");
  }
  const auto elements = elements_of(base);
  Json list = Json::array();
  std::string text;
  for (const std::size_t position :
       slice_positions(start, stop, step.value_or(1), static_cast<std::int64_t>(elements.size()))) {
    if (json.is_string()) {
      text += elements[position].get_ref<const std::string&>();
    } else {
      list.push_back(elements[position]);
    }
  }
  return json.is_string() ? Json(text) : list;
}

Value arithmetic(const std::string& operation, const Value& left, const Value& right) {
  const Json* a = as_json(left);
  const Json* b = as_json(right);
  if (a != nullptr && b != nullptr) {
    if (operation == "+" && a->is_string() && b->is_string()) {
      return Json(a->get_ref<const std::string&>() + b->get_ref<const std::string&>());
    }
    if (operation == "+" && a->is_array() && b->is_array()) {
      Json joined = *a;
      joined.insert(joined.end(), b->begin(), b->end());
      return joined;
    }
    if (is_number(*a) && is_number(*b)) {
      if (a->is_number_float() || b->is_number_float()) {
        return float_arithmetic(operation, with_booleans_as_integers(*a).get<double>(),
                                with_booleans_as_integers(*b).get<double>());
      }
      return integer_arithmetic(operation, require_integer(left, "the operand"),
                                require_integer(right, "the operand"));
    }
  }
  refuse_operands(operation, left, right);
}

std::string to_json_text(const Json& value, const JsonStyle& style) {
  if (style.indent && (*style.indent < 0 || *style.indent > 16)) {
    throw UserError(fmt::format("tojson with an indent of {} is not supported", *style.indent));
  }
  return dump_json(value, style, 0);
}

std::string_view strip(std::string_view text, Side side) {
  std::size_t count = 0;
  while (side != Side::kRight && (count = space_at(Side::kLeft, text)) > 0) {
    text.remove_prefix(count);
  }
  while (side != Side::kLeft && (count = space_at(Side::kRight, text)) > 0) {
    text.remove_suffix(count);
  }
  return text;
}

std::vector<std::string> code_points(std::string_view utf8) {
  std::vector<std::string> characters;
  while (!utf8.empty()) {
    characters.emplace_back(first_character(utf8));
    utf8.remove_prefix(characters.back().size());
  }
  return characters;
}

}  // namespace bipo::jinja
