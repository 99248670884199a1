#include "experiments/settings/field.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "collectives/foundation/errors.hpp"

namespace bipo {

using Json = nlohmann::ordered_json;

template <>
const std::vector<std::string>& names_of<Dtype>() {
  static const std::vector<std::string> names = {"auto", "fp32", "bf16"};
  return names;
}

template <>
const std::vector<std::string>& names_of<DeviceKind>() {
  static const std::vector<std::string> names = {"auto", "cpu", "cuda"};
  return names;
}

template <>
const std::vector<std::string>& names_of<CacheDevice>() {
  static const std::vector<std::string> names = {"auto", "host", "device"};
  return names;
}

template <>
const std::vector<std::string>& names_of<Kernels>() {
  static const std::vector<std::string> names = {"auto", "composed", "compiled"};
  return names;
}

template <>
const std::vector<std::string>& names_of<Attention>() {
  static const std::vector<std::string> names = {"auto", "composed", "flash"};
  return names;
}

template <>
const std::vector<std::string>& names_of<CudaGraphs>() {
  static const std::vector<std::string> names = {"auto", "off", "on"};
  return names;
}

template <>
const std::vector<std::string>& names_of<LrUnit>() {
  static const std::vector<std::string> names = {"absolute", "residual"};
  return names;
}

template <>
const std::vector<std::string>& names_of<Select>() {
  static const std::vector<std::string> names = {"last", "best"};
  return names;
}

template <>
const std::vector<std::string>& names_of<ObjectiveKind>() {
  return objective_names();
}

template <>
const std::vector<std::string>& names_of<Reduction>() {
  return reduction_names();
}

template <>
const std::vector<std::string>& names_of<ExtractMethod>() {
  static const std::vector<std::string> names = {
      "caa",      "probe",  "pca",       "mean-centring", "ensemble",     "caa-letter",
      "freeform", "confst", "conceptor", "conceptor-and", "conceptor-or", "conceptor-not"};
  return names;
}

template <>
const std::vector<std::string>& names_of<Schedule>() {
  static const std::vector<std::string> names = {"cosine", "linear", "constant"};
  return names;
}

template <>
const std::vector<std::string>& names_of<NormRule>() {
  static const std::vector<std::string> names = {"free", "max", "fixed"};
  return names;
}

template <>
const std::vector<std::string>& names_of<SignRule>() {
  return sign_names();
}

template <>
const std::vector<std::string>& names_of<AnswerPairs>() {
  static const std::vector<std::string> names = {"best", "all"};
  return names;
}

template <>
const std::vector<std::string>& names_of<OnDuplicate>() {
  static const std::vector<std::string> names = {"warn", "error"};
  return names;
}

template <>
const std::vector<std::string>& names_of<Site>() {
  return site_names();
}

template <>
const std::vector<std::string>& names_of<BosRule>() {
  static const std::vector<std::string> names = {"auto", "always", "never", "as in 0.1", "never"};
  return names;
}

template <>
const std::vector<std::string>& names_of<TrainTurns>() {
  static const std::vector<std::string> names = {"assistant", "all"};
  return names;
}
template <>
const std::vector<std::string>& names_of<ProgressStyle>() {
  static const std::vector<std::string> names = {"auto", "bar", "lines", "none"};
  return names;
}

std::string Field::key() const {
  std::string result = name;
  std::replace(result.begin(), result.end(), '-', '_');
  return result;
}

std::string Field::help() const {
  std::string result = description;
  if (!zero.empty()) {
    result += fmt::format("; 0: {}", zero);
  }
  if (is_required) {
    result += " (required)";
  } else if (!fallback.empty()) {
    result += fmt::format(" (default {})", fallback);
  }
  return result;
}

PathKind path_kind_of(std::string_view value_name) {
  const auto names = [&](std::string_view word) {
    return value_name.find(word) != std::string_view::npos;
  };
  return names("FILE") ? PathKind::kFiles : names("DIR") ? PathKind::kDirectories : PathKind::kNone;
}

PathKind Field::path_kind() const {
  return lists_paths ? PathKind::kFiles : path_kind_of(value_name);
}

Field&& Field::with_values(std::vector<std::string> names) && {
  values = std::move(names);
  return std::move(*this);
}

Field&& Field::listing_paths() && {
  lists_paths = true;
  return std::move(*this);
}

Field&& Field::required() && {
  is_required = true;
  return std::move(*this);
}

Field&& Field::placement() && {
  effect = Effect::kPlacement;
  return std::move(*this);
}

Field&& Field::unstored() && {
  effect = Effect::kNotStored;
  return std::move(*this);
}

Field&& Field::also_named(const char* other) && {
  other_name = other;
  return std::move(*this);
}

Field&& Field::zero_means(const char* meaning) && {
  zero = meaning;
  return std::move(*this);
}

Field&& Field::with_fallback(std::string shown) && {
  fallback = std::move(shown);
  return std::move(*this);
}

std::vector<Field> operator+(std::vector<Field> first, std::vector<Field> second) {
  first.insert(first.end(), std::make_move_iterator(second.begin()),
               std::make_move_iterator(second.end()));
  return first;
}

std::string absolute_text(const std::filesystem::path& path) {
  return path.empty() ? "" : std::filesystem::absolute(path).lexically_normal().string();
}

std::string choice_text(const VectorChoice& choice, const std::string& file) {
  if (choice.empty()) {
    return "";
  }
  const std::string selection = to_string(choice.selection);
  return fmt::format("{}{}{}{}", file, selection.empty() ? "" : ":", selection,
                     choice.weight == 1 ? "" : fmt::format("@{}", choice.weight));
}

Json stored_value(const std::filesystem::path& value) {
  return absolute_text(value);
}
Json stored_value(const std::string& value) {
  return value;
}
Json stored_value(bool value) {
  return value;
}
Json stored_value(double value) {
  return value;
}
Json stored_value(std::int64_t value) {
  return value;
}
Json stored_value(std::uint64_t value) {
  return value;
}
Json stored_value(const std::vector<double>& value) {
  return value;
}
Json stored_value(const std::optional<TemplateDate>& value) {
  return value ? iso_text(value->day) : "";
}
Json stored_value(const TemplateArguments& value) {
  Json object = Json::object();
  for (const auto& [name, argument] : value.values) {
    object[name] = argument;
  }
  return object;
}
Json stored_value(const Warmup& value) {
  return std::visit([](auto amount) { return Json(amount); }, value);
}
Json stored_value(const VectorChoice& value) {
  return choice_text(value, absolute_text(value.file));
}
Json stored_value(const JudgeScale& value) {
  return value.text;
}
// As their options read it.
Json stored_value(const NormChoice& value) {
  return shown_value(value);
}
Json stored_value(const RandomStart& value) {
  return shown_value(value);
}
Json stored_value(const FactorChoice& value) {
  return value.is_learned ? Json("learned") : stored_value(value.values);
}
Json stored_value(const SteeredLayers& value) {
  return value.count() == 1 ? Json(value.lowest()) : Json(value.blocks());
}
Json stored_value(const SteeredPositions& value) {
  return shown_value(value);
}
Json stored_value(const Intervention& value) {
  return shown_value(value);
}
Json stored_value(const GateChoice& value) {
  return fmt::format("{}:{}", choice_text(value.vector, absolute_text(value.vector.file)),
                     value.threshold);
}
Json automatic_value() {
  return "auto";
}

std::string shown_value(const std::filesystem::path& value) {
  return value.empty() ? "(none)" : value.string();
}
std::string shown_value(const std::string& value) {
  return value.empty() ? "(none)" : value;
}
std::string shown_value(const std::optional<TemplateDate>& value) {
  return value ? iso_text(value->day) : "(not printed)";
}

std::string shown_value(const Warmup& value) {
  return std::visit([](auto amount) { return fmt::format("{}", amount); }, value);
}

std::string shown_value(const TemplateArguments& value) {
  std::vector<std::string> shown;
  for (const auto& [name, argument] : value.values) {
    shown.push_back(fmt::format("{}={}", name, argument.dump()));
  }
  return shown.empty() ? "(none)" : fmt::format("{}", fmt::join(shown, ", "));
}

std::string shown_value(const VectorChoice& value) {
  return value.empty() ? "(none)" : choice_text(value, value.file.string());
}

std::string shown_value(const JudgeScale& value) {
  return value.text;
}

namespace {

std::string length_text(const Length& length) {
  return fmt::format("{}{}", length.value, length.is_percent ? "%" : "");
}

}  // namespace

std::string shown_value(const NormChoice& value) {
  const std::string& rule = name_of(value.rule);
  return value.rule == NormRule::kFree ? rule
                                       : fmt::format("{}:{}", rule, length_text(value.length));
}

std::string shown_value(const RandomStart& value) {
  return value == RandomStart() ? "zero" : fmt::format("random:{}", length_text(value.length));
}

std::string shown_value(const FactorChoice& value) {
  return value.is_learned ? "learned" : fmt::format("{}", fmt::join(value.values, ","));
}

std::string shown_value(const SteeredLayers& value) {
  return to_string(value);
}

std::string shown_value(const SteeredPositions& value) {
  return to_string(value);
}

std::string shown_value(const Intervention& value) {
  return to_string(value);
}

std::string shown_value(const GateChoice& value) {
  return value.vector.empty()
             ? "(none)"
             : fmt::format("{}:{}", choice_text(value.vector, value.vector.file.string()),
                           value.threshold);
}

Field field(std::string name, std::string value_name, std::string description,
            std::filesystem::path& target) {
  Field made = field(std::move(name), std::move(value_name), std::move(description), target,
                     [](const std::string& text) -> std::filesystem::path {
                       if (text.empty()) {
                         throw UserError("must name a path");
                       }
                       return text;
                     });
  made.fallback.clear();
  return made;
}

Field flag(std::string name, std::string description, bool& target) {
  return field(std::move(name), "", std::move(description), target,
               [](const std::string& text) {
                 return parse_name(text, {"true", "false"}) == "true";
               })
      .with_fallback("");
}

Field on_off(std::string name, std::string description, bool& target) {
  const auto shown = [&target] { return std::string(target ? "on" : "off"); };
  Field made = field(std::move(name), "on|off", std::move(description), target,
                     [](const std::string& text) {
                       return parse_name(text, {"on", "off"}) == "on";
                     })
                   .with_fallback(shown())
                   .with_values({"on", "off"});
  made.text = shown;
  return made;
}

std::string parse_any_text(const std::string& text) {
  return text;
}

std::string parse_some_text(const std::string& text) {
  if (text.empty()) {
    throw UserError("must not be empty");
  }
  return text;
}

auto one_of(std::vector<std::string> names) -> std::function<std::string(const std::string&)> {
  return [names = std::move(names)](const std::string& text) { return parse_name(text, names); };
}

Json stored_settings(const std::vector<FieldGroup>& groups) {
  Json json = Json::object();
  for (const FieldGroup& group : groups) {
    for (const Field& field : group.fields) {
      const bool is_omitted = field.is_omitted && field.is_omitted();
      if (field.effect != Effect::kNotStored && !is_omitted) {
        json[field.stored_key ? field.stored_key() : field.key()] = field.value();
      }
    }
  }
  return json;
}

namespace {

template <typename Wanted>
std::vector<std::string> keys_of(const std::vector<FieldGroup>& groups, const Wanted& wanted) {
  std::vector<std::string> keys;
  for (const FieldGroup& group : groups) {
    for (const Field& field : group.fields) {
      if (wanted(field)) {
        keys.push_back(field.stored_key ? field.stored_key() : field.key());
      }
    }
  }
  return keys;
}

}  // namespace

std::vector<std::string> omissible_keys(const std::vector<FieldGroup>& groups) {
  return keys_of(groups, [](const Field& field) { return field.is_omitted != nullptr; });
}

std::vector<std::string> placement_keys(const std::vector<FieldGroup>& groups) {
  return keys_of(groups, [](const Field& field) { return field.effect == Effect::kPlacement; });
}

std::vector<SettingGroup> settings_table(const std::vector<FieldGroup>& groups,
                                         const SettingNotes& notes) {
  std::vector<SettingGroup> table;
  for (const FieldGroup& group : groups) {
    SettingGroup shown{group.title, {}};
    for (const Field& field : group.fields) {
      if (field.effect == Effect::kNotStored) {
        continue;
      }
      std::string value = field.text();
      if (!field.zero.empty() && value == "0") {
        value = field.zero;
      }
      if (const auto note = notes.behind.find(field.name); note != notes.behind.end()) {
        value += fmt::format(" ({})", note->second);
      }
      shown.settings.emplace_back(field.name, std::move(value));
    }
    if (const auto rows = notes.rows.find(group.title); rows != notes.rows.end()) {
      shown.settings.insert(shown.settings.end(), rows->second.begin(), rows->second.end());
    }
    if (!shown.settings.empty()) {
      table.push_back(std::move(shown));
    }
  }
  return table;
}

}  // namespace bipo
