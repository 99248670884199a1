// Options that several commands declare alike.
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "launcher/options/option_table.hpp"
#include "launcher/options/options.hpp"

namespace bipo {

// What an option's setter writes to must outlive it.

using Options = std::vector<OptionSpec>;

template <typename Value>
std::string with_default(const std::string& description, const Value& value) {
  return fmt::format("{} (default {})", description, value);
}

template <typename Value>
std::string joined(const std::vector<Value>& values) {
  return fmt::format("{}", fmt::join(values, ","));
}

Options operator+(Options first, const Options& second);

OptionSpec config_option();
OptionSpec dtype_option(std::string& dtype);
OptionSpec json_option(bool& json);
OptionSpec adapter_option(std::filesystem::path& adapter);
OptionSpec layer_option(std::int64_t& layer);
Options machine_options(MachineOptions& options, const char* automatic_dp);
// Those that say how a prompt becomes tokens, and all of them.
Options prompt_text_options(TextOptions& options);
OptionGroup text_group(TextOptions& options);
// The model of a command that does not train.
Options model_options(std::filesystem::path& model, std::filesystem::path& adapter);
OptionSpec vector_option(std::vector<VectorChoice>& vectors);
OptionSpec positions_option(std::string& positions);
OptionGroup help_group();

// How a command reads --config, for the end of its help.
std::string config_notes(const std::string& command);

}  // namespace bipo
