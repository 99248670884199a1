#include "experiments/generation_run/sampling_defaults.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/untrusted_json.hpp"
#include "experiments/settings/settings.hpp"

namespace bipo {
namespace {

using Json = nlohmann::ordered_json;

struct Setting {
  const char* name;
  Json without_effect;  // the value that changes nothing; null where any other one does
};

// What applies to samples only.
const std::vector<Setting>& sampling_settings() {
  static const std::vector<Setting> all = {
      {"min_p", 0}, {"top_h", nullptr}, {"typical_p", 1}, {"epsilon_cutoff", 0}, {"eta_cutoff", 0}};
  return all;
}

const std::vector<Setting>& other_settings() {
  static const std::vector<Setting> all = {{"encoder_repetition_penalty", 1},
                                           {"no_repeat_ngram_size", 0},
                                           {"encoder_no_repeat_ngram_size", 0},
                                           {"bad_words_ids", Json::array()},
                                           {"suppress_tokens", Json::array()},
                                           {"begin_suppress_tokens", Json::array()},
                                           {"forced_bos_token_id", nullptr},
                                           {"forced_eos_token_id", nullptr},
                                           {"sequence_bias", nullptr},
                                           {"exponential_decay_length_penalty", nullptr},
                                           {"min_length", 0},
                                           {"min_new_tokens", 0},
                                           {"guidance_scale", 1},
                                           {"penalty_alpha", 0},
                                           {"dola_layers", nullptr},
                                           {"stop_strings", nullptr},
                                           {"max_time", nullptr},
                                           {"watermarking_config", nullptr},
                                           {"token_healing", false}};
  return all;
}

class Collector {
 public:
  Collector(const Json& config, const GenerateOptions& options)
      : config_(config), options_(options) {}

  std::vector<std::string> collect() {
    add_unless("repetition_penalty", options_.repetition_penalty);
    if (config_.value("do_sample", Json()) == Json(true)) {
      collect_sampling();
    }
    if (is_above("num_beams", 1)) {
      for (const char* name : {"num_beams", "num_beam_groups", "length_penalty",
                               "diversity_penalty", "early_stopping"}) {
        add(name);
      }
    }
    if (config_.value("max_new_tokens", Json()).is_number_integer() &&
        config_["max_new_tokens"] < options_.max_new_tokens) {
      add("max_new_tokens");
    }
    add_all(other_settings());
    return std::move(found_);
  }

 private:
  void collect_sampling() {
    if (options_.temperature == 0) {
      add("do_sample");
    }
    add_unless("temperature", options_.temperature);
    add_unless("top_k", options_.top_k);
    add_unless("top_p", options_.top_p);
    add_all(sampling_settings());
  }

  bool is_above(const char* name, int limit) const {
    const Json value = config_.value(name, Json());
    return value.is_number() && value > limit;
  }

  void add(const char* name) {
    const Json value = config_.value(name, Json());
    if (!value.is_null()) {
      found_.push_back(fmt::format("{} {}", name, value.dump()));
    }
  }

  template <typename Value>
  void add_unless(const char* name, Value used) {
    if (config_.value(name, Json()) != Json(used)) {
      add(name);
    }
  }

  void add_all(const std::vector<Setting>& settings) {
    for (const Setting& setting : settings) {
      if (config_.value(setting.name, Json()) != setting.without_effect) {
        add(setting.name);
      }
    }
  }

  const Json& config_;
  const GenerateOptions& options_;
  std::vector<std::string> found_;
};

}  // namespace

std::vector<std::string> sampling_warnings(const GenerateOptions& options) {
  const std::filesystem::path path = options.model / "generation_config.json";
  if (!std::filesystem::is_directory(options.model) || !std::filesystem::exists(path)) {
    return {};
  }
  const Json config = read_ordered_json_file(path);
  if (!config.is_object()) {
    throw UserError(fmt::format("{}: must hold a JSON object", path.string()));
  }
  const std::vector<std::string> found = Collector(config, options).collect();
  if (found.empty()) {
    return {};
  }
  return {
      fmt::format("{}: transformers' generate would apply {}; not applied here: --temperature, "
                  "--top-k, --top-p "
                  "and --repetition-penalty choose",
                  path.string(), fmt::join(found, ", "))};
}

}  // namespace bipo
