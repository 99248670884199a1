// A command's options as a table: name, help, and where the text of a value goes.
#pragma once

#include <boost/program_options/options_description.hpp>
#include <functional>
#include <string>
#include <vector>

namespace bipo {

// Checks the text of a value and stores it in the options that the table was made for.  Throws
// UserError with the rule that the text breaks.
using Setter = std::function<void(const std::string& text)>;

struct OptionSpec {
  std::string name;
  std::string value_name;  // empty: a flag
  std::string description;
  Setter set;
  bool required = false;
  std::string other_name = {};  // accepted too, not listed by itself
  bool repeats = false;         // may be given several times; the setter is called for each

  bool is_flag() const { return value_name.empty(); }
};

// In the order of the help.
struct OptionGroup {
  std::string title;
  std::vector<OptionSpec> options;
};

struct CommandTable {
  std::string command;
  std::string usage;
  std::vector<OptionGroup> groups;
  std::string notes;  // below the options
};

// With every name that is accepted, for parsing.
boost::program_options::options_description to_description(const std::vector<OptionGroup>& groups);

std::string help_text(const CommandTable& table);

}  // namespace bipo
