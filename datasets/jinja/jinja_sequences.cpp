#include "datasets/jinja/jinja_sequences.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "datasets/text/unicode_text.hpp"

namespace bipo::jinja {
namespace {

constexpr double kIntegersEnd = 9223372036854775808.0;  // 2^63
constexpr std::int64_t kMostDigits = 15;                // of round(), well within a double
constexpr std::int64_t kWidestIndent = 10000;
constexpr std::size_t kMostUnique = 2000;  // each is compared with all others

bool is_true(const std::optional<Value>& given) {
  return given && is_truthy(*given);
}

const Json& defined_json(const Value& value) {
  if (const auto* undefined = std::get_if<Undefined>(&value)) {
    throw UserError(undefined->why);
  }
  return require_json(value);
}

bool is_digit(char character) {
  return character >= '0' && character <= '9';
}

// Returns the text without the underscores that Python allows between digits; nullopt where one
// stands elsewhere.
std::optional<std::string> without_underscores(std::string_view text) {
  std::string digits;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (text[at] != '_') {
      digits += text[at];
    } else if (at == 0 || at + 1 == text.size() || !is_digit(text[at - 1]) ||
               !is_digit(text[at + 1])) {
      return std::nullopt;
    }
  }
  return digits;
}

// Returns what Python's int() reads in ASCII text; nullopt where it raises ValueError.
std::optional<std::int64_t> integer_in(std::string_view text) {
  const auto digits = without_underscores(strip(text, Side::kBoth));
  if (!digits || digits->empty()) {
    return std::nullopt;
  }
  std::string_view rest = *digits;
  const bool has_plus = rest.front() == '+';
  rest.remove_prefix(has_plus ? 1 : 0);
  if (rest.empty() || (has_plus && !is_digit(rest.front()))) {
    return std::nullopt;
  }
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
  if (error == std::errc::result_out_of_range) {
    throw UserError(fmt::format("the integer {} is too large", rest));
  }
  return error == std::errc() && end == rest.data() + rest.size() ? std::optional(value)
                                                                  : std::nullopt;
}

// Returns what Python's float() reads in ASCII text; nullopt where it raises ValueError.
std::optional<double> float_in(std::string_view text) {
  const auto digits = without_underscores(strip(text, Side::kBoth));
  if (!digits || digits->empty()) {
    return std::nullopt;
  }
  std::string_view rest = *digits;
  const bool has_plus = rest.front() == '+';
  rest.remove_prefix(has_plus ? 1 : 0);
  const std::size_t sign = !rest.empty() && rest.front() == '-' ? 1 : 0;
  if (rest.size() == sign || (has_plus && sign == 1)) {
    return std::nullopt;
  }
  if (!is_digit(rest[sign]) && rest[sign] != '.') {
    throw UserError(fmt::format("'{}' as a float is not supported", text));  // inf, nan, words
  }
  double value = 0;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
  if (error == std::errc::result_out_of_range) {
    throw UserError(fmt::format("the number {} is out of range", rest));
  }
  return error == std::errc() && end == rest.data() + rest.size() ? std::optional(value)
                                                                  : std::nullopt;
}

std::int64_t truncated(double value) {
  if (!(std::abs(value) < kIntegersEnd)) {
    throw UserError("a float beyond 64-bit integers cannot be made an integer");
  }
  return static_cast<std::int64_t>(value);
}

Value integer_of(const Value& input, const Bound& bound) {
  if (bound[1] && !are_equal(*bound[1], Json(10))) {
    throw UserError("the filter 'int' with another base than 10 is not supported");
  }
  const Value otherwise = bound[0].value_or(Value(Json(0)));
  const Json& value = defined_json(input);
  if (value.is_boolean()) {
    return Json(value.get<bool>() ? 1 : 0);
  }
  if (value.is_number_integer()) {
    return value;
  }
  if (value.is_number_float()) {
    return Json(truncated(value.get<double>()));
  }
  if (!value.is_string()) {
    return otherwise;
  }
  const std::string& text = value.get_ref<const std::string&>();
  if (!is_ascii(text)) {
    throw UserError(fmt::format("'{}' as an integer is supported for ASCII only", text));
  }
  if (const auto integer = integer_in(text)) {
    return Json(*integer);
  }
  const std::string_view stripped = strip(text, Side::kBoth);
  const bool may_be_float =
      std::any_of(stripped.begin(), stripped.end(), is_digit) || stripped.empty();
  const auto real = may_be_float ? float_in(text) : std::nullopt;
  return real ? Value(Json(truncated(*real))) : otherwise;
}

Value float_of(const Value& input, const Bound& bound) {
  const Value otherwise = bound[0].value_or(Value(Json(0.0)));
  const Json& value = defined_json(input);
  if (value.is_boolean()) {
    return Json(value.get<bool>() ? 1.0 : 0.0);
  }
  if (value.is_number()) {
    return Json(value.get<double>());
  }
  if (!value.is_string()) {
    return otherwise;
  }
  const std::string& text = value.get_ref<const std::string&>();
  if (!is_ascii(text)) {
    throw UserError(fmt::format("'{}' as a float is supported for ASCII only", text));
  }
  const auto real = float_in(text);
  return real ? Value(Json(*real)) : otherwise;
}

Value absolute(const Value& input, const Bound&) {
  const Json& value = defined_json(input);
  if (value.is_number_float()) {
    return Json(std::abs(value.get<double>()));
  }
  const std::int64_t integer = require_integer(input, "what abs takes");
  return integer < 0 ? arithmetic("-", Json(0), Json(integer)) : Value(Json(integer));
}

Value rounded(const Value& input, const Bound& bound) {
  const std::int64_t digits = bound[0] ? require_integer(*bound[0], "the precision of round") : 0;
  const std::string method = bound[1] ? to_text(*bound[1]) : "common";
  if (digits < 0 || digits > kMostDigits) {
    throw UserError(fmt::format("round with a precision of {} is not supported", digits));
  }
  const Json& value = defined_json(input);
  if (!value.is_number()) {
    throw UserError(fmt::format("round needs a number, not {}", type_name(input)));
  }
  if (method == "common") {
    if (!value.is_number_float()) {
      return value;
    }
    // Python rounds the decimal digits of the number, halves to even, as printing does.
    const std::string text = fmt::format("{:.{}f}", value.get<double>(), digits);
    double result = 0;
    std::from_chars(text.data(), text.data() + text.size(), result);
    return Json(result);
  }
  if (method != "ceil" && method != "floor") {
    throw UserError("the method of round must be common, ceil or floor");
  }
  const double scale = std::pow(10.0, static_cast<double>(digits));
  const double scaled = value.get<double>() * scale;
  return Json((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

// Lets texts compare without regard to case, unless that is asked for.
Value sort_key(const Json& element, const std::optional<Value>& attribute, bool case_sensitive) {
  Value key = attribute ? attribute_at(element, to_text(*attribute)) : Value(element);
  if (const std::string* text = as_string(key); text != nullptr && !case_sensitive) {
    return apply_filter("lower", key, {});
  }
  return key;
}

void refuse_several_attributes(const std::optional<Value>& attribute) {
  if (attribute && to_text(*attribute).find(',') != std::string::npos) {
    throw UserError("sort by several attributes is not supported");
  }
}

using Keyed = std::vector<std::pair<Value, Json>>;

Keyed with_keys(const Value& input, const std::optional<Value>& attribute, bool case_sensitive) {
  Keyed keyed;
  for (const Json& element : elements_of(input)) {
    keyed.emplace_back(sort_key(element, attribute, case_sensitive), element);
  }
  return keyed;
}

Value sorted(const Value& input, const Bound& bound) {
  refuse_several_attributes(given(bound[2]));
  Keyed keyed = with_keys(input, given(bound[2]), is_true(bound[1]));
  const bool reverse = is_true(bound[0]);
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return reverse ? is_less(b.first, a.first) : is_less(a.first, b.first);
  });
  Json result = Json::array();
  for (auto& [key, element] : keyed) {
    result.push_back(std::move(element));
  }
  return result;
}

Value unique(const Value& input, const Bound& bound) {
  Json result = Json::array();
  std::vector<Value> seen;
  for (auto& [key, element] : with_keys(input, given(bound[1]), is_true(bound[0]))) {
    const bool is_new = std::none_of(seen.begin(), seen.end(), [&key = key](const Value& other) {
      return are_equal(key, other);
    });
    if (is_new) {
      if (seen.size() == kMostUnique) {
        throw UserError(
            fmt::format("unique of more than {} elements is not supported", kMostUnique));
      }
      seen.push_back(std::move(key));
      result.push_back(std::move(element));
    }
  }
  return result;
}

Value reversed(const Value& input, const Bound&) {
  if (as_string(input) != nullptr) {
    return slice_of(input, std::nullopt, std::nullopt, -1);
  }
  auto elements = elements_of(input);
  std::reverse(elements.begin(), elements.end());
  return Json(std::move(elements));
}

Value summed(const Value& input, const Bound& bound) {
  const auto attribute = given(bound[0]);
  Value sum = bound[1].value_or(Value(Json(0)));
  for (const Json& element : elements_of(input)) {
    sum = arithmetic("+", sum,
                     attribute ? attribute_at(element, to_text(*attribute)) : Value(element));
  }
  return sum;
}

// Returns the filter `min` or `max`.
Builtin extreme(bool is_max) {
  return {{"case_sensitive", "attribute"}, [is_max](const Value& input, const Bound& bound) {
            const Keyed keyed = with_keys(input, given(bound[1]), is_true(bound[0]));
            if (keyed.empty()) {
              return Value(Undefined{"an empty sequence has no smallest or largest element"});
            }
            const auto* best = &keyed.front();
            for (const auto& entry : keyed) {
              if (is_max ? is_less(best->first, entry.first) : is_less(entry.first, best->first)) {
                best = &entry;
              }
            }
            return Value(best->second);
          }};
}

// Returns the lines of `text` without their ends; Python cuts at more characters than "\n".
std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::string line;
  bool after_return = false;
  bool open = false;
  for (const std::string& character : code_points(text)) {
    const bool ends =
        (character.size() == 1 && ((character[0] >= '\n' && character[0] <= '\r') ||
                                   (character[0] >= '\x1c' && character[0] <= '\x1e'))) ||
        character == "\u0085" || character == "\u2028" || character == "\u2029";
    const bool second_half = after_return && character == "\n";
    after_return = character == "\r";
    if (second_half) {
      continue;
    }
    if (ends) {
      lines.push_back(std::exchange(line, {}));
    } else {
      line += character;
    }
    open = !ends;
  }
  if (open) {
    lines.push_back(line);
  }
  return lines;
}

Value indented(const Value& input, const Bound& bound) {
  std::string margin = "    ";
  if (bound[0] && as_string(*bound[0]) != nullptr) {
    margin = *as_string(*bound[0]);
  } else if (bound[0]) {
    const std::int64_t width = require_integer(*bound[0], "the width of indent");
    margin.assign(static_cast<std::size_t>(std::clamp<std::int64_t>(width, 0, kWidestIndent)), ' ');
  }
  // Jinja2 adds a line end, so that a last empty line counts.
  const std::vector<std::string> lines = lines_of(to_text(input) + "\n");
  std::string text;
  for (std::size_t index = 0; index < lines.size(); ++index) {
    const bool moves = index == 0 ? is_true(bound[1]) : is_true(bound[2]) || !lines[index].empty();
    text += (index == 0 ? "" : "\n") + (moves ? margin : "") + lines[index];
    require_reasonable_size(text.size());
  }
  return Json(text);
}

// Returns the position in characters of the byte `at`; -1 for none.
std::int64_t character_index(const std::string& text, std::size_t at) {
  return at == std::string::npos
             ? -1
             : static_cast<std::int64_t>(code_points(text.substr(0, at)).size());
}

const std::string& searched(const Bound& bound, std::string_view method) {
  if (!bound[0] || as_string(*bound[0]) == nullptr) {
    throw UserError(fmt::format("what {} looks for must be a string", method));
  }
  return *as_string(*bound[0]);
}

std::int64_t occurrences(const std::string& text, const std::string& part) {
  if (part.empty()) {
    return static_cast<std::int64_t>(code_points(text).size()) + 1;
  }
  std::int64_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos;
       at = text.find(part, at + part.size())) {
    ++count;
  }
  return count;
}

std::string argument_text(const Arguments& arguments, std::size_t index) {
  if (index >= arguments.positional.size()) {
    throw UserError(fmt::format("format has no argument {}", index));
  }
  return to_text(arguments.positional[index]);
}

}  // namespace

Value attribute_at(const Json& element, const std::string& path) {
  Value value = element;
  std::size_t begin = 0;
  while (true) {
    const std::size_t end = std::min(path.find('.', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    const auto index = !part.empty() && std::all_of(part.begin(), part.end(), is_digit)
                           ? integer_in(part)
                           : std::nullopt;
    value = index ? item_of(value, Json(*index)) : attribute_of(value, part);
    if (end == path.size()) {
      return value;
    }
    begin = end + 1;
  }
}

const Builtins& sequence_filters() {
  static const Builtins table = {
      {"int", {{"default", "base"}, integer_of}},
      {"float", {{"default"}, float_of}},
      {"abs", {{}, absolute}},
      {"round", {{"precision", "method"}, rounded}},
      {"sort", {{"reverse", "case_sensitive", "attribute"}, sorted}},
      {"unique", {{"case_sensitive", "attribute"}, unique}},
      {"reverse", {{}, reversed}},
      {"sum", {{"attribute", "start"}, summed}},
      {"min", extreme(false)},
      {"max", extreme(true)},
      {"indent", {{"width", "first", "blank"}, indented}},
  };
  return table;
}

const Builtins& text_methods() {
  static const Builtins table = {
      {"find",
       {{"sub"},
        [](const Value& base, const Bound& bound) {
          const std::string& text = *as_string(base);
          return Json(character_index(text, text.find(searched(bound, "find"))));
        }}},
      {"rfind",
       {{"sub"},
        [](const Value& base, const Bound& bound) {
          const std::string& text = *as_string(base);
          return Json(character_index(text, text.rfind(searched(bound, "rfind"))));
        }}},
      {"count",
       {{"sub"},
        [](const Value& base, const Bound& bound) {
          return Json(occurrences(*as_string(base), searched(bound, "count")));
        }}},
      {"splitlines",
       {{}, [](const Value& base, const Bound&) { return Json(lines_of(*as_string(base))); }}},
      {"join",
       {{"iterable"},
        [](const Value& base, const Bound& bound) {
          if (!bound[0]) {
            throw UserError("join needs what it joins");
          }
          const auto parts = elements_of(*bound[0]);
          for (const Json& part : parts) {
            if (!part.is_string()) {
              throw UserError(fmt::format("join needs strings, not {}", type_name(Value(part))));
            }
          }
          return apply_filter("join", *bound[0], {{base}, {}});
        }}},
      {"removeprefix",
       {{"prefix"},
        [](const Value& base, const Bound& bound) {
          const std::string& text = *as_string(base);
          const std::string& prefix = searched(bound, "removeprefix");
          return Json(text.starts_with(prefix) ? text.substr(prefix.size()) : text);
        }}},
      {"removesuffix",
       {{"suffix"},
        [](const Value& base, const Bound& bound) {
          const std::string& text = *as_string(base);
          const std::string& suffix = searched(bound, "removesuffix");
          return Json(text.ends_with(suffix) ? text.substr(0, text.size() - suffix.size()) : text);
        }}},
  };
  return table;
}

Json format_text(const std::string& text, const Arguments& arguments) {
  std::string result;
  std::size_t automatic = 0;
  bool counts = false;
  bool numbers = false;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char character = text[at];
    const bool doubled = at + 1 < text.size() && text[at + 1] == character;
    if (character != '{' && character != '}') {
      result += character;
      continue;
    }
    if (doubled) {
      result += character;
      ++at;
      continue;
    }
    const std::size_t end = text.find('}', at);
    if (character == '}' || end == std::string::npos) {
      throw UserError(fmt::format("a single '{}' in the text of format", character));
    }
    const std::string field = text.substr(at + 1, end - at - 1);
    at = end;
    if (field.find_first_of("!:.[{") != std::string::npos) {
      throw UserError(fmt::format("the field '{{{}}}' of format is not supported", field));
    }
    if (field.empty()) {
      counts = true;
      result += argument_text(arguments, automatic++);
    } else if (std::all_of(field.begin(), field.end(), is_digit)) {
      numbers = true;
      result += argument_text(arguments, static_cast<std::size_t>(integer_in(field).value_or(0)));
    } else {
      const auto found =
          std::find_if(arguments.named.begin(), arguments.named.end(),
                       [&](const auto& argument) { return argument.first == field; });
      if (found == arguments.named.end()) {
        throw UserError(fmt::format("format has no argument '{}'", field));
      }
      result += to_text(found->second);
    }
    if (counts && numbers) {
      throw UserError("format mixes fields with and without numbers");
    }
    require_reasonable_size(result.size());
  }
  return Json(result);
}

Json format_by_percent(const std::string& text, const Arguments& arguments) {
  if (!arguments.named.empty()) {
    throw UserError("the filter 'format' with named arguments is not supported");
  }
  std::string result;
  std::size_t used = 0;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (text[at] != '%') {
      result += text[at];
      continue;
    }
    const char directive = ++at < text.size() ? text[at] : '\0';
    if (directive == '%') {
      result += '%';
    } else if (directive == 's') {
      result += argument_text(arguments, used++);
    } else if (directive == 'd' && used < arguments.positional.size()) {
      const Json& number = defined_json(arguments.positional[used++]);
      if (!number.is_number() && !number.is_boolean()) {
        throw UserError("%d of the filter 'format' needs a number");
      }
      result += to_text(integer_of(number, {std::nullopt, std::nullopt}));
    } else {
      throw UserError(fmt::format("'%{}' in the filter 'format' is not supported", directive));
    }
    require_reasonable_size(result.size());
  }
  if (used != arguments.positional.size()) {
    throw UserError(fmt::format("the filter 'format' has {} argument(s), but the text uses {}",
                                arguments.positional.size(), used));
  }
  return Json(result);
}

Json map_elements(const Value& input, const Arguments& arguments) {
  Json mapped = Json::array();
  if (!arguments.positional.empty()) {
    const std::string* filter = as_string(arguments.positional.front());
    if (filter == nullptr) {
      throw UserError("map needs the name of a filter, or attribute=...");
    }
    Arguments rest = arguments;
    rest.positional.erase(rest.positional.begin());
    for (const Json& element : elements_of(input)) {
      mapped.push_back(require_json(apply_filter(*filter, element, rest)));
    }
    return mapped;
  }
  const Bound bound = bind_arguments("filter 'map'", arguments, {"attribute", "default"});
  if (!bound[0]) {
    throw UserError("map needs the name of a filter, or attribute=...");
  }
  for (const Json& element : elements_of(input)) {
    const Value value = attribute_at(element, to_text(*bound[0]));
    const bool is_missing = std::holds_alternative<Undefined>(value);
    mapped.push_back(defined_json(is_missing ? given(bound[1]).value_or(value) : value));
  }
  return mapped;
}

}  // namespace bipo::jinja
