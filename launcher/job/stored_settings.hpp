// Settings in the words in which the `config` of every kind of file keeps them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "collectives/topology.hpp"
#include "launcher/options/options.hpp"

namespace bipo {

// Absolute, "" where there is none.
std::string absolute_text(const std::filesystem::path& path);

// With every `auto` resolved.
struct EffectiveMachine {
  std::string dtype;   // "fp32", "bf16"
  std::string device;  // "cpu", "cuda"
  std::int64_t threads = 1;
  bool deterministic = false;
};
struct EffectiveText {
  std::string chat_template;         // name of the format
  std::optional<TemplateDate> date;  // none: the template prints no date
  std::int64_t max_length = 0;       // tokens
};

// Append dtype, device, world_size, tp, dp, threads and deterministic.
void store_machine_settings(const EffectiveMachine& machine, const Topology& topology,
                            nlohmann::ordered_json& settings);

// Append system_prompt, chat_template, the date's two, no_eos, no_bos, max_length and skip_bad.
void store_text_settings(const TextOptions& options, const EffectiveText& text,
                         nlohmann::ordered_json& settings);

// As the file has it: JSON, whose strings are UTF-8 also where paths are not.
std::string settings_text(const nlohmann::ordered_json& settings);

}  // namespace bipo
