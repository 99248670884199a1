// One setting, described once: the description yields the option, the INI key, the help line, the
// row of the start-up table, the stored JSON value, and whether resume compares it.
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "experiments/progress/progress.hpp"
#include "experiments/settings/option_values.hpp"
#include "experiments/settings/settings.hpp"

namespace bipo {

// Returns the names of an enumeration's values, in the order of their declaration, which is the
// help's.
template <typename Enum>
const std::vector<std::string>& names_of();
template <>
const std::vector<std::string>& names_of<Dtype>();
template <>
const std::vector<std::string>& names_of<DeviceKind>();
template <>
const std::vector<std::string>& names_of<Kernels>();
template <>
const std::vector<std::string>& names_of<Attention>();
template <>
const std::vector<std::string>& names_of<CudaGraphs>();
template <>
const std::vector<std::string>& names_of<LrUnit>();
template <>
const std::vector<std::string>& names_of<Select>();
template <>
const std::vector<std::string>& names_of<ExtractMethod>();
template <>
const std::vector<std::string>& names_of<ObjectiveKind>();
template <>
const std::vector<std::string>& names_of<Reduction>();
template <>
const std::vector<std::string>& names_of<Schedule>();
template <>
const std::vector<std::string>& names_of<NormRule>();
template <>
const std::vector<std::string>& names_of<SignRule>();
template <>
const std::vector<std::string>& names_of<AnswerPairs>();
template <>
const std::vector<std::string>& names_of<OnDuplicate>();
template <>
const std::vector<std::string>& names_of<Site>();
template <>
const std::vector<std::string>& names_of<BosRule>();
template <>
const std::vector<std::string>& names_of<TrainTurns>();
template <>
const std::vector<std::string>& names_of<ProgressStyle>();

template <typename Enum>
const std::string& name_of(Enum value) {
  return names_of<Enum>().at(static_cast<std::size_t>(value));
}

// Whether a setting shapes the result: resume compares kResult, stores kPlacement for the record
// only (where the work happens, file names), and never sees kNotStored.
enum class Effect { kResult, kPlacement, kNotStored };

// Which paths a value may be, for the completion of shells.
enum class PathKind { kNone, kFiles, kDirectories };

// Judges by the name of the value: DIR is a directory, FILE or DIR|FILE a file (in some directory).
PathKind path_kind_of(std::string_view value_name);

struct Field {
  std::string name;         // names the option and the INI key; stored with '_' for '-'
  std::string value_name;   // empty: a flag
  std::string description;  // without the default
  std::string fallback;     // the default as the help names it; empty: none is shown
  // Checks a text and stores it in the settings that this field was made for.  Throws UserError
  // with the rule that the text breaks.
  std::function<void(const std::string& text)> set;
  std::function<nlohmann::ordered_json()> value;  // the current value as files store it
  std::function<std::string()> text;              // the current value as a person reads it
  Effect effect = Effect::kResult;
  bool is_required = false;
  bool repeats = false;         // may be given several times; `set` is called for each
  std::string other_name = {};  // accepted too, not listed by itself
  std::string zero = {};        // what 0 means: "no limit"
  // For a flag that is another spelling of an option's values.
  struct StandsFor {
    std::string option;
    std::string if_true;
    std::string if_false;
  };
  std::optional<StandsFor> stands_for = {};
  // For an option whose values stand for those of others, where neither these nor their rivals are
  // given.
  struct Setting {
    std::string option;
    std::string value;
    std::string rival;  // another option for the same; may be ""
  };
  std::map<std::string, std::vector<Setting>> presets = {};
  std::function<std::string()> stored_key = {};  // instead of key(), where the value decides
  // Whether the value is one that files omit, so that they are as those of versions without it.
  std::function<bool()> is_omitted = {};
  std::vector<std::string> values = {};  // names that the value may be, as far as they are fixed
  bool lists_paths = false;              // the value is a list of files or directories

  bool is_flag() const { return value_name.empty(); }
  std::string key() const;   // "weight_decay"
  std::string help() const;  // the description with what 0 means and the default
  PathKind path_kind() const;

  Field&& required() &&;
  Field&& placement() &&;
  Field&& unstored() &&;
  Field&& also_named(const char* other) &&;
  Field&& zero_means(const char* meaning) &&;
  Field&& with_fallback(std::string shown) &&;  // instead of the current value
  Field&& with_values(std::vector<std::string> names) &&;
  Field&& listing_paths() &&;

  // Files omit it where `target` has this value.
  template <typename Value>
  Field&& omitted_at(const Value& target, Value omitted) && {
    is_omitted = [&target, omitted = std::move(omitted)] { return target == omitted; };
    return std::move(*this);
  }
};

// A titled group of fields, in the order of the help.
struct FieldGroup {
  std::string title;
  std::vector<Field> fields;
};

std::vector<Field> operator+(std::vector<Field> first, std::vector<Field> second);

// Returns the absolute path as text, "" for an empty path.
std::string absolute_text(const std::filesystem::path& path);

// Returns the choice as parse_vector_choice() reads it, with the file as `file`; "" for none.
std::string choice_text(const VectorChoice& choice, const std::string& file);

// stored_value() returns a value as JSON stores it, shown_value() as a person reads it.
nlohmann::ordered_json stored_value(const std::filesystem::path& value);
nlohmann::ordered_json stored_value(const std::string& value);
nlohmann::ordered_json stored_value(bool value);
nlohmann::ordered_json stored_value(double value);
nlohmann::ordered_json stored_value(std::int64_t value);
nlohmann::ordered_json stored_value(std::uint64_t value);
nlohmann::ordered_json stored_value(const std::vector<double>& value);
nlohmann::ordered_json stored_value(const std::optional<TemplateDate>& value);
nlohmann::ordered_json stored_value(const TemplateArguments& value);
nlohmann::ordered_json stored_value(const Warmup& value);
nlohmann::ordered_json stored_value(const VectorChoice& value);
nlohmann::ordered_json stored_value(const JudgeScale& value);
nlohmann::ordered_json stored_value(const NormChoice& value);
nlohmann::ordered_json stored_value(const RandomStart& value);
nlohmann::ordered_json stored_value(const FactorChoice& value);
nlohmann::ordered_json stored_value(const SteeredPositions& value);
nlohmann::ordered_json stored_value(const SteeredLayers& value);  // one: its number
nlohmann::ordered_json stored_value(const Intervention& value);
nlohmann::ordered_json stored_value(const GateChoice& value);
nlohmann::ordered_json automatic_value();  // "auto"
std::string shown_value(const std::filesystem::path& value);
std::string shown_value(const std::string& value);
std::string shown_value(const std::optional<TemplateDate>& value);
std::string shown_value(const TemplateArguments& value);
std::string shown_value(const Warmup& value);
std::string shown_value(const VectorChoice& value);
std::string shown_value(const JudgeScale& value);
std::string shown_value(const NormChoice& value);
std::string shown_value(const RandomStart& value);
std::string shown_value(const FactorChoice& value);
std::string shown_value(const SteeredPositions& value);
std::string shown_value(const SteeredLayers& value);
std::string shown_value(const Intervention& value);
std::string shown_value(const GateChoice& value);
inline std::string shown_value(bool value) {
  return value ? "yes" : "no";
}
inline std::string shown_value(double value) {
  return fmt::format("{}", value);
}
inline std::string shown_value(std::int64_t value) {
  return fmt::format("{}", value);
}
inline std::string shown_value(std::uint64_t value) {
  return fmt::format("{}", value);
}
template <typename Value>
requires(std::is_arithmetic_v<Value> || std::is_same_v<Value, std::string>) std::string
    shown_value(const std::vector<Value>& values) {
  return fmt::format("{}", fmt::join(values, ","));
}

template <typename Enum>
requires std::is_enum_v<Enum> nlohmann::ordered_json stored_value(Enum value) {
  return stored_value(name_of(value));
}
template <typename Enum>
requires std::is_enum_v<Enum> std::string shown_value(Enum value) {
  return name_of(value);
}

template <typename Value>
nlohmann::ordered_json stored_value(const std::optional<Value>& value) {
  return value ? stored_value(*value) : automatic_value();
}
template <typename Value>
std::string shown_value(const std::optional<Value>& value) {
  return value ? shown_value(*value) : "auto";
}

// Makes a field of `target`, which must outlive it.  `parse` turns a text into a value or throws
// UserError with its rule.  The help shows the current value as the default.
template <typename Value, typename Parse>
Field field(std::string name, std::string value_name, std::string description, Value& target,
            const Parse& parse) {
  Field made{std::move(name), std::move(value_name), std::move(description), {}, {}, {}, {}};
  made.set = [&target, parse](const std::string& text) { target = parse(text); };
  if constexpr (requires { stored_value(target); }) {
    made.value = [&target] { return stored_value(target); };
    made.text = [&target] { return shown_value(target); };
  } else {
    made.effect = Effect::kNotStored;
  }
  if constexpr (requires { shown_value(target); }) {
    const std::string now = shown_value(target);
    made.fallback = now == "(none)" ? "" : now;
  }
  return made;
}

Field field(std::string name, std::string value_name, std::string description,
            std::filesystem::path& target);
Field flag(std::string name, std::string description, bool& target);
Field on_off(std::string name, std::string description, bool& target);

// --name with one of the names of an enumeration, which the help lists.
template <typename Enum>
Field choice(std::string name, std::string description, Enum& target) {
  return field(std::move(name), fmt::format("{}", fmt::join(names_of<Enum>(), "|")),
               std::move(description), target,
               [](const std::string& text) {
                 const std::vector<std::string>& names = names_of<Enum>();
                 parse_name(text, names);
                 return static_cast<Enum>(std::find(names.begin(), names.end(), text) -
                                          names.begin());
               })
      .with_values(names_of<Enum>());
}

// Makes --name VALUE, where VALUE may be auto; `automatic` describes what auto means.
template <typename Value, typename Parse>
Field automatic_or(std::string name, const std::string& value_name, std::string description,
                   std::optional<Value>& target, std::string automatic, const Parse& parse) {
  const auto parse_optional = [parse](const std::string& text) -> std::optional<Value> {
    if (text == "auto") {
      return std::nullopt;
    }
    try {
      return parse(text);
    } catch (const UserError& rule) {
      throw UserError(fmt::format("{}, or auto", rule.what()));
    }
  };
  return field(std::move(name), value_name + "|auto", std::move(description), target,
               parse_optional)
      .with_fallback(std::move(automatic))
      .with_values({"auto"});
}

// Rules for field().
inline auto at_least(std::int64_t minimum) {
  return [minimum](const std::string& text) { return parse_integer(text, minimum); };
}
inline auto real(RealRange range) {
  return [range](const std::string& text) { return parse_real(text, range); };
}
std::string parse_any_text(const std::string& text);
std::string parse_some_text(const std::string& text);  // not empty
auto one_of(std::vector<std::string> names) -> std::function<std::string(const std::string&)>;

// Returns the stored settings of all groups, in their order, as one JSON object.
nlohmann::ordered_json stored_settings(const std::vector<FieldGroup>& groups);

// Returns the keys of the settings that files omit at some value.
std::vector<std::string> omissible_keys(const std::vector<FieldGroup>& groups);

// Returns the keys of the settings that a continued run may change.
std::vector<std::string> placement_keys(const std::vector<FieldGroup>& groups);

// What the start-up table shows beyond the fields: remarks behind values, by field name, and extra
// rows, by group title.
struct SettingNotes {
  std::map<std::string, std::string> behind;
  std::map<std::string, std::vector<std::pair<std::string, std::string>>> rows;
};

// Returns the start-up table: every stored setting with its value.
std::vector<SettingGroup> settings_table(const std::vector<FieldGroup>& groups,
                                         const SettingNotes& notes);

}  // namespace bipo
