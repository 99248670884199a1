#include "experiments/settings/option_values.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <system_error>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/template_variable.hpp"

namespace bipo {
namespace {

template <typename Number>
std::optional<Number> to_number(std::string_view text) {
  const bool explicit_plus = text.size() > 1 && text[0] == '+' && text[1] != '-';
  if (explicit_plus) {
    text.remove_prefix(1);
  }
  Number value{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end) {
    return std::nullopt;
  }
  return value;
}

bool in_range(double value, RealRange range) {
  switch (range) {
    case RealRange::kPositive:
      return value > 0;
    case RealRange::kNonNegative:
      return value >= 0;
    case RealRange::kShare:
      return value > 0 && value <= 1;
    case RealRange::kAny:
      break;
  }
  return true;
}

std::string real_rule(RealRange range) {
  switch (range) {
    case RealRange::kPositive:
      return "must be a finite number above 0";
    case RealRange::kNonNegative:
      return "must be a finite number, 0 or above";
    case RealRange::kShare:
      return "must be above 0 and at most 1";
    case RealRange::kAny:
      break;
  }
  return "must be a finite number";
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const auto end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) {
      return parts;
    }
    text.remove_prefix(end + 1);
  }
}

// Parses a comma separated list with `parse_one` for each value; an error includes that function's
// rule.
template <typename Parse>
auto parse_different(std::string_view text, Parse parse_one) {
  std::vector<decltype(parse_one(text))> values;
  for (const std::string_view part : split(text, ',')) {
    try {
      values.push_back(parse_one(part));
    } catch (const UserError& rule) {
      throw UserError(
          fmt::format("must be different values separated by commas, without blanks; '{}' {}", part,
                      rule.what()));
    }
    if (std::count(values.begin(), values.end(), values.back()) > 1) {
      throw UserError(fmt::format("must be different values; {} is given twice", values.back()));
    }
  }
  return values;
}

LayerRange parse_joint_layers(std::string_view text, const char* rule) {
  LayerRange range;
  for (const std::string_view part : split(text, '+')) {
    const auto number = to_number<std::int64_t>(part);
    if (!number || *number < 0) {
      throw UserError(fmt::format("{}; '{}' is not a layer", rule, part));
    }
    range.joint.push_back(*number);
  }
  std::sort(range.joint.begin(), range.joint.end());
  if (std::adjacent_find(range.joint.begin(), range.joint.end()) != range.joint.end()) {
    throw UserError(fmt::format("{}; '{}' has a layer twice", rule, text));
  }
  range.first = range.joint.front();
  range.last = range.first;
  return range;
}

LayerRange parse_layer_range(std::string_view text) {
  constexpr const char* kRule =
      "must be layers, from 0, separated by commas without blanks (N, FIRST:LAST or "
      "FIRST:LAST:STEP, both ends included, or 10+15+20, trained jointly), or all";
  if (text.find('+') != std::string_view::npos) {
    return parse_joint_layers(text, kRule);
  }
  const std::vector<std::string_view> parts = split(text, ':');
  std::vector<std::int64_t> numbers;
  for (const std::string_view part : parts) {
    const auto number = to_number<std::int64_t>(part);
    if (!number || *number < 0) {
      throw UserError(fmt::format("{}; '{}' is not a layer", kRule, part));
    }
    numbers.push_back(*number);
  }
  if (numbers.size() > 3) {
    throw UserError(fmt::format("{}; '{}' has {} parts", kRule, text, numbers.size()));
  }
  const LayerRange range{numbers.front(), numbers[numbers.size() > 1 ? 1 : 0],
                         numbers.size() > 2 ? numbers[2] : 1};
  if (range.last < range.first) {
    throw UserError(fmt::format("{}; '{}' ends before it begins", kRule, text));
  }
  if (range.step == 0) {
    throw UserError(fmt::format("{}; the step of '{}' is 0", kRule, text));
  }
  return range;
}

// Returns the exponent of two that a unit's letter means; 0 for any other character.
int unit_shift(char letter) {
  constexpr std::string_view kUnits = "KMGT";
  const char upper = static_cast<char>(std::toupper(static_cast<unsigned char>(letter)));
  const auto position = kUnits.find(upper);
  return position == std::string_view::npos ? 0 : 10 * (static_cast<int>(position) + 1);
}

bool is_file_name_character(char character) {
  return std::isalnum(static_cast<unsigned char>(character)) != 0 || character == '.' ||
         character == '_' || character == '-';
}

// Checks a name that the user gave: it becomes a part of file names.
std::string checked_name(std::string_view name) {
  if (name.empty() || name.front() == '.' ||
      !std::all_of(name.begin(), name.end(), is_file_name_character)) {
    throw UserError(fmt::format(
        "must have names of letters, digits, '.', '_' and '-', not '{}'; write NAME=PATH", name));
  }
  return std::string(name);
}

// Makes a name from the last component of a path.
std::string name_from(const std::filesystem::path& path) {
  std::string name = path.string();
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !is_file_name_character(c); }, '-');
  return checked_name(name);
}

// Splits NAME=REST; without a name, the whole text is the rest.
std::pair<std::optional<std::string_view>, std::string_view> split_name(std::string_view text) {
  const auto equals = text.find('=');
  if (equals == std::string_view::npos) {
    return {std::nullopt, text};
  }
  return {text.substr(0, equals), text.substr(equals + 1)};
}

std::filesystem::path some_path(std::string_view text) {
  if (text.empty()) {
    throw UserError("must name a path");
  }
  return text;
}

template <typename Named>
void require_different_names(const std::vector<Named>& values) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (values[i].name == values[j].name) {
        throw UserError(fmt::format(
            "must have different names; '{}' is given twice; write NAME=PATH to tell them apart",
            values[i].name));
      }
    }
  }
}

bool is_there(const std::filesystem::path& path) {
  std::error_code ignored;  // whoever reads the file says what is wrong with its path
  return std::filesystem::exists(path, ignored);
}

// A path may contain '@' itself: only a number after the last '@' is a weight.
void take_weight(VectorChoice& choice) {
  const std::string text = choice.file.string();
  const std::size_t at = text.rfind('@');
  const auto weight = at == std::string::npos
                          ? std::nullopt
                          : to_number<double>(std::string_view(text).substr(at + 1));
  if (weight && std::isfinite(*weight)) {
    choice.weight = *weight;
    choice.file = text.substr(0, at);
  }
}

// Nor is everything after a ':' a selection, unless a file of the shorter name is there.
void take_selection(VectorChoice& choice) {
  constexpr std::string_view kEpoch = "epoch=";
  const std::string text = choice.file.string();
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos) {
    return;
  }
  const std::string_view word = std::string_view(text).substr(colon + 1);
  const std::string file = text.substr(0, colon);
  const auto epoch =
      word.starts_with(kEpoch) ? to_number<std::int64_t>(word.substr(kEpoch.size())) : std::nullopt;
  if (word == "best") {
    choice.selection.kind = VectorSelection::Kind::kBest;
  } else if (word == "last") {
    choice.selection.kind = VectorSelection::Kind::kLast;
  } else if (epoch && *epoch >= 1) {
    choice.selection = {VectorSelection::Kind::kEpoch, *epoch};
  } else if (word.starts_with(kEpoch) || is_there(file)) {
    throw UserError(fmt::format(
        "must have one of best, last and epoch=N (N counted from 1) behind the file's ':', not "
        "'{}'; a weight comes last, {}:best@0.5",
        word, file));
  } else {
    return;
  }
  choice.file = file;
}

}  // namespace

std::int64_t parse_integer(std::string_view text, std::int64_t minimum) {
  const auto value = to_number<std::int64_t>(text);
  if (!value || *value < minimum) {
    const bool is_too_large = !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
      return c >= '0' && c <= '9';
    }) && !value;
    const bool is_list = text.find(',') != std::string_view::npos;
    throw UserError(is_too_large ? "must be at most 2^63 - 1"
                                 : fmt::format("must be {} whole number, {} or above",
                                               is_list ? "one" : "a", minimum));
  }
  return *value;
}

std::uint64_t parse_unsigned(std::string_view text) {
  const auto value = to_number<std::uint64_t>(text);
  if (!value) {
    throw UserError("must be a whole number from 0 to 2^64 - 1");
  }
  return *value;
}

double parse_real(std::string_view text, RealRange range) {
  const auto value = to_number<double>(text);
  if (!value || !std::isfinite(*value) || !in_range(*value, range)) {
    throw UserError(real_rule(range));
  }
  return *value;
}

std::vector<double> parse_real_list(std::string_view text) {
  constexpr const char* kRule =
      "must be different finite numbers separated by commas, without blanks";
  std::vector<double> values;
  for (const std::string_view part : split(text, ',')) {
    const auto value = to_number<double>(part);
    if (!value || !std::isfinite(*value)) {
      throw UserError(fmt::format("{}; '{}' is not a finite number", kRule, part));
    }
    if (std::find(values.begin(), values.end(), *value) != values.end()) {
      throw UserError(fmt::format("{}; {} is given twice", kRule, *value));
    }
    values.push_back(*value);
  }
  return values;
}

namespace {

constexpr const char* kLengthRule =
    "X must be a number above 0, or a share of the residual stream's norm: 3.5, 5%";

std::optional<Length> to_length(std::string_view text) {
  const bool is_percent = text.ends_with('%');
  const auto value = to_number<double>(text.substr(0, text.size() - (is_percent ? 1 : 0)));
  if (!value || !std::isfinite(*value) || !(*value > 0)) {
    return std::nullopt;
  }
  return Length{*value, is_percent};
}

}  // namespace

NormChoice parse_norm(std::string_view text) {
  if (text == "free") {
    return {};
  }
  const std::size_t colon = std::min(text.find(':'), text.size());
  const std::string_view rule = text.substr(0, colon);
  const auto length = to_length(text.substr(std::min(colon + 1, text.size())));
  if ((rule != "max" && rule != "fixed") || !length) {
    throw UserError(fmt::format("must be free, max:X or fixed:X; {}", kLengthRule));
  }
  return {rule == "max" ? NormRule::kMax : NormRule::kFixed, *length};
}

FactorChoice parse_factors(std::string_view text) {
  FactorChoice choice;
  if (text == "learned") {
    choice.is_learned = true;
    return choice;
  }
  try {
    choice.values = parse_positive_real_list(text);
  } catch (const UserError& rule) {
    throw UserError(fmt::format("must be learned, or {}", std::string_view(rule.what()).substr(8)));
  }
  return choice;
}

RandomStart parse_start(std::string_view text) {
  constexpr std::string_view kRandom = "random:";
  if (text == "zero") {
    return {};
  }
  const auto length =
      text.starts_with(kRandom) ? to_length(text.substr(kRandom.size())) : std::nullopt;
  if (!length) {
    throw UserError(fmt::format("must be zero or random:X; {}", kLengthRule));
  }
  return {*length};
}

std::int64_t parse_rank(std::string_view text) {
  const std::int64_t rank = parse_integer(text, 1);
  if (rank != 1) {
    throw UserError(fmt::format(
        "must be 1 with every objective here: each of them trains a vector that is added to all "
        "activations alike, and {} of those add up to one vector; a larger rank means something "
        "only where what is added depends on the activation, as in LoRA and LoReFT; leave it out, "
        "or give several blocks (--layer 10+15) a vector each",
        rank));
  }
  return rank;
}

double parse_smoothing(std::string_view text) {
  const auto share = to_number<double>(text);
  if (!share || !(*share >= 0 && *share < 0.5)) {
    throw UserError("must be at least 0 and below 0.5, where a label means nothing any more");
  }
  return *share;
}

double parse_part(std::string_view text) {
  const auto share = text == "half" ? std::optional(0.5) : to_number<double>(text);
  if (!share || !(*share > 0 && *share < 1)) {
    throw UserError("must be half, or a share above 0 and below 1");
  }
  return *share;
}

std::uint64_t parse_bytes(std::string_view text) {
  const int shift = text.empty() ? 0 : unit_shift(text.back());
  const auto count = to_number<std::uint64_t>(text.substr(0, text.size() - (shift > 0)));
  if (!count || *count > (std::numeric_limits<std::uint64_t>::max() >> shift)) {
    throw UserError(
        "must be a whole number of bytes, or one with K, M, G or T after it (powers of 1024)");
  }
  return *count << shift;
}

double parse_duration(std::string_view text) {
  constexpr std::string_view kUnits = "smh";
  constexpr double kSeconds[] = {1, 60, 3600};
  const std::size_t unit = text.empty() ? std::string_view::npos : kUnits.find(text.back());
  const bool has_unit = unit != std::string_view::npos;
  const auto count = to_number<double>(text.substr(0, text.size() - (has_unit ? 1 : 0)));
  const double seconds = count.value_or(-1) * (has_unit ? kSeconds[unit] : 1);
  if (!std::isfinite(seconds) || seconds < 0) {
    throw UserError(
        "must be seconds, or a number with s, m or h after it: 90, 90s, 10m; 0 or above");
  }
  return seconds;
}

CalendarDate parse_date(std::string_view text) {
  const auto date = parse_iso_date(text);
  if (!date) {
    throw UserError("must be a day of the calendar as YYYY-MM-DD");
  }
  return *date;
}

Warmup parse_warmup(std::string_view text) {
  const auto steps = to_number<std::int64_t>(text);
  if (steps && *steps >= 0) {
    return *steps;
  }
  const auto share = to_number<double>(text);
  if (!steps && share && *share >= 0 && *share < 1) {
    return *share;
  }
  throw UserError(
      "must be a share of the steps, below 1 and with a decimal point (0.1), or a whole number of "
      "steps (20)");
}

std::string parse_name(std::string_view text, const std::vector<std::string>& names) {
  if (std::find(names.begin(), names.end(), text) == names.end()) {
    throw UserError(fmt::format("must be one of {}", fmt::join(names, ", ")));
  }
  return std::string(text);
}

std::vector<double> parse_positive_real_list(std::string_view text) {
  return parse_different(
      text, [](std::string_view part) { return parse_real(part, RealRange::kPositive); });
}

std::vector<double> parse_non_negative_real_list(std::string_view text) {
  return parse_different(
      text, [](std::string_view part) { return parse_real(part, RealRange::kNonNegative); });
}

std::vector<double> parse_smoothing_list(std::string_view text) {
  return parse_different(text, parse_smoothing);
}

std::vector<std::uint64_t> parse_unsigned_list(std::string_view text) {
  return parse_different(text, parse_unsigned);
}

std::vector<std::int64_t> parse_positive_integer_list(std::string_view text) {
  return parse_different(text, [](std::string_view part) { return parse_integer(part, 1); });
}

std::vector<std::int64_t> parse_block_list(std::string_view text) {
  return parse_different(text, [](std::string_view part) { return parse_integer(part, 0); });
}

std::vector<std::string> parse_name_list(std::string_view text,
                                         const std::vector<std::string>& names) {
  return parse_different(text, [&](std::string_view part) { return parse_name(part, names); });
}

std::vector<NamedModel> parse_models(std::string_view text) {
  std::vector<NamedModel> models;
  for (const std::string_view part : split(text, ',')) {
    const auto [name, rest] = split_name(part);
    const std::filesystem::path directory = some_path(rest);
    // "DIR/" names the same directory as "DIR", but its last component is empty.
    const std::filesystem::path plain = std::filesystem::absolute(directory).lexically_normal();
    const std::filesystem::path last =
        plain.has_filename() ? plain.filename() : plain.parent_path().filename();
    models.push_back({name ? checked_name(*name) : name_from(last), directory});
  }
  require_different_names(models);
  return models;
}

std::string data_name(const std::filesystem::path& train) {
  return name_from(train.stem());
}

std::vector<NamedData> parse_data_sets(std::string_view text) {
  std::vector<NamedData> sets;
  for (const std::string_view part : split(text, ',')) {
    const auto [name, rest] = split_name(part);
    const std::vector<std::string_view> files = split(rest, ':');
    if (files.size() > 2) {
      throw UserError(
          fmt::format("must be TRAIN or TRAIN:TEST, each with or without NAME= before it; '{}' has "
                      "{} files",
                      part, files.size()));
    }
    NamedData set;
    set.train = some_path(files.front());
    set.test = files.size() == 2 ? some_path(files.back()) : std::filesystem::path();
    set.name = name ? checked_name(*name) : data_name(set.train);
    sets.push_back(std::move(set));
  }
  require_different_names(sets);
  return sets;
}

SteeredLayers parse_layers(std::string_view text) {
  const char separator = text.find('+') == std::string_view::npos ? ',' : '+';
  std::vector<std::int64_t> layers;
  for (const std::string_view part : split(text, separator)) {
    const auto layer = to_number<std::int64_t>(part);
    if (!layer || *layer < 0) {
      throw UserError(
          "must be a whole number, 0 or above, or several that are trained jointly, separated by "
          "commas without blanks (10,15,20) or, as in a sweep, by + (10+15+20); `bipo-dist sweep "
          "--layers` trains a vector for each of several layers by itself");
    }
    layers.push_back(*layer);
  }
  std::sort(layers.begin(), layers.end());
  const auto twice = std::adjacent_find(layers.begin(), layers.end());
  if (twice != layers.end()) {
    throw UserError(fmt::format("must be different layers; {} is given twice", *twice));
  }
  return SteeredLayers(std::move(layers));
}

std::vector<LayerRange> parse_layer_ranges(std::string_view text) {
  std::vector<LayerRange> ranges;
  if (text != "all") {
    for (const std::string_view part : split(text, ',')) {
      ranges.push_back(parse_layer_range(part));
    }
  }
  return ranges;
}

std::pair<std::string, nlohmann::ordered_json> parse_template_arg(const std::string& text) {
  const std::size_t equals = text.find('=');
  const std::string name = text.substr(0, equals);
  const bool is_identifier =
      !name.empty() && std::isdigit(static_cast<unsigned char>(name.front())) == 0 &&
      std::all_of(name.begin(), name.end(),
                  [](unsigned char letter) { return std::isalnum(letter) != 0 || letter == '_'; });
  if (equals == std::string::npos || !is_identifier) {
    throw UserError("must be NAME=JSON, such as enable_thinking=false");
  }
  if (is_parameter_of_rendering(name)) {
    throw UserError(fmt::format("{} is no variable that a template can be given", name));
  }
  const std::string json = text.substr(equals + 1);
  auto value = nlohmann::ordered_json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) {
    throw UserError(
        fmt::format("'{}' is not JSON: write true, false, null, a number, a text in double quotes "
                    "(in a shell: '{}=\"{}\"'), a list or an object",
                    json, name, json));
  }
  return {name, std::move(value)};
}

VectorChoice parse_vector_choice(const std::string& text) {
  VectorChoice choice;
  choice.file = text;
  if (!is_there(choice.file)) {
    take_weight(choice);
  }
  if (!is_there(choice.file)) {
    take_selection(choice);
  }
  if (choice.file.empty()) {
    throw UserError("must name a run file: FILE, FILE:best, FILE:epoch=3, each also with @WEIGHT");
  }
  return choice;
}

GateChoice parse_gate(const std::string& text) {
  constexpr const char* kRule =
      "must be a run file and a threshold, FILE:THRESHOLD, with a finite number behind the last "
      "colon: harmful.h5:0.5";
  const std::size_t colon = text.rfind(':');
  const auto threshold =
      colon == std::string::npos ? std::nullopt : to_number<double>(text.substr(colon + 1));
  if (!threshold || !std::isfinite(*threshold) || colon == 0) {
    throw UserError(kRule);
  }
  const GateChoice gate{parse_vector_choice(text.substr(0, colon)), *threshold};
  if (gate.vector.weight != 1) {
    throw UserError("takes no @WEIGHT: a gate's vector has a direction only");
  }
  return gate;
}

std::vector<std::string> parse_positions_list(std::string_view text) {
  return parse_different(text,
                         [](std::string_view part) { return to_string(parse_positions(part)); });
}

}  // namespace bipo
