#include "launcher/options/option_table.hpp"

#include <boost/program_options/value_semantic.hpp>
#include <sstream>

namespace bipo {
namespace {

namespace po = boost::program_options;

constexpr unsigned kHelpWidth = 110;

void add(po::options_description& description, const Field& option, const std::string& name) {
  const std::string help = option.help();
  if (option.is_flag()) {
    description.add_options()(name.c_str(), help.c_str());
  } else {
    description.add_options()(name.c_str(), po::value<std::string>()->value_name(option.value_name),
                              help.c_str());
  }
}

po::options_description listed_options(const std::vector<FieldGroup>& groups) {
  po::options_description all(kHelpWidth);
  for (const FieldGroup& group : groups) {
    po::options_description titled(group.title, kHelpWidth);
    for (const Field& option : group.fields) {
      add(titled, option, option.name);
    }
    all.add(titled);
  }
  return all;
}

}  // namespace

po::options_description to_description(const std::vector<FieldGroup>& groups) {
  po::options_description all;
  for (const FieldGroup& group : groups) {
    for (const Field& option : group.fields) {
      add(all, option, option.name);
      if (!option.other_name.empty()) {
        add(all, option, option.other_name);
      }
    }
  }
  return all;
}

std::string help_text(const CommandTable& table) {
  std::ostringstream text;
  text << table.usage << listed_options(table.groups) << table.notes;
  return text.str();
}

}  // namespace bipo
