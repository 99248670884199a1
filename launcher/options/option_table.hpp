// A command's options as a table: its name, its fields, and the text around them.
#pragma once

#include <boost/program_options/options_description.hpp>
#include <string>
#include <vector>

#include "experiments/settings/field.hpp"

namespace bipo {

struct CommandTable {
  std::string command;
  std::string usage;
  std::vector<FieldGroup> groups;
  std::string notes;  // below the options
};

// Lists every accepted name, for parsing.
boost::program_options::options_description to_description(const std::vector<FieldGroup>& groups);

std::string help_text(const CommandTable& table);

}  // namespace bipo
