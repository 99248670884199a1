// Filters, tests, methods and functions, with the results that Jinja2 and Python give.
#include "datasets/jinja/jinja_builtins.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>

#include "datasets/jinja/jinja_sequences.hpp"
#include "datasets/text/unicode_text.hpp"

namespace bipo::jinja {
namespace {

constexpr std::int64_t kLongestRange = 100000;  // the sandbox's own limit

std::string text_argument(const Bound& bound, std::size_t index, std::string_view what) {
  if (index >= bound.size() || !bound[index] || as_string(*bound[index]) == nullptr) {
    throw UserError(fmt::format("{} must be a string", what));
  }
  return *as_string(*bound[index]);
}

// Case mapping beyond ASCII depends on the Unicode version, and role names do not need it.
std::string require_ascii(const std::string& text) {
  if (!is_ascii(text)) {
    throw UserError(fmt::format("changing the case of '{}' is supported for ASCII only", text));
  }
  return text;
}

bool is_upper(char letter) {
  return letter >= 'A' && letter <= 'Z';
}
bool is_lower(char letter) {
  return letter >= 'a' && letter <= 'z';
}
char to_upper(char letter) {
  return is_lower(letter) ? static_cast<char>(letter - 32) : letter;
}
char to_lower(char letter) {
  return is_upper(letter) ? static_cast<char>(letter + 32) : letter;
}

Json with_letters(const std::string& text, char (*convert)(char)) {
  std::string result = require_ascii(text);
  std::transform(result.begin(), result.end(), result.begin(), convert);
  return Json(result);
}

Json upper(const std::string& text) {
  return with_letters(text, to_upper);
}
Json lower(const std::string& text) {
  return with_letters(text, to_lower);
}

Json title(const std::string& text) {
  std::string result = require_ascii(text);
  bool after_letter = false;
  for (char& letter : result) {
    letter = after_letter ? to_lower(letter) : to_upper(letter);
    after_letter = is_upper(letter) || is_lower(letter);
  }
  return Json(result);
}

Json capitalize(const std::string& text) {
  std::string result = require_ascii(text);
  std::transform(result.begin(), result.end(), result.begin(), to_lower);
  if (!result.empty()) {
    result.front() = to_upper(result.front());
  }
  return Json(result);
}

// Cuts `text` at `separator`, at most `count` times if `count` is not negative.
std::vector<std::string> parts_of(const std::string& text, const std::string& separator,
                                  std::int64_t count) {
  std::vector<std::string> parts;
  std::size_t position = 0;
  for (std::size_t found = text.find(separator); found != std::string::npos && count != 0;
       found = text.find(separator, position), --count) {
    parts.push_back(text.substr(position, found - position));
    position = found + separator.size();
  }
  parts.push_back(text.substr(position));
  return parts;
}

std::string joined(const std::vector<std::string>& parts, const std::string& separator) {
  std::string text;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    text += (i == 0 ? "" : separator) + parts[i];
    require_reasonable_size(text.size());
  }
  return text;
}

std::int64_t count_argument(const std::optional<Value>& given, std::string_view what) {
  return given ? require_integer(*given, what) : -1;
}

Json replace(const std::string& text, const Bound& bound) {
  const std::string from = text_argument(bound, 0, "what replace looks for");
  const std::string to = text_argument(bound, 1, "what replace puts there");
  if (from.empty()) {
    throw UserError("replacing the empty string is not supported");
  }
  return Json(joined(parts_of(text, from, count_argument(bound[2], "the count of replace")), to));
}

Json strip_text(const std::string& text, const Bound& bound, Side side) {
  if (!bound[0]) {
    return Json(std::string(strip(text, side)));
  }
  const auto unwanted = code_points(text_argument(bound, 0, "what strip removes"));
  const auto is_unwanted = [&](const std::string& character) {
    return std::find(unwanted.begin(), unwanted.end(), character) != unwanted.end();
  };
  auto characters = code_points(text);
  if (side != Side::kRight) {
    characters.erase(characters.begin(),
                     std::find_if_not(characters.begin(), characters.end(), is_unwanted));
  }
  while (side != Side::kLeft && !characters.empty() && is_unwanted(characters.back())) {
    characters.pop_back();
  }
  return Json(joined(characters, ""));
}

Json split_at_space(std::string_view text) {
  Json parts = Json::array();
  std::string part;
  for (const std::string& character : code_points(text)) {
    if (!strip(character, Side::kBoth).empty()) {
      part += character;
    } else if (!part.empty()) {
      parts.push_back(std::exchange(part, {}));
    }
  }
  if (!part.empty()) {
    parts.push_back(part);
  }
  return parts;
}

Json split(const std::string& text, const Bound& bound) {
  const std::int64_t count = count_argument(bound[1], "the count of split");
  if (!bound[0]) {
    if (bound[1]) {
      throw UserError("split with a count needs a separator here");
    }
    return split_at_space(text);
  }
  const std::string separator = text_argument(bound, 0, "the separator of split");
  if (separator.empty()) {
    throw UserError("the separator of split must not be empty");
  }
  return Json(parts_of(text, separator, count));
}

Json join(const Value& input, const Bound& bound) {
  const std::string separator = bound[0] ? to_text(*bound[0]) : "";
  std::vector<std::string> parts;
  for (const Json& element : elements_of(input)) {
    parts.push_back(to_text(Value(element)));
  }
  return Json(joined(parts, separator));
}

Json key_value_pairs(const Value& input) {
  Json pairs = Json::array();
  if (std::holds_alternative<Undefined>(input)) {
    return pairs;
  }
  const Json& object = require_json(input);
  if (!object.is_object()) {
    throw UserError(fmt::format("items needs a dict, not {}", type_name(input)));
  }
  for (const auto& [key, value] : object.items()) {
    pairs.push_back(Json::array({key_of(key), value}));
  }
  return pairs;
}

Value end_element(const Value& input, bool last) {
  const auto elements = elements_of(input);
  if (elements.empty()) {
    return Undefined{"an empty sequence has no first or last element"};
  }
  return last ? elements.back() : elements.front();
}

Value or_default(const Value& input, const Bound& bound) {
  const bool falsy_too = bound[1] && is_truthy(*bound[1]);
  const bool given = falsy_too ? is_truthy(input) : !std::holds_alternative<Undefined>(input);
  return given ? input : bound[0].value_or(Value(Json("")));
}

// The arguments of transformers' tojson, in its order.
JsonStyle json_style(const Bound& bound) {
  JsonStyle style;
  style.ensure_ascii = bound[0] && is_truthy(*bound[0]);
  if (const auto indent = given(bound[1])) {
    style.indent = require_integer(*indent, "indent");
    style.between_elements = ",";  // json.dumps then writes no blank before the line break
  }
  if (const auto separators_given = given(bound[2])) {
    const Json& separators = require_json(*separators_given);
    if (!separators.is_array() || separators.size() != 2 || !separators[0].is_string() ||
        !separators[1].is_string()) {
      throw UserError("tojson needs two texts as its separators");
    }
    style.between_elements = separators[0].get<std::string>();
    style.after_key = separators[1].get<std::string>();
  }
  style.sort_keys = bound[3] && is_truthy(*bound[3]);
  return style;
}

// Pairs of a dict by their keys, without regard to case unless that is asked for.
Json sorted_pairs(const Value& input, const Bound& bound) {
  const bool case_sensitive = bound[0] && is_truthy(*bound[0]);
  const bool reverse = bound[2] && is_truthy(*bound[2]);
  if (const auto by = given(bound[1]); by && !are_equal(*by, Json("key"))) {
    throw UserError("dictsort by anything but the key is not supported");
  }
  std::vector<std::pair<Value, Json>> pairs;
  for (const Json& pair : key_value_pairs(input)) {
    const Json& key = pair[0];
    const bool folds = key.is_string() && !case_sensitive;
    pairs.emplace_back(folds ? lower(key.get<std::string>()) : key, pair);
  }
  std::stable_sort(pairs.begin(), pairs.end(), [&](const auto& a, const auto& b) {
    return reverse ? is_less(b.first, a.first) : is_less(a.first, b.first);
  });
  Json sorted = Json::array();
  for (auto& [key, pair] : pairs) {
    sorted.push_back(std::move(pair));
  }
  return sorted;
}

// Returns the elements for which `tested` passes the test named in bound[first], whose argument
// follows; without a test, those for which it is true.
Json elements_that_pass(const Value& input, const Bound& bound, std::size_t first, bool wanted,
                        const std::function<Value(const Json&)>& tested) {
  Arguments arguments;
  if (bound[first + 1]) {
    arguments.positional.push_back(*bound[first + 1]);
  }
  Json kept = Json::array();
  for (const Json& element : elements_of(input)) {
    const Value value = tested(element);
    const bool passes = bound[first] ? apply_test(text_argument(bound, first, "the name of a test"),
                                                  value, arguments)
                                     : is_truthy(value);
    if (passes == wanted) {
      kept.push_back(element);
    }
  }
  return kept;
}

Builtin element_filter(bool wanted) {
  return {{"test", "argument"}, [wanted](const Value& input, const Bound& bound) {
            return elements_that_pass(input, bound, 0, wanted,
                                      [](const Json& element) { return Value(element); });
          }};
}

Builtin attribute_filter(bool wanted) {
  return {{"attribute", "test", "argument"}, [wanted](const Value& input, const Bound& bound) {
            const std::string attribute = text_argument(bound, 0, "the name of an attribute");
            return elements_that_pass(input, bound, 1, wanted, [&](const Json& element) {
              return attribute_at(element, attribute);
            });
          }};
}

const Builtins& filters() {
  static const Builtins table = [] {
    Builtins filter = {
        {"trim",
         {{},
          [](const Value& input, const Bound&) {
            return Json(std::string(strip(to_text(input), Side::kBoth)));
          }}},
        {"length", {{}, [](const Value& input, const Bound&) { return Json(length_of(input)); }}},
        {"upper", {{}, [](const Value& input, const Bound&) { return upper(to_text(input)); }}},
        {"lower", {{}, [](const Value& input, const Bound&) { return lower(to_text(input)); }}},
        {"string", {{}, [](const Value& input, const Bound&) { return Json(to_text(input)); }}},
        {"default", {{"default_value", "boolean"}, or_default}},
        {"join", {{"d"}, join}},
        {"tojson",
         {{"ensure_ascii", "indent", "separators", "sort_keys"},
          [](const Value& input, const Bound& bound) {
            return Json(to_json_text(require_json(input), json_style(bound)));
          }}},
        {"dictsort", {{"case_sensitive", "by", "reverse"}, sorted_pairs}},
        {"safe", {{}, [](const Value& input, const Bound&) { return Json(to_text(input)); }}},
        {"capitalize",
         {{}, [](const Value& input, const Bound&) { return capitalize(to_text(input)); }}},
        {"first", {{}, [](const Value& input, const Bound&) { return end_element(input, false); }}},
        {"last", {{}, [](const Value& input, const Bound&) { return end_element(input, true); }}},
        {"list", {{}, [](const Value& input, const Bound&) { return Json(elements_of(input)); }}},
        {"items", {{}, [](const Value& input, const Bound&) { return key_value_pairs(input); }}},
        {"replace",
         {{"s_old", "s_new", "count"},
          [](const Value& input, const Bound& bound) { return replace(to_text(input), bound); }}},
    };
    filter["select"] = element_filter(true);
    filter["reject"] = element_filter(false);
    filter["selectattr"] = attribute_filter(true);
    filter["rejectattr"] = attribute_filter(false);
    filter["count"] = filter["length"];
    filter["d"] = filter["default"];
    filter.insert(sequence_filters().begin(), sequence_filters().end());
    return filter;
  }();
  return table;
}

const std::string& text_of(const Value& base) {
  return *as_string(base);
}

Builtin strip_method(Side side) {
  return {{"chars"}, [side](const Value& base, const Bound& bound) {
            return strip_text(text_of(base), bound, side);
          }};
}

const Builtins& string_methods() {
  static const Builtins table = [] {
    Builtins methods = {
        {"strip", strip_method(Side::kBoth)},
        {"lstrip", strip_method(Side::kLeft)},
        {"rstrip", strip_method(Side::kRight)},
        {"split",
         {{"sep", "maxsplit"},
          [](const Value& base, const Bound& bound) { return split(text_of(base), bound); }}},
        {"startswith",
         {{"prefix"},
          [](const Value& base, const Bound& bound) {
            return Json(text_of(base).starts_with(text_argument(bound, 0, "the prefix")));
          }}},
        {"endswith",
         {{"suffix"},
          [](const Value& base, const Bound& bound) {
            return Json(text_of(base).ends_with(text_argument(bound, 0, "the suffix")));
          }}},
        {"upper", {{}, [](const Value& base, const Bound&) { return upper(text_of(base)); }}},
        {"lower", {{}, [](const Value& base, const Bound&) { return lower(text_of(base)); }}},
        {"title", {{}, [](const Value& base, const Bound&) { return title(text_of(base)); }}},
        {"capitalize",
         {{}, [](const Value& base, const Bound&) { return capitalize(text_of(base)); }}},
        {"replace",
         {{"old", "new", "count"},
          [](const Value& base, const Bound& bound) { return replace(text_of(base), bound); }}},
    };
    methods.insert(text_methods().begin(), text_methods().end());
    return methods;
  }();
  return table;
}

const Builtins& dict_methods() {
  static const Builtins table = {
      {"get",
       {{"key", "default"},
        [](const Value& base, const Bound& bound) {
          const Json& object = require_json(base);
          const bool is_integer =
              bound[0] && as_json(*bound[0]) != nullptr && as_json(*bound[0])->is_number_integer();
          const std::string key = is_integer ? stored_key(require_json(*bound[0]))
                                             : text_argument(bound, 0, "the key of get");
          return object.contains(key) ? Value(object.at(key))
                                      : bound[1].value_or(Value(Json(nullptr)));
        }}},
      {"items", {{}, [](const Value& base, const Bound&) { return key_value_pairs(base); }}},
      {"keys", {{}, [](const Value& base, const Bound&) { return Json(elements_of(base)); }}},
      {"values",
       {{},
        [](const Value& base, const Bound&) {
          const Json& object = require_json(base);
          return Json(Json::array_t(object.begin(), object.end()));
        }}},
  };
  return table;
}

Value call_builtin(const Builtins& table, const std::string& kind, const std::string& name,
                   const Value& input, const Arguments& arguments) {
  const auto found = table.find(name);
  if (found == table.end()) {
    throw UserError(fmt::format("the {} '{}' is not supported", kind, name));
  }
  const Builtin& builtin = found->second;
  return builtin.body(
      input, bind_arguments(fmt::format("{} '{}'", kind, name), arguments, builtin.parameters));
}

Value make_namespace(const Arguments& arguments, const CalendarDate&) {
  if (!arguments.positional.empty()) {
    throw UserError("namespace with positional arguments is not supported");
  }
  auto space = std::make_shared<Namespace>();
  for (const auto& [name, value] : arguments.named) {
    set_member(*space, name, value);
  }
  return space;
}

Value make_range(const Arguments& arguments, const CalendarDate&) {
  const Bound bound = bind_arguments("function 'range'", arguments, {"start", "stop", "step"});
  if (!bound[0]) {
    throw UserError("range needs an argument");
  }
  const std::int64_t first = require_integer(*bound[0], "the argument of range");
  const std::int64_t start = bound[1] ? first : 0;
  const std::int64_t stop = bound[1] ? require_integer(*bound[1], "the end of range") : first;
  const std::int64_t step = bound[2] ? require_integer(*bound[2], "the step of range") : 1;
  Json numbers = Json::array();
  if (step == 0) {
    throw UserError("the step of range must not be zero");
  }
  for (std::int64_t number = start; step > 0 ? number < stop : number > stop;) {
    numbers.push_back(number);
    if (static_cast<std::int64_t>(numbers.size()) > kLongestRange) {
      throw UserError(fmt::format("range has more than {} elements", kLongestRange));
    }
    if (__builtin_add_overflow(number, step, &number)) {
      break;
    }
  }
  return numbers;
}

Value format_today(const Arguments& arguments, const CalendarDate& today) {
  const Bound bound = bind_arguments("function 'strftime_now'", arguments, {"format"});
  return Json(format_date(today, text_argument(bound, 0, "the format of strftime_now")));
}

Value raise_exception(const Arguments& arguments, const CalendarDate&) {
  const Bound bound = bind_arguments("function 'raise_exception'", arguments, {"message"});
  throw TemplateRefusal(bound[0] ? to_text(*bound[0]) : "the template raised an exception");
}

using FunctionTable = std::map<std::string, Value (*)(const Arguments&, const CalendarDate&)>;

const FunctionTable& functions() {
  static const FunctionTable table = {{"namespace", make_namespace},
                                      {"range", make_range},
                                      {"strftime_now", format_today},
                                      {"raise_exception", raise_exception}};
  return table;
}

using ComparisonTest = bool (*)(const Value& value, const Value& other);

const std::map<std::string, ComparisonTest>& comparison_tests() {
  static const std::map<std::string, ComparisonTest> table = {
      {"equalto", are_equal},
      {"eq", are_equal},
      {"ne", [](const Value& value, const Value& other) { return !are_equal(value, other); }},
      {"in", [](const Value& value, const Value& other) { return contains(other, value); }},
      {"lt", is_less},
      {"gt", [](const Value& value, const Value& other) { return is_less(other, value); }},
      {"le", [](const Value& value, const Value& other) { return !is_less(other, value); }},
      {"ge", [](const Value& value, const Value& other) { return !is_less(value, other); }},
      {"divisibleby",
       [](const Value& value, const Value& other) {
         return are_equal(arithmetic("%", value, other), Json(0));
       }},
  };
  return table;
}

using JsonTest = bool (*)(const Json&);

std::int64_t remainder_by_two(const Json& value) {
  return require_integer(arithmetic("%", value, Json(2)), "what odd and even look at");
}

const std::map<std::string, JsonTest>& json_tests() {
  static const std::map<std::string, JsonTest> table = {
      {"none", [](const Json& value) { return value.is_null(); }},
      {"string", [](const Json& value) { return value.is_string(); }},
      {"mapping", [](const Json& value) { return value.is_object(); }},
      {"sequence", [](const Json& value) { return value.is_string() || value.is_structured(); }},
      {"iterable", [](const Json& value) { return value.is_string() || value.is_structured(); }},
      {"true", [](const Json& value) { return value.is_boolean() && value.get<bool>(); }},
      {"false", [](const Json& value) { return value.is_boolean() && !value.get<bool>(); }},
      {"boolean", [](const Json& value) { return value.is_boolean(); }},
      {"number", [](const Json& value) { return value.is_number() || value.is_boolean(); }},
      {"integer", [](const Json& value) { return value.is_number_integer(); }},
      {"float", [](const Json& value) { return value.is_number_float(); }},
      {"odd", [](const Json& value) { return remainder_by_two(value) == 1; }},
      {"even", [](const Json& value) { return remainder_by_two(value) == 0; }},
  };
  return table;
}

}  // namespace

Value apply_filter(const std::string& name, const Value& input, const Arguments& arguments) {
  if (name == "map") {
    return map_elements(input, arguments);
  }
  if (name == "format") {
    return format_by_percent(to_text(input), arguments);
  }
  return call_builtin(filters(), "filter", name, input, arguments);
}

bool apply_test(const std::string& name, const Value& input, const Arguments& arguments) {
  if (const auto comparison = comparison_tests().find(name);
      comparison != comparison_tests().end()) {
    const Bound bound = bind_arguments(fmt::format("test '{}'", name), arguments, {"other"});
    if (!bound[0]) {
      throw UserError(fmt::format("the test '{}' needs something to compare with", name));
    }
    return comparison->second(input, *bound[0]);
  }
  const bool defined = !std::holds_alternative<Undefined>(input);
  const auto found = json_tests().find(name);
  const bool asks_definition = name == "defined" || name == "undefined";
  if (!asks_definition && found == json_tests().end()) {
    throw UserError(fmt::format("the test '{}' is not supported", name));
  }
  bind_arguments(fmt::format("test '{}'", name), arguments, {});
  if (asks_definition) {
    return defined == (name == "defined");
  }
  if (!defined) {
    return name == "iterable" || name == "sequence";  // Undefined has a length and iterates
  }
  const Json* json = as_json(input);
  return json != nullptr && found->second(*json);
}

Value call_method(const Value& base, const std::string& name, const Arguments& arguments) {
  if (as_string(base) != nullptr) {
    if (name == "format") {
      return format_text(*as_string(base), arguments);
    }
    return call_builtin(string_methods(), "string method", name, base, arguments);
  }
  const Json& json = require_json(base);
  if (json.is_object()) {
    return call_builtin(dict_methods(), "dict method", name, base, arguments);
  }
  throw UserError(fmt::format("the method '{}' of a {} is not supported", name, type_name(base)));
}

Value call_function(const std::string& name, const Arguments& arguments,
                    const CalendarDate& today) {
  return functions().at(name)(arguments, today);
}

bool is_function(const std::string& name) {
  return functions().contains(name);
}

std::vector<std::optional<Value>> bind_arguments(const std::string& callee,
                                                 const Arguments& arguments,
                                                 const std::vector<std::string>& parameters) {
  if (arguments.positional.size() > parameters.size()) {
    throw UserError(fmt::format("the {} takes at most {} argument(s) here, not {}", callee,
                                parameters.size(), arguments.positional.size()));
  }
  Bound bound(parameters.size());
  std::copy(arguments.positional.begin(), arguments.positional.end(), bound.begin());
  for (const auto& [name, value] : arguments.named) {
    const auto found = std::find(parameters.begin(), parameters.end(), name);
    if (found == parameters.end()) {
      throw UserError(fmt::format("the argument '{}' of the {} is not supported", name, callee));
    }
    bound[static_cast<std::size_t>(found - parameters.begin())] = value;
  }
  return bound;
}

std::optional<Value> given(const std::optional<Value>& argument) {
  const bool is_none = argument && as_json(*argument) != nullptr && as_json(*argument)->is_null();
  return is_none ? std::nullopt : argument;
}

}  // namespace bipo::jinja
