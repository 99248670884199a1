#include "launcher/options/completion.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <utility>

namespace bipo {
namespace {

// The options that may stand in place of a command.
constexpr const char* kGeneralOptions = "--help --version";

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (std::size_t at = text.find(from); at != std::string::npos;
       at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

// Returns the text as one word of a shell.
std::string quoted(const std::string& text) {
  return "'" + replaced(text, "'", "'\\''") + "'";
}

std::string joined(const std::vector<std::string>& words, const char* between = " ") {
  return fmt::format("{}", fmt::join(words, between));
}

// The function of a command, as a name in a shell: _bipo_dist_train.
std::string function_of(const std::string& command) {
  return "_bipo_dist_" + replaced(command, "-", "_");
}

std::vector<Field> fields_of(const DescribedCommand& command) {
  std::vector<Field> all;
  for (const FieldGroup& group : command.table.groups) {
    all.insert(all.end(), group.fields.begin(), group.fields.end());
  }
  return all;
}

std::vector<std::string> names_of_commands(const std::vector<DescribedCommand>& commands) {
  std::vector<std::string> names;
  for (const DescribedCommand& command : commands) {
    names.push_back(command.name);
  }
  return names;
}

// What can stand in one place.
struct Candidates {
  std::vector<std::string> names;
  PathKind paths = PathKind::kNone;

  auto operator<=>(const Candidates&) const = default;
};

Candidates values_of(const Field& field) {
  return {field.values, field.path_kind()};
}

// --- bash

// Sets what _bipo_dist completes from.
std::string bash_assignments(const Candidates& candidates) {
  std::vector<std::string> words;
  if (!candidates.names.empty()) {
    words.push_back(fmt::format("names={}", quoted(joined(candidates.names))));
  }
  if (candidates.paths == PathKind::kFiles) {
    words.emplace_back("paths=files");
  } else if (candidates.paths == PathKind::kDirectories) {
    words.emplace_back("paths=directories");
  }
  return words.empty() ? ":" : joined(words);
}

// One case for all options whose values are completed alike.
std::string bash_values(const std::vector<Field>& fields) {
  std::map<Candidates, std::vector<std::string>> alike;
  for (const Field& field : fields) {
    if (!field.is_flag()) {
      std::vector<std::string>& names = alike[values_of(field)];
      names.push_back("--" + field.name);
      if (!field.other_name.empty()) {
        names.push_back("--" + field.other_name);
      }
    }
  }
  std::string cases;
  for (const auto& [candidates, names] : alike) {
    cases +=
        fmt::format("    {})\n      {} ;;\n", joined(names, " | "), bash_assignments(candidates));
  }
  return cases;
}

std::string bash_command(const DescribedCommand& command) {
  const std::vector<Field> fields = fields_of(command);
  std::vector<std::string> options;
  for (const Field& field : fields) {
    options.push_back("--" + field.name);
  }
  const std::string all_options = fmt::format("names={}", quoted(joined(options)));
  std::string otherwise = all_options;
  if (!command.argument.empty()) {
    otherwise = fmt::format(
        "if [[ $current == -* ]] || ((COMP_CWORD > 2)); then {}; else {}; fi", all_options,
        bash_assignments({command.argument_names, path_kind_of(command.argument)}));
  }
  return fmt::format(
      "{}() {{\n"
      "  case $previous in\n"
      "{}"
      "    *)\n"
      "      {} ;;\n"
      "  esac\n"
      "}}\n"
      "\n",
      function_of(command.name), bash_values(fields), otherwise);
}

// --- zsh

// Brackets would end an explanation, backslashes escape.
std::string zsh_text(std::string text) {
  for (const auto& [from, to] : {std::pair("[", "("), std::pair("]", ")"), std::pair("\\", "/")}) {
    text = replaced(std::move(text), from, to);
  }
  return text;
}

// The name of a value; a colon would begin the next part.
std::string zsh_message(const std::string& value_name) {
  return replaced(value_name, ":", "\\:");
}

std::string zsh_action(const Candidates& candidates) {
  const std::string names = fmt::format("({})", joined(candidates.names));
  const char* paths = candidates.paths == PathKind::kDirectories ? "_files -/" : "_files";
  if (candidates.paths == PathKind::kNone) {
    return candidates.names.empty() ? " " : names;
  }
  if (candidates.names.empty()) {
    return paths;
  }
  return fmt::format(R"({{_alternative "names\:name\:{}" "files\:file\:{}"}})", names, paths);
}

std::string zsh_option(const Field& field, const std::string& name) {
  const std::string repeats = field.repeats ? "*" : "";
  const std::string text = zsh_text(field.help());
  if (field.is_flag()) {
    return quoted(fmt::format("{}--{}[{}]", repeats, name, text));
  }
  return quoted(fmt::format("{}--{}=[{}]:{}:{}", repeats, name, text, zsh_message(field.value_name),
                            zsh_action(values_of(field))));
}

std::string zsh_command(const DescribedCommand& command) {
  std::vector<std::string> specifications;
  for (const Field& field : fields_of(command)) {
    specifications.push_back(zsh_option(field, field.name));
  }
  if (!command.argument.empty()) {
    specifications.push_back(
        quoted(fmt::format("1:{}:{}", zsh_message(command.argument),
                           zsh_action({command.argument_names, path_kind_of(command.argument)}))));
  }
  return fmt::format("{}() {{\n  _arguments \\\n    {}\n}}\n\n", function_of(command.name),
                     joined(specifications, " \\\n    "));
}

}  // namespace

std::string bash_completion(const std::vector<DescribedCommand>& commands) {
  std::string text =
      "# Completion of bipo-dist for bash, from its own tables of options.\n"
      "#   source <(bipo-dist completion bash)\n"
      "\n"
      "# Each function sets what the word under the cursor may be: names, and paths.\n";
  std::string cases;
  for (const DescribedCommand& command : commands) {
    text += bash_command(command);
    cases += fmt::format("      {}) {} ;;\n", command.name, function_of(command.name));
  }
  return text + fmt::format(
                    R"(_bipo_dist() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} previous='' names='' paths=''
  COMPREPLY=()
  if ((COMP_CWORD > 1)); then
    previous=${{COMP_WORDS[COMP_CWORD - 1]}}
  fi
  # Bash takes the sign of --name=value for a word.
  if [[ $current == '=' ]]; then
    current=''
  elif [[ $previous == '=' ]] && ((COMP_CWORD > 2)); then
    previous=${{COMP_WORDS[COMP_CWORD - 2]}}
  fi
  if ((COMP_CWORD == 1)); then
    names={}
  else
    case ${{COMP_WORDS[1]}} in
{}    esac
  fi
  mapfile -t COMPREPLY < <(compgen -W "$names" -- "$current")
  if [[ -n $names && $paths == files ]]; then
    mapfile -t -O "${{#COMPREPLY[@]}}" COMPREPLY < <(compgen -f -- "$current")
    compopt -o filenames 2> /dev/null
  elif [[ $paths == files ]]; then
    compopt -o default 2> /dev/null
  elif [[ $paths == directories ]]; then
    compopt -o dirnames 2> /dev/null
  fi
}}

complete -F _bipo_dist bipo-dist
)",
                    quoted(joined(names_of_commands(commands)) + " " + kGeneralOptions), cases);
}

std::string zsh_completion(const std::vector<DescribedCommand>& commands) {
  std::string text =
      "#compdef bipo-dist\n"
      "# Completion of bipo-dist for zsh, from its own tables of options.\n"
      "#   source <(bipo-dist completion zsh)\n"
      "\n";
  std::string descriptions;
  std::string cases;
  for (const DescribedCommand& command : commands) {
    text += zsh_command(command);
    descriptions += fmt::format(
        "        {}\n", quoted(fmt::format("{}:{}", command.name, zsh_text(command.description))));
    cases += fmt::format("        {}) {} ;;\n", command.name, function_of(command.name));
  }
  return text + fmt::format(
                    R"(_bipo_dist() {{
  local context state state_descr line
  typeset -A opt_args
  local -a commands
  _arguments -C \
    '(- *)--help[print the list of commands]' \
    '(- *)--version[print version, commit and what it was built with]' \
    '1:command:->command' \
    '*::argument:->argument'
  case $state in
    command)
      commands=(
{}      )
      _describe -t commands command commands
      ;;
    argument)
      case $words[1] in
{}      esac
      ;;
  esac
}}

# As a file of $fpath this text is the function itself.
if [[ ${{funcstack[1]}} == _bipo-dist ]]; then
  _bipo_dist "$@"
else
  compdef _bipo_dist bipo-dist
fi
)",
                    descriptions, cases);
}

}  // namespace bipo
