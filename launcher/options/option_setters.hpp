// Setters for the option table: each checks the text of a value by one rule and stores it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "experiments/sweeps/sweep_axes.hpp"
#include "launcher/options/option_table.hpp"
#include "launcher/options/option_values.hpp"

namespace bipo {

// `target` must outlive the setter.

Setter path(std::filesystem::path& target);
Setter any_text(std::string& target);
Setter some_text(std::string& target);
Setter integer(std::int64_t& target, std::int64_t minimum);
Setter integer(std::optional<std::int64_t>& target, std::int64_t minimum);
Setter automatic_or_positive(std::optional<std::int64_t>& target);
Setter unsigned_integer(std::uint64_t& target);
Setter real(double& target, RealRange range);
Setter one_of(std::string& target, std::vector<std::string> names);
Setter template_date(std::optional<TemplateDate>& target);
Setter flag(bool& target);
Setter on_off(bool& target);
Setter automatic_or_bytes(std::optional<std::uint64_t>& target);

Setter real_list(std::vector<double>& target);
Setter positive_real_list(std::vector<double>& target);
Setter unsigned_list(std::vector<std::uint64_t>& target);
Setter name_list(std::vector<std::string>& target, std::vector<std::string> names);
Setter positive_integer_list(std::vector<std::int64_t>& target);
Setter layer_list(std::vector<LayerRange>& target);
Setter model_list(std::vector<NamedModel>& target);
Setter data_list(std::vector<NamedData>& target);

// For options that the parser itself acts on; the table lists them for the help and the check of
// names.
Setter nothing();

}  // namespace bipo
