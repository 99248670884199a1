// The options of `train`, declared once: name, help and how the text of a value is checked and
// stored.
#pragma once

#include <boost/program_options/options_description.hpp>
#include <functional>
#include <string>
#include <vector>

#include "launcher/options.hpp"

namespace bipo {

// Throws UserError with the rule that `text` breaks.
using Setter = std::function<void(TrainOptions&, const std::string& text)>;

struct OptionSpec {
  std::string name;
  std::string value_name;  // empty: a flag
  std::string description;
  Setter set;
  bool required = false;

  bool is_flag() const { return value_name.empty(); }
};

struct OptionGroup {
  std::string title;
  std::vector<OptionSpec> options;
};

// In the order of the help.
std::vector<OptionGroup> train_option_groups();

// For parsing and for the help.
boost::program_options::options_description to_description(const std::vector<OptionGroup>& groups);

std::string train_help(const std::vector<OptionGroup>& groups);

}  // namespace bipo
