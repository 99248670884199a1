#include "trainer/model/architecture/rope_config.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

using Json = nlohmann::json;

// transformers 5 stores theta, scaling and rotated part together, for each kind of block if there
// are several.
constexpr const char* kParameters = "rope_parameters";
constexpr const char* kScaling = "rope_scaling";
constexpr const char* kTheta = "rope_theta";
constexpr const char* kPart = "partial_rotary_factor";
constexpr const char* kOriginal = "original_max_position_embeddings";
constexpr const char* kType = "rope_type";
constexpr const char* kOldType = "type";
constexpr const char* kFull = "full_attention";
constexpr const char* kSliding = "sliding_attention";
constexpr const char* kProportional = "proportional";

// Phi-3 has its original length at the top level even where the file is silent.
constexpr std::int64_t kDefaultOriginal = 4096;

struct RopeFile {
  const ConfigFields& fields;
  const Family& family;
  HeadSizes head_sizes;
  std::int64_t context = 0;

  bool has_two_kinds() const { return family.local_theta != 0; }
};

// The settings of one kind of block in one dictionary, as a rule has put them together.
struct Settings {
  std::string where;  // the member of the file that most of them come from
  Json values = Json::object();
  bool is_local = false;  // of blocks with a window
};

// A rule's result: settings of the blocks without a window, then of those with one if they differ.
struct Reading {
  std::vector<Settings> kinds;
  std::vector<std::string> unused;  // settings that the rule reads past, and why
};

Json object_or_empty(const ConfigFields& fields, const char* name) {
  if (!fields.has(name)) {
    return Json::object();
  }
  if (!fields.at(name).is_object()) {
    fields.object(name);  // refuses it
  }
  return fields.at(name);
}

bool has(const Json& values, const char* name) {
  return values.contains(name) && !values.at(name).is_null();
}

std::string text_or(const Settings& settings, const char* name, const ConfigFields& fields) {
  return fields.part(fmt::format("\"{}\": ", settings.where), settings.values)
      .text(name)
      .value_or("");
}

std::string assigned(const char* name, const Json& value) {
  return fmt::format("\"{}\": {}", name, value.dump());
}

std::string assigned(const std::string& where, const char* name, const Json& value) {
  return fmt::format("\"{}\": {}", where, assigned(name, value));
}

// Gives a setting its value at the top level, or else `otherwise`, unless the dictionary has one.
// A null `top_name`: the top level has no such setting.
void complete(const RopeFile& file, const char* name, const char* top_name, const Json& otherwise,
              Settings& settings, Reading& reading) {
  const bool has_top = top_name != nullptr && file.fields.has(top_name);
  const Json top = has_top ? file.fields.at(top_name) : Json();
  if (!has(settings.values, name)) {
    settings.values[name] = top.is_null() ? otherwise : top;
  } else if (!top.is_null() && top != settings.values.at(name)) {
    reading.unused.push_back(fmt::format("{} is not used: {} comes first", assigned(top_name, top),
                                         assigned(settings.where, name, settings.values.at(name))));
  }
}

// Gives a setting its value at the top level, or else `otherwise`, whatever the dictionary has.
void replace(const RopeFile& file, const char* name, const char* top_name, const Json& otherwise,
             Settings& settings, Reading& reading) {
  const Json value = file.fields.has(top_name) ? file.fields.at(top_name) : otherwise;
  if (has(settings.values, name) && settings.values.at(name) != value) {
    reading.unused.push_back(
        fmt::format("{} is not used: the value is {}, {}",
                    assigned(settings.where, name, settings.values.at(name)), value.dump(),
                    file.fields.has(top_name) ? fmt::format("\"{}\" at the top level", top_name)
                                              : std::string("the default")));
  }
  settings.values[name] = value;
}

// Early files of the family use an author's name, or the name of another method.
std::string modern_type(const std::string& type, const Family& family) {
  return family.long_rope && (type == "su" || type == "yarn") ? "longrope" : type;
}

// Leaves one name for the type.
void choose_type(const RopeFile& file, bool old_first, Settings& settings, Reading& reading) {
  const auto type_at = [&](const char* name) {
    return modern_type(text_or(settings, name, file.fields), file.family);
  };
  const std::string first = type_at(old_first ? kOldType : kType);
  const std::string second = type_at(old_first ? kType : kOldType);
  if (!first.empty() && !second.empty() && first != second) {
    reading.unused.push_back(
        fmt::format("{} is not used: {} comes first",
                    assigned(settings.where, old_first ? kType : kOldType, second),
                    assigned(settings.where, old_first ? kOldType : kType, first)));
  }
  settings.values.erase(kOldType);
  settings.values[kType] = !first.empty() ? first : !second.empty() ? second : "default";
}

bool has_original_length(const std::string& type) {
  return type == "llama3" || type == "yarn" || type == "longrope";
}

void name_unused_original(const RopeFile& file, Reading& reading) {
  if (file.fields.has(kOriginal) && !file.family.long_rope) {
    reading.unused.push_back(fmt::format("{} is not used by these rotary settings",
                                         assigned(kOriginal, file.fields.at(kOriginal))));
  }
}

// Names what differs in `read_past`, the dictionary that lost to `settings`.
void name_lost(const std::string& where, const Json& read_past, const Settings& settings,
               Reading& reading) {
  for (const auto& [name, value] : read_past.items()) {
    if (!value.is_null() && settings.values.value(name, Json()) != value &&
        !(name == kOldType && settings.values.value(kType, Json()) == value)) {
      reading.unused.push_back(fmt::format("{} is not used: \"{}\" comes first",
                                           assigned(where, name.c_str(), value), settings.where));
    }
  }
}

// One dictionary for all blocks, as PreTrainedConfig.convert_rope_params_to_dict and
// standardize_rope_params of transformers 5.23.0 make it: the old dictionary wins as a whole, theta
// and rotated part in it win over the top level, the original length at the top level wins over it.
Reading read_one_as_5(const RopeFile& file) {
  Reading reading;
  const Json scaling = object_or_empty(file.fields, kScaling);
  Json parameters = object_or_empty(file.fields, kParameters);
  if (scaling.empty() && parameters.empty() && !file.family.rope_parameters.empty()) {
    parameters = Json::parse(file.family.rope_parameters);
  }
  Settings settings =
      scaling.empty() ? Settings{kParameters, parameters} : Settings{kScaling, scaling};
  for (const char* kind : {kFull, kSliding}) {
    if (file.family.lists_windowed_blocks && has(settings.values, kind)) {
      file.fields.refuse(
          fmt::format("\"{}\": settings for each kind of block (\"{}\") are not supported for this "
                      "architecture; transformers 5 has them for Gemma 3 and OLMo 3 only",
                      settings.where, kind));
    }
  }
  complete(file, kTheta, file.family.theta_key, file.family.theta, settings, reading);
  complete(file, kPart, file.family.rotated_part_key, file.family.rotated_part, settings, reading);
  choose_type(file, /*old_first=*/false, settings, reading);
  if (has_original_length(settings.values.at(kType))) {
    if (file.fields.has(kOriginal) || file.family.long_rope) {
      replace(file, kOriginal, kOriginal, kDefaultOriginal, settings, reading);
    } else if (!has(settings.values, kOriginal)) {
      settings.values[kOriginal] = file.context;
    }
  } else {
    name_unused_original(file, reading);
  }
  if (!scaling.empty()) {
    name_lost(kParameters, parameters, settings, reading);
  }
  reading.kinds = {settings};
  return reading;
}

Settings kind_of(const RopeFile& file, const Json& parameters, const char* kind) {
  Settings settings{fmt::format("{}\": \"{}", kParameters, kind), Json::object(),
                    std::string_view(kind) == kSliding};
  if (has(parameters, kind)) {
    settings.values = file.fields.object(kParameters).at(kind);
    if (!settings.values.is_object()) {
      file.fields.object(kParameters).object(kind);  // refuses it
    }
  }
  return settings;
}

void name_outside_of_kinds(const Json& parameters, Reading& reading) {
  for (const auto& [name, value] : parameters.items()) {
    if (name != kFull && name != kSliding && name != "truncate" && !value.is_null()) {
      reading.unused.push_back(fmt::format(
          "{} is not used: this architecture has \"{}\" and \"{}\", each with settings of its own",
          assigned(kParameters, name.c_str(), value), kFull, kSliding));
    }
  }
}

// What is the same for the settings of a kind wherever they come from.
void complete_kind(const RopeFile& file, const Json& parameters, Settings& settings,
                   Reading& reading) {
  complete(file, kPart, kPart, 1.0, settings, reading);
  choose_type(file, /*old_first=*/false, settings, reading);
  if (has_original_length(settings.values.at(kType)) && !has(settings.values, kOriginal)) {
    settings.values[kOriginal] = file.context;
  }
  if (settings.values.at(kType) == "yarn") {  // read beside the kinds, not in them
    const Json truncate = parameters.value("truncate", Json(true));
    const Json inside = settings.values.value("truncate", truncate);
    if (inside != truncate) {
      reading.unused.push_back(fmt::format("{} is not used: transformers 5 reads it beside \"{}\"",
                                           assigned(settings.where, "truncate", inside), kFull));
    }
    settings.values["truncate"] = truncate;
  }
}

// A dictionary for each kind of block and nothing else, as in Gemma4TextConfig of transformers
// 5.23.0.
Reading read_kinds_alone_as_5(const RopeFile& file) {
  Reading reading;
  Json parameters = object_or_empty(file.fields, kParameters);
  if (parameters.empty()) {
    parameters[kFull] = {{kType, kProportional},
                         {kPart, file.family.proportional_part},
                         {kTheta, file.family.theta}};
    parameters[kSliding] = {{kTheta, file.family.local_theta}};
  }
  for (const char* kind : {kFull, kSliding}) {
    if (!has(parameters, kind)) {
      file.fields.refuse(fmt::format("\"{}\" has no \"{}\"", kParameters, kind));
    }
    Settings settings{fmt::format("{}\": \"{}", kParameters, kind), parameters.at(kind),
                      std::string_view(kind) == kSliding};
    if (!settings.values.is_object()) {
      file.fields.object(kParameters).object(kind);  // refuses it
    }
    complete(file, kTheta, kTheta, Json(), settings, reading);
    complete_kind(file, parameters, settings, reading);
    reading.kinds.push_back(settings);
  }
  name_outside_of_kinds(parameters, reading);
  return reading;
}

// A dictionary for each kind of block, as Gemma3TextConfig.convert_rope_params_to_dict of
// transformers 5.23.0 makes it: a flat rope_parameters is not used, rope_scaling is merged into the
// settings of the blocks without a window, and the original length at the top level is not used.
Reading read_kinds_as_5(const RopeFile& file) {
  Reading reading;
  const Json scaling = object_or_empty(file.fields, kScaling);
  const Json parameters = object_or_empty(file.fields, kParameters);
  if (file.fields.has(kScaling) && file.fields.has(kParameters) && !has(parameters, kFull)) {
    file.fields.refuse(fmt::format(
        "\"{}\" beside a \"{}\" without \"{}\" is not supported (transformers 5 cannot read it "
        "either); write {{\"{}\": {{...}}, \"{}\": {{...}}}} as \"{}\", and no \"{}\"",
        kScaling, kParameters, kFull, kFull, kSliding, kParameters, kScaling));
  }
  Settings full = kind_of(file, parameters, kFull);
  Settings sliding = kind_of(file, parameters, kSliding);
  const Settings before = full;
  full.values.update(scaling);
  complete(file, kTheta, kTheta, file.family.theta, full, reading);
  complete(file, kTheta, file.family.local_theta_key, file.family.local_theta, sliding, reading);
  for (Settings* settings : {&full, &sliding}) {
    complete_kind(file, parameters, *settings, reading);
  }
  name_lost(before.where, before.values, {kScaling, full.values}, reading);
  name_unused_original(file, reading);
  name_outside_of_kinds(parameters, reading);
  reading.kinds = {full, sliding};
  return reading;
}

Reading read_as_5(const RopeFile& file) {
  if (file.family.proportional_part != 0) {
    return read_kinds_alone_as_5(file);
  }
  return file.has_two_kinds() ? read_kinds_as_5(file) : read_one_as_5(file);
}

bool has_numbers(const Json& values, std::initializer_list<const char*> names) {
  return std::all_of(names.begin(), names.end(), [&](const char* name) {
    return values.contains(name) && values.at(name).is_number();
  });
}

// LongRoPE in transformers 4: an original length at the top level gives the factor too; without it
// the original length is the context.
bool complete_long_rope_as_4(const RopeFile& file, Settings& settings, Reading& reading) {
  if (file.fields.has(kOriginal) || file.family.long_rope) {
    replace(file, kOriginal, kOriginal, kDefaultOriginal, settings, reading);
    settings.values.erase("factor");  // the ratio of both lengths counts
    return true;
  }
  replace(file, kOriginal, kOriginal, file.context, settings, reading);
  return has_numbers(settings.values, {"factor"}) || has(settings.values, "attention_factor");
}

// Returns false for settings that transformers 4.57.6 cannot compute with.
bool complete_type_as_4(const RopeFile& file, Settings& settings, Reading& reading) {
  const std::string type = settings.values.at(kType);
  if (type == "longrope") {
    return complete_long_rope_as_4(file, settings, reading);
  }
  if (type == "llama3") {
    return has_numbers(settings.values,
                       {"factor", "low_freq_factor", "high_freq_factor", kOriginal});
  }
  if (type == "yarn") {
    if (!has(settings.values, kOriginal) || settings.values.at(kOriginal) == 0) {
      settings.values[kOriginal] = file.context;
    }
    return has_numbers(settings.values, {"factor"});
  }
  return type == "default" ||
         ((type == "linear" || type == "dynamic") && has_numbers(settings.values, {"factor"}));
}

// As transformers 4.57.6: theta and rotated part stand at the top level, the rest in rope_scaling.
// Serves for comparison only, so that what it reads past is not complete.  Returns nothing for a
// file that it cannot compute with.
std::optional<Reading> read_as_4(const RopeFile& file) {
  if (file.family.proportional_part != 0) {  // it does not know such families
    return std::nullopt;
  }
  Reading reading;
  Settings settings{kScaling, object_or_empty(file.fields, kScaling)};
  const bool scaled = file.fields.has(kScaling);
  if (scaled && ((!has(settings.values, kType) && !has(settings.values, kOldType)) ||
                 (file.family.long_rope && settings.values.size() != 3))) {
    return std::nullopt;
  }
  replace(file, kTheta, file.family.theta_key, file.family.theta, settings, reading);
  replace(file, kPart, file.family.rotated_part_key, file.family.rotated_part, settings, reading);
  choose_type(file, file.family.old_rope_type_first || file.family.long_rope, settings, reading);
  if (scaled && !complete_type_as_4(file, settings, reading)) {
    return std::nullopt;
  }
  reading.kinds = {settings};
  if (file.has_two_kinds()) {
    // Where it has no key of its own, it is the theta of all blocks.
    const char* const key = file.family.local_theta_key;
    Settings local{key == nullptr ? kTheta : key, Json::object(), true};
    replace(file, kTheta, key == nullptr ? kTheta : key, file.family.local_theta, local, reading);
    local.values[kPart] = 1.0;
    local.values[kType] = "default";
    reading.kinds.push_back(local);
  }
  return reading;
}

// Returns `otherwise` for 0 too, as Python's `or` does.
double number_or(const ConfigFields& settings, const char* name, double otherwise) {
  return settings.has(name) && settings.at(name) == 0 ? otherwise
                                                      : settings.positive_or(name, otherwise);
}

Llama3RopeScaling read_llama3(const ConfigFields& settings) {
  const Llama3RopeScaling result{settings.positive("factor"), settings.positive("low_freq_factor"),
                                 settings.positive("high_freq_factor"),
                                 settings.positive(kOriginal)};
  if (result.high_frequency_factor <= result.low_frequency_factor) {
    settings.refuse("high_freq_factor must exceed low_freq_factor");
  }
  return result;
}

// 0.1 m ln(s) + 1 (arXiv 2309.00071, equation 22, where m = 1).
double yarn_magnitude(double factor, double scale) {
  return factor <= 1 ? 1 : 0.1 * scale * std::log(factor) + 1;
}

// Without a factor, the ratio of both contexts.
double factor_or_ratio(const ConfigFields& settings, double original, std::int64_t context) {
  return settings.positive_or("factor", static_cast<double>(context) / original);
}

void read_yarn(const ConfigFields& settings, std::int64_t context, RotaryEmbedding& rotary) {
  const double original = settings.positive(kOriginal);
  const double factor = factor_or_ratio(settings, original, context);
  const double scale = number_or(settings, "mscale", 0);
  const double scale_of_all = number_or(settings, "mscale_all_dim", 0);
  const bool two_scales = scale != 0 && scale_of_all != 0;
  const double magnitude =
      two_scales ? yarn_magnitude(factor, scale) / yarn_magnitude(factor, scale_of_all)
                 : yarn_magnitude(factor, 1);
  rotary.factor = settings.positive_or("attention_factor", magnitude);
  rotary.scaling = YarnRopeScaling{factor, number_or(settings, "beta_fast", 32),
                                   number_or(settings, "beta_slow", 1), original,
                                   settings.truth_or("truncate", true)};
  if (rotary.theta <= 1) {
    settings.refuse("yarn needs a rope_theta above 1");
  }
}

// Sequences beyond the original context use other frequencies for every token, so that answers on
// both sides of it could not share a prefix: the original context becomes the limit.
void read_long_rope(const ConfigFields& settings, std::int64_t pairs, std::int64_t& context,
                    RotaryEmbedding& rotary) {
  const std::vector<double> divisors = settings.positives("short_factor");
  if (static_cast<std::int64_t>(divisors.size()) != pairs) {
    settings.refuse(
        fmt::format("short_factor has {} numbers for {} rotated pairs", divisors.size(), pairs));
  }
  settings.has("long_factor");  // for longer sequences only
  rotary.divisors.assign(divisors.begin(), divisors.end());
  const double original = settings.positive(kOriginal);
  if (original < 2) {
    settings.refuse(fmt::format("{} is {}, must be at least 2", kOriginal, original));
  }
  const double factor = factor_or_ratio(settings, original, context);
  const double magnitude = factor <= 1 ? 1 : std::sqrt(1 + std::log(factor) / std::log(original));
  rotary.factor = settings.positive_or("attention_factor", magnitude);
  context = static_cast<std::int64_t>(std::min(static_cast<double>(context), original));
}

std::int64_t rotated_part(const ConfigFields& settings, double part, std::int64_t head_size) {
  // A part above 1 might overflow the integer.
  const auto rotated =
      part > 1 ? 0 : static_cast<std::int64_t>(static_cast<double>(head_size) * part);
  if (rotated < 2 || rotated % 2 != 0) {
    settings.refuse(fmt::format(
        "\"partial_rotary_factor\" is {}, must rotate an even number of the {} elements "
        "of a head",
        part, head_size));
  }
  return rotated;
}

// The part of a head's pairs that turns, by _compute_proportional_rope_parameters of transformers
// 5.23.0 (modeling_rope_utils.py).
void read_proportional(const ConfigFields& settings, double part, std::int64_t head_size,
                       RotaryEmbedding& rotary) {
  const auto pairs =
      part > 1 ? 0 : static_cast<std::int64_t>(part * static_cast<double>(head_size) / 2);
  if (pairs < 1) {
    settings.refuse(fmt::format(
        "\"partial_rotary_factor\" is {}, must turn at least one and at most all of the "
        "{} pairs of a head",
        part, head_size / 2));
  }
  rotary.rotated = 2 * pairs;
  rotary.over_whole_head = true;
  const double factor = settings.positive_or("factor", 1);
  if (factor != 1) {
    rotary.scaling = LinearRopeScaling{factor};
  }
}

// What a reading comes to.
struct Embeddings {
  std::vector<RotaryEmbedding> kinds;
  std::int64_t context = 0;
  std::vector<std::string> unused;

  bool operator==(const Embeddings& other) const {
    return kinds == other.kinds && context == other.context;
  }
};

// transformers cannot compute without both numbers.
void read_query_growth(const ConfigFields& settings, RotaryEmbedding& rotary) {
  constexpr const char* kGrowth = "llama_4_scaling_beta";
  if (settings.has(kGrowth) && settings.at(kGrowth) == 0) {
    return;
  }
  rotary.query_growth = settings.positive(kGrowth);
  rotary.query_context = settings.positive(kOriginal);
  settings.has("max_position_embeddings");  // repeats the context
}

RotaryEmbedding embedding_of(const ConfigFields& settings, const RopeFile& file,
                             std::int64_t head_size, Embeddings& embeddings) {
  RotaryEmbedding rotary;
  rotary.theta = settings.positive(kTheta);
  rotary.adjacent_pairs = file.family.adjacent_pairs;
  const std::string type = settings.text(kType).value();
  const double part = settings.positive(kPart);
  if (type == kProportional && file.family.proportional_part != 0) {
    read_proportional(settings, part, head_size, rotary);
    return rotary;
  }
  if (file.family.partial_rotation) {
    rotary.rotated = rotated_part(settings, part, head_size);
  } else if (part != 1 && type == "default") {
    embeddings.unused.push_back(
        fmt::format("\"{}\": {} is not used: this architecture rotates whole heads", kPart, part));
  } else if (part != 1) {
    settings.refuse(fmt::format("\"{}\": {} is not supported (only 1.0)", kPart, part));
  }
  if (file.family.growing_queries) {
    read_query_growth(settings, rotary);
  }
  if (file.family.sectioned_rotation) {
    settings.has("mrope_section");
    settings.has("mrope_interleaved");
  }
  const std::int64_t rotated = rotary.rotated == 0 ? head_size : rotary.rotated;
  if (type == "longrope") {
    read_long_rope(settings, rotated / 2, embeddings.context, rotary);
  } else if (type == "linear") {
    rotary.scaling = LinearRopeScaling{settings.positive("factor")};
  } else if (type == "llama3") {
    rotary.scaling = read_llama3(settings);
  } else if (type == "yarn") {
    read_yarn(settings, file.context, rotary);
  } else if (type == "dynamic") {
    settings.has("factor");  // changes only sequences longer than the context, which are refused
  } else if (type != "default") {
    settings.refuse(
        fmt::format("type \"{}\" is not supported; supported: default, linear, dynamic, "
                    "llama3, yarn, longrope",
                    type));
  }
  return rotary;
}

Embeddings embeddings_of(const Reading& reading, const RopeFile& file) {
  Embeddings embeddings{{}, file.context, {}};
  embeddings.unused = reading.unused;
  for (const Settings& kind : reading.kinds) {
    const ConfigFields settings =
        file.fields.part(fmt::format("\"{}\": ", kind.where), kind.values);
    const std::int64_t head_size = kind.is_local ? file.head_sizes.local : file.head_sizes.global;
    embeddings.kinds.push_back(embedding_of(settings, file, head_size, embeddings));
    for (const std::string& name : settings.unread()) {
      embeddings.unused.push_back(
          fmt::format("\"{}\": {} is not used", kind.where, settings.shown(name)));
    }
  }
  // Both kinds may have read past the same setting.
  std::vector<std::string> different;
  for (const std::string& unused : embeddings.unused) {
    if (std::find(different.begin(), different.end(), unused) == different.end()) {
      different.push_back(unused);
    }
  }
  embeddings.unused = different;
  return embeddings;
}

// Returns nothing where transformers 4.57.6 cannot compute with the file.
std::optional<Embeddings> embeddings_as_4(const RopeFile& file) {
  try {
    const std::optional<Reading> reading = read_as_4(file);
    return reading ? std::optional(embeddings_of(*reading, file)) : std::nullopt;
  } catch (const UserError&) {
    return std::nullopt;
  }
}

std::string scaling_text(const RotaryEmbedding& rotary) {
  if (const auto* linear = std::get_if<LinearRopeScaling>(&rotary.scaling)) {
    return fmt::format(", linear by {}", linear->factor);
  }
  if (const auto* llama3 = std::get_if<Llama3RopeScaling>(&rotary.scaling)) {
    return fmt::format(", llama3 by {} over {}", llama3->factor, llama3->original_context);
  }
  if (const auto* yarn = std::get_if<YarnRopeScaling>(&rotary.scaling)) {
    return fmt::format(", yarn by {} over {}", yarn->factor, yarn->original_context);
  }
  return rotary.divisors.empty() ? "" : ", longrope";
}

std::string text_of(const Embeddings& embeddings) {
  std::vector<std::string> kinds;
  for (const RotaryEmbedding& rotary : embeddings.kinds) {
    kinds.push_back(fmt::format(
        "theta {}{}{}", rotary.theta, scaling_text(rotary),
        rotary.factor == 1 ? "" : fmt::format(", attention factor {:.6g}", rotary.factor)));
  }
  return fmt::format("{}", fmt::join(kinds, " and, in blocks with a window, "));
}

std::string disagreement(const RopeFile& file, const std::string& version, const Embeddings& as_4,
                         const Embeddings& as_5) {
  return file.fields.located(fmt::format(
      "transformers 4.57.6 and 5.23.0 differ about the rotary settings: {} in 4.57.6, {} in "
      "5.23.0; "
      "5.23.0 is followed{}; leave one spelling of each setting in the file",
      text_of(as_4), text_of(as_5),
      version.starts_with('4')
          ? fmt::format(", although the file says \"transformers_version\": \"{}\"", version)
          : ""));
}

}  // namespace

void read_rotary_embeddings(const ConfigFields& fields, const Family& family,
                            const HeadSizes& head_sizes, ModelConfig& config) {
  const RopeFile file{fields, family, head_sizes, config.context};
  const bool old_names = fields.has(kScaling) || fields.has(family.theta_key) ||
                         (file.has_two_kinds() && family.local_theta_key != nullptr &&
                          fields.has(family.local_theta_key));
  const std::optional<Embeddings> as_4 = embeddings_as_4(file);
  const Embeddings as_5 = embeddings_of(read_as_5(file), file);
  for (const std::string& unused : as_5.unused) {
    config.warnings.push_back(fields.located(unused));
  }
  const std::string version = fields.text("transformers_version").value_or("");
  if (as_4 && *as_4 != as_5 && (old_names || version.starts_with('4'))) {
    config.warnings.push_back(disagreement(file, version, *as_4, as_5));
  }
  config.rotary = as_5.kinds;
  config.context = as_5.context;
}

}  // namespace bipo
