#include "launcher/options/man_page.hpp"

#include <fmt/format.h>

#include <sstream>
#include <string_view>

namespace bipo {
namespace {

// Escapes what troff takes for its own: backslashes, and dashes, which it would print as hyphens.
std::string escaped(std::string_view text) {
  std::string result;
  for (const char letter : text) {
    if (letter == '\\') {
      result += "\\e";
    } else if (letter == '-') {
      result += "\\-";
    } else {
      result += letter;
    }
  }
  return result;
}

// The same for a whole line, whose first character may make it a request.
std::string line(std::string_view text) {
  const bool is_request = !text.empty() && (text.front() == '.' || text.front() == '\'');
  return (is_request ? "\\&" : "") + escaped(text) + "\n";
}

// Returns the text line by line, as it stands.
std::string as_it_stands(const std::string& text) {
  std::string result = ".nf\n";
  std::istringstream lines(text);
  for (std::string one; std::getline(lines, one);) {
    result += line(one);
  }
  return result + ".fi\n";
}

// Removes line breaks at both ends.
std::string without_empty_ends(const std::string& text) {
  const std::size_t first = text.find_first_not_of('\n');
  return first == std::string::npos ? ""
                                    : text.substr(first, text.find_last_not_of('\n') + 1 - first);
}

std::string option(const Field& field) {
  std::string text = ".TP\n\\fB" + escaped("--" + field.name) + "\\fR";
  if (!field.is_flag()) {
    text += " \\fI" + escaped(field.value_name) + "\\fR";
  }
  return text + "\n" + line(field.help());
}

std::string command_page(const DescribedCommand& command) {
  const CommandTable& table = command.table;
  const std::size_t end_of_usage = table.usage.find("\n\n");
  std::string text = ".SS " + escaped(command.name) + "\n";
  text += as_it_stands(table.usage.substr(0, end_of_usage));
  if (end_of_usage != std::string::npos) {
    text += ".PP\n";
    std::istringstream lines(without_empty_ends(table.usage.substr(end_of_usage)));
    for (std::string one; std::getline(lines, one);) {
      text += one.empty() ? ".PP\n" : line(one);
    }
  }
  for (const FieldGroup& group : table.groups) {
    text += ".PP\n\\fB" + escaped(group.title) + "\\fR\n";
    for (const Field& field : group.fields) {
      text += option(field);
    }
  }
  const std::string notes = without_empty_ends(table.notes);
  return notes.empty() ? text : text + ".PP\n" + as_it_stands(notes);
}

}  // namespace

std::string man_page(const std::vector<DescribedCommand>& commands, const std::string& version) {
  std::string text = fmt::format(
      ".\\\" Made by `bipo-dist man` from its tables of options.\n"
      ".TH BIPO\\-DIST 1 \"\" \"bipo\\-dist {}\" \"User Commands\"\n"
      ".SH NAME\n"
      "bipo\\-dist \\- train steering vectors for language models\n"
      ".SH SYNOPSIS\n"
      "\\fBbipo\\-dist\\fR \\fICOMMAND\\fR [\\fIoptions\\fR]\n"
      ".SH DESCRIPTION\n"
      "Trains steering vectors for language models by Bi\\-directional Preference Optimisation, "
      "and\n"
      "measures what they do.\n",
      escaped(version));
  for (const DescribedCommand& command : commands) {
    text += ".TP\n\\fB" + escaped(command.name) + "\\fR\n" + line(command.description);
  }
  text += ".SH COMMANDS\n";
  for (const DescribedCommand& command : commands) {
    text += command_page(command);
  }
  return text +
         ".SH EXIT STATUS\n"
         "0 done, 2 usage or bad input, 75 interrupted with a checkpoint, 1 anything else.\n";
}

}  // namespace bipo
