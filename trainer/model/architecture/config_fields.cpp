#include "trainer/model/architecture/config_fields.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <string_view>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/input_file.hpp"
#include "datasets/text/untrusted_json.hpp"

namespace bipo {
namespace {

using Json = nlohmann::json;

// Far above any model's sizes; products of two sizes do not overflow.
constexpr std::int64_t kLargestSize = std::int64_t{1} << 24;

// Puts numbers that JSON does not have, which Python's json module writes all the same, between
// quotes: a key that nothing reads (time limits of state spaces are infinite) is then no reason to
// refuse the file, and a key that is read is refused by its name.
std::string with_quoted_numbers(std::string_view json) {
  constexpr std::array<std::string_view, 3> kWords = {"-Infinity", "Infinity", "NaN"};
  std::string result;
  while (!json.empty()) {
    const std::size_t at =
        find_outside_strings(json, [](char c) { return c == '-' || c == 'I' || c == 'N'; });
    result += json.substr(0, at);
    json.remove_prefix(at);
    const auto* word = std::find_if(kWords.begin(), kWords.end(), [&](std::string_view candidate) {
      return json.starts_with(candidate);
    });
    const std::size_t taken =
        word == kWords.end() ? std::min<std::size_t>(json.size(), 1) : word->size();
    result +=
        word == kWords.end() ? std::string(json.substr(0, taken)) : fmt::format("\"{}\"", *word);
    json.remove_prefix(taken);
  }
  return result;
}

Json parsed(const std::filesystem::path& path) {
  std::error_code unreachable;
  if (!std::filesystem::exists(path, unreachable)) {
    throw UserError(
        fmt::format("{}: cannot be read; --model takes a Hugging Face model directory "
                    "(config.json, tokenizer.json, *.safetensors) or a GGUF file",
                    path.string()));
  }
  const std::string text = with_quoted_numbers(read_input_file(path, kMostSettingsBytes));
  Json json = parse_untrusted_json(text, path.string(), "get the model again");
  if (!json.is_object()) {
    throw UserError(fmt::format("{}: not a JSON object", path.string()));
  }
  return json;
}

bool holds_nothing(const Json& value) {
  return value.is_null() || value == false || value == 0 ||
         ((value.is_string() || value.is_structured()) && (value.empty() || value == ""));
}

}  // namespace

ConfigFields::ConfigFields(const std::filesystem::path& path)
    : ConfigFields(path, "", parsed(path)) {
}

ConfigFields::ConfigFields(std::filesystem::path path, std::string prefix, Json json)
    : path_(std::move(path)), prefix_(std::move(prefix)), json_(std::move(json)) {
}

std::string ConfigFields::located(const std::string& what) const {
  return fmt::format("{}: {}{}", path_.string(), prefix_, what);
}

void ConfigFields::refuse(const std::string& what) const {
  throw UserError(located(what));
}

ConfigFields ConfigFields::part(std::string prefix, Json values) const {
  return {path_, std::move(prefix), std::move(values)};
}

std::vector<std::string> ConfigFields::unread() const {
  std::vector<std::string> names;
  for (const auto& [name, value] : json_.items()) {
    if (!read_.contains(name) && !holds_nothing(value)) {
      names.push_back(name);
    }
  }
  return names;
}

std::string ConfigFields::shown(const std::string& name) const {
  constexpr std::size_t kLongest = 60;
  std::string value = json_.at(name).dump(-1, ' ', /*ensure_ascii=*/true);
  if (value.size() > kLongest) {
    value = value.substr(0, std::min(kLongest, value.find_last_of(" ,", kLongest))) + "...";
  }
  return fmt::format("\"{}\": {}", name, value);
}

bool ConfigFields::has(const char* name) const {
  read_.insert(name);
  return json_.contains(name) && !json_.at(name).is_null();
}

const Json& ConfigFields::at(const char* name) const {
  if (!has(name)) {
    refuse(fmt::format("\"{}\" is missing", name));
  }
  return json_.at(name);
}

std::int64_t ConfigFields::size(const char* name) const {
  const Json& value = at(name);
  const bool fits = value.is_number_integer() &&
                    (!value.is_number_unsigned() || value.get<std::uint64_t>() <= kLargestSize);
  const std::int64_t number = fits ? value.get<std::int64_t>() : 0;
  if (number < 1 || number > kLargestSize) {
    refuse(fmt::format("\"{}\" is {}, must be a positive integer, at most {}", name, value.dump(),
                       kLargestSize));
  }
  return number;
}

std::int64_t ConfigFields::size_or(const char* name, std::int64_t otherwise) const {
  return has(name) ? size(name) : otherwise;
}

std::int64_t ConfigFields::count_or(const char* name, std::int64_t otherwise) const {
  return has(name) && at(name) == 0 ? 0 : size_or(name, otherwise);
}

double ConfigFields::positive(const char* name) const {
  const Json& value = at(name);
  if (!value.is_number()) {
    refuse(fmt::format("\"{}\" must be a number", name));
  }
  const auto number = value.get<double>();
  if (!(number > 0) || !std::isfinite(number)) {
    refuse(fmt::format("\"{}\" is {}, must be positive", name, value.dump()));
  }
  return number;
}

double ConfigFields::positive_or(const char* name, double otherwise) const {
  return has(name) ? positive(name) : otherwise;
}

bool ConfigFields::is_null(const char* name) const {
  return json_.contains(name) && json_.at(name).is_null();
}

std::int64_t ConfigFields::size_unless_null(const char* name, std::int64_t otherwise) const {
  return size_or(name, is_null(name) ? 0 : otherwise);
}

double ConfigFields::positive_unless_null(const char* name, double otherwise) const {
  return positive_or(name, is_null(name) ? 0 : otherwise);
}

bool ConfigFields::truth_or(const char* name, bool otherwise) const {
  if (!has(name)) {
    return otherwise;
  }
  if (!at(name).is_boolean()) {
    refuse(fmt::format("\"{}\" must be true or false", name));
  }
  return at(name).get<bool>();
}

std::optional<std::string> ConfigFields::text(const char* name) const {
  if (!has(name)) {
    return std::nullopt;
  }
  if (!at(name).is_string()) {
    refuse(fmt::format("\"{}\" must be a string", name));
  }
  return at(name).get<std::string>();
}

std::vector<std::string> ConfigFields::texts(const char* name) const {
  std::vector<std::string> result;
  const Json& list = at(name);
  for (const Json& element : list.is_array() ? list : Json::array({nullptr})) {
    if (!element.is_string()) {
      refuse(fmt::format("\"{}\" must be a list of strings", name));
    }
    result.push_back(element.get<std::string>());
  }
  return result;
}

std::vector<double> ConfigFields::positives(const char* name) const {
  std::vector<double> result;
  const Json& list = at(name);
  for (const Json& element : list.is_array() ? list : Json::array({nullptr})) {
    const double number = element.is_number() ? element.get<double>() : 0;
    if (!(number > 0) || !std::isfinite(number)) {
      refuse(fmt::format("\"{}\" must be a list of positive numbers", name));
    }
    result.push_back(number);
  }
  return result;
}

ConfigFields ConfigFields::object(const char* name) const {
  const Json& value = at(name);
  if (!value.is_object()) {
    refuse(fmt::format("\"{}\" must be an object", name));
  }
  return {path_, fmt::format("{}\"{}\": ", prefix_, name), value};
}

void ConfigFields::require(const char* name, const Json& value) const {
  if (has(name) && json_.at(name) != value) {
    refuse(fmt::format("\"{}\": {} is not supported (only {})", name, json_.at(name).dump(),
                       value.dump()));
  }
}

}  // namespace bipo
