#include "launcher/options/options.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <boost/program_options/cmdline.hpp>
#include <boost/program_options/options_description.hpp>
#include <boost/program_options/parsers.hpp>
#include <boost/program_options/value_semantic.hpp>
#include <map>
#include <set>

#include "collectives/foundation/errors.hpp"
#include "experiments/settings/version.hpp"
#include "launcher/options/command_tables.hpp"
#include "launcher/options/completion.hpp"
#include "launcher/options/config_file.hpp"
#include "launcher/options/help_page.hpp"
#include "launcher/options/man_page.hpp"
#include "launcher/options/option_rules.hpp"
#include "launcher/options/suggest.hpp"

namespace bipo {
namespace {

namespace po = boost::program_options;

void add(po::options_description& description, const Field& option, const std::string& name) {
  if (option.is_flag()) {
    description.add_options()(name.c_str(), "");
  } else {
    description.add_options()(name.c_str(), po::value<std::string>(), "");
  }
}

// Fields by every accepted name.
using FieldByName = std::map<std::string, Field>;

FieldByName by_name(const std::vector<FieldGroup>& groups) {
  FieldByName specs;
  for (const FieldGroup& group : groups) {
    for (const Field& option : group.fields) {
      specs.emplace(option.name, option);
      if (!option.other_name.empty()) {
        specs.emplace(option.other_name, option);
      }
    }
  }
  return specs;
}

// One option as given, from either source.
struct GivenOption {
  std::string name;  // the one listed in the help
  std::string value;
  std::string shown;  // how an error names it
};

bool is_long_option(const std::string& word) {
  return word.size() > 2 && word.starts_with("--");
}

// Returns "--name" of "--name=value".
std::string option_word(const std::string& word) {
  return word.substr(0, word.find('='));
}

[[noreturn]] void throw_unknown(const std::string& shown, const std::string& word,
                                const std::vector<std::string>& known, const std::string& command) {
  throw UserError(
      fmt::format("unknown option {}; the nearest is {}; `bipo-dist {} --help` lists all", shown,
                  nearest_name(word, known), command));
}

std::vector<std::string> names(const FieldByName& specs, const std::string& prefix) {
  std::vector<std::string> all;
  for (const auto& [name, option] : specs) {
    all.push_back(prefix + name);
  }
  return all;
}

// Splits `--name=` into two words, which mean the same: Boost refuses the single word.
std::vector<std::string> split_empty_values(const std::vector<std::string>& words) {
  std::vector<std::string> result;
  for (const std::string& word : words) {
    if (is_long_option(word) && word.find('=') == word.size() - 1) {
      result.push_back(option_word(word));
      result.emplace_back();
    } else {
      result.push_back(word);
    }
  }
  return result;
}

GivenOption to_given(const po::option& parsed, const std::string& command,
                     const FieldByName& specs) {
  const std::string& word = parsed.original_tokens.front();
  const bool is_positional = parsed.position_key >= 0;
  const bool has_one_dash = is_positional && word.size() > 1 && word.front() == '-';
  if (parsed.unregistered || has_one_dash) {
    throw_unknown(option_word(word), option_word(word), names(specs, "--"), command);
  }
  if (is_positional) {
    throw UserError(
        fmt::format("'{}' belongs to no option; {} takes only options, each beginning with "
                    "two dashes (quote a value that contains blanks)",
                    word, command));
  }
  const Field& spec = specs.at(parsed.string_key);
  if (spec.is_flag()) {
    return {spec.name, "true", option_word(word)};
  }
  const std::string& value = parsed.value.at(0);
  const bool next_word_is_option = parsed.original_tokens.size() > 1 && is_long_option(value);
  if (next_word_is_option) {
    throw UserError(
        fmt::format("{} needs a value, but the option {} follows; a value that begins with two "
                    "dashes is written {}={}",
                    word, value, word, value));
  }
  return {spec.name, value, fmt::format("--{} '{}'", parsed.string_key, value)};
}

// Replaces another spelling by the option that it stands for.
GivenOption resolved(GivenOption given, const FieldByName& specs) {
  const std::optional<Field::StandsFor>& other = specs.at(given.name).stands_for;
  if (other && (given.value == "true" || given.value == "false")) {
    given.name = other->option;
    given.value = given.value == "true" ? other->if_true : other->if_false;
  }
  return given;
}

std::vector<po::option> split_words(const std::vector<std::string>& words,
                                    const CommandTable& table) {
  using namespace po::command_line_style;
  po::options_description description;
  for (const auto& [name, option] : by_name(table.groups)) {
    add(description, option, name);
  }
  try {
    return po::command_line_parser(split_empty_values(words))
        .options(description)
        .style(allow_long | long_allow_adjacent | long_allow_next)
        .allow_unregistered()
        .run()
        .options;
  } catch (const po::error& error) {
    throw UserError(fmt::format("{}; `bipo-dist {} --help` describes the options", error.what(),
                                table.command));
  }
}

// Defined below: every command with --config has a section of its own in the INI file.
std::vector<std::string> config_sections();

// Leaves out what is under the sections of other commands.
std::vector<GivenOption> read_config(const std::string& file, const std::string& command,
                                     const FieldByName& specs) {
  const std::vector<std::string> sections = config_sections();
  std::vector<GivenOption> given;
  for (const ConfigEntry& entry : read_config_file(file)) {
    const std::string where = fmt::format("{}:{}", file, entry.line);
    if (!entry.section.empty() && entry.section != command) {
      if (std::find(sections.begin(), sections.end(), entry.section) == sections.end()) {
        throw UserError(fmt::format(
            "{}: section [{}] is unknown; the nearest is [{}]; options of {} are under [{}] or "
            "before the first section",
            where, entry.section, nearest_name(entry.section, sections), command, command));
      }
      continue;
    }
    if (entry.key == "config" || entry.key == "help") {
      throw UserError(fmt::format("{}: '{}' works on the command line only; remove the line", where,
                                  entry.key));
    }
    if (!specs.contains(entry.key)) {
      throw_unknown(fmt::format("'{}' in {}", entry.key, where), entry.key, names(specs, ""),
                    command);
    }
    given.push_back(resolved({specs.at(entry.key).name, entry.value,
                              fmt::format("{}: {} = '{}'", where, entry.key, entry.value)},
                             specs));
  }
  return given;
}

void require_no_repetition(const std::vector<GivenOption>& given, const FieldByName& specs) {
  GivenNames seen;
  for (const GivenOption& option : given) {
    if (!seen.insert(option.name).second && !specs.at(option.name).repeats) {
      throw UserError(
          fmt::format("{}: {} is given a second time; give it once", option.shown, option.name));
    }
  }
}

// Sets the options; adds what is wrong with their values to `faults`.
void apply(const std::vector<GivenOption>& given, const FieldByName& specs,
           std::vector<std::string>& faults) {
  for (const GivenOption& option : given) {
    try {
      specs.at(option.name).set(option.value);
    } catch (const UserError& rule) {
      faults.push_back(fmt::format("{}: {}", option.shown, rule.what()));
    }
  }
}

void require_required(const CommandTable& table, const GivenNames& given) {
  std::vector<std::string> missing;
  for (const FieldGroup& group : table.groups) {
    for (const Field& option : group.fields) {
      if (option.is_required && !given.contains(option.name)) {
        missing.push_back(fmt::format("--{}", option.name));
      }
    }
  }
  if (!missing.empty()) {
    throw UserError(fmt::format("{} needs {}; `bipo-dist {} --help` describes the options",
                                table.command, fmt::join(missing, ", "), table.command));
  }
}

// Returns what the preset among the given options, if there is one, stands for: the last one
// decides.
std::vector<GivenOption> from_preset(const std::vector<GivenOption>& given,
                                     const FieldByName& specs) {
  GivenNames names;
  std::vector<Field::Setting> settings;
  std::string shown;
  for (const GivenOption& option : given) {
    names.insert(option.name);
    const auto& presets = specs.at(option.name).presets;
    if (const auto preset = presets.find(option.value); preset != presets.end()) {
      settings = preset->second;
      shown = option.shown;
    }
  }
  const auto is_given = [&](const std::string& name) {
    return !name.empty() && names.contains(specs.at(name).name);
  };
  std::vector<GivenOption> result;
  for (const Field::Setting& setting : settings) {
    if (!is_given(setting.option) && !is_given(setting.rival)) {
      result.push_back({specs.at(setting.option).name, setting.value, shown});
    }
  }
  return result;
}

// Sets the options that `table` was made for.  Returns the names of the given ones.
GivenNames read_options(const CommandTable& table, const std::vector<std::string>& words) {
  const FieldByName specs = by_name(table.groups);
  std::vector<GivenOption> from_command_line;
  for (const po::option& parsed : split_words(words, table)) {
    from_command_line.push_back(resolved(to_given(parsed, table.command, specs), specs));
  }
  require_no_repetition(from_command_line, specs);

  std::vector<GivenOption> from_file;
  const auto config =
      std::find_if(from_command_line.begin(), from_command_line.end(),
                   [](const GivenOption& option) { return option.name == "config"; });
  if (config != from_command_line.end()) {
    from_file = read_config(config->value, table.command, specs);
    require_no_repetition(from_file, specs);
  }

  GivenNames given;
  for (const GivenOption& option : from_command_line) {
    given.insert(option.name);
  }
  std::erase_if(from_file, [&](const GivenOption& option) {
    return specs.at(option.name).repeats && given.contains(option.name);
  });
  std::vector<std::string> faults;
  std::vector<GivenOption> all = from_file;
  all.insert(all.end(), from_command_line.begin(), from_command_line.end());
  apply(from_preset(all, specs), specs, faults);
  for (const auto* source : {&from_file, &from_command_line}) {
    apply(*source, specs, faults);
    for (const GivenOption& option : *source) {
      given.insert(option.name);
    }
  }
  if (!faults.empty()) {
    throw UserError(fmt::format("{}", fmt::join(faults, "\n")));
  }
  require_required(table, given);
  return given;
}

bool asks_for_help(const std::vector<std::string>& words) {
  return std::any_of(words.begin(), words.end(),
                     [](const std::string& word) { return word == "--help" || word == "-h"; });
}

template <typename Options>
Command parse_with(CommandTable (*make_table)(Options&), const std::vector<std::string>& words) {
  Options options;
  const CommandTable table = make_table(options);
  if (asks_for_help(words)) {
    return PrintAndExit{help_page(table)};
  }
  const GivenNames given = read_options(table, words);
  require_consistent(options, given);
  if constexpr (requires { options.given = given; }) {
    options.given = given;
  }
  return options;
}

std::filesystem::path parse_path(const std::string& text) {
  return text;
}

// Parses a command whose first word may be a path (stored in `member` as `parse` reads it) and the
// options after it; `rule` is the error if the path is missing.
template <typename Options, typename Place>
Command parse_after_path(Place Options::*member, CommandTable (*make_table)(Options&),
                         const std::vector<std::string>& words, const char* rule,
                         Place (*parse)(const std::string&)) {
  Options options;
  const CommandTable table = make_table(options);
  if (asks_for_help(words)) {
    return PrintAndExit{help_page(table)};
  }
  if (words.empty() || words.front().empty() || is_long_option(words.front())) {
    throw UserError(rule);
  }
  try {
    options.*member = parse(words.front());
  } catch (const UserError& broken) {
    throw UserError(fmt::format("'{}': {}", words.front(), broken.what()));
  }
  read_options(table, {words.begin() + 1, words.end()});
  return options;
}

// Parses a command whose words before the first option are paths; `rule` is the error if there are
// none.
template <typename Options>
Command parse_after_paths(std::vector<std::filesystem::path> Options::*member,
                          CommandTable (*make_table)(Options&),
                          const std::vector<std::string>& words, const char* rule) {
  Options options;
  const CommandTable table = make_table(options);
  if (asks_for_help(words)) {
    return PrintAndExit{help_page(table)};
  }
  const auto first_option = std::find_if(words.begin(), words.end(), is_long_option);
  (options.*member).assign(words.begin(), first_option);
  if ((options.*member).empty() || (options.*member).front().empty()) {
    throw UserError(rule);
  }
  read_options(table, {first_option, words.end()});
  return options;
}

Command parse_collect(const std::vector<std::string>& words) {
  return parse_after_paths(
      &CollectOptions::sources, collect_table, words,
      "collect takes directories of sweeps, or run files, first; `bipo-dist collect DIR --out "
      "sweep.h5`");
}

Command parse_data(const std::vector<std::string>& words) {
  return parse_after_path(
      &ShowDataOptions::file, data_table, words,
      "data takes a file of pairs first; `bipo-dist data train.csv --model DIR`", parse_path);
}

// The words before the first option name vectors.
Command parse_export(const std::vector<std::string>& words) {
  ExportOptions options;
  const CommandTable table = export_table(options);
  if (asks_for_help(words)) {
    return PrintAndExit{help_page(table)};
  }
  const auto end = std::find_if(words.begin(), words.end(), is_long_option);
  if (end == words.begin() || words.front().empty()) {
    throw UserError(
        "export takes a run file first; `bipo-dist export run.h5 --format pt --out vector.pt`");
  }
  for (auto word = words.begin(); word != end; ++word) {
    try {
      options.vectors.push_back(parse_vector_choice(*word));
    } catch (const UserError& broken) {
      throw UserError(fmt::format("'{}': {}", *word, broken.what()));
    }
  }
  read_options(table, {end, words.end()});
  return options;
}

Command parse_import(const std::vector<std::string>& words) {
  return parse_after_path(
      &ImportOptions::file, import_table, words,
      "import takes the file of a vector first; `bipo-dist import vector.pt --layer 15 --out "
      "run.h5`",
      parse_path);
}

Command parse_report(const std::vector<std::string>& words) {
  return parse_after_paths(
      &AnalysisOptions::paths, report_table, words,
      "report takes runs, sweeps or evaluations first; `bipo-dist report run.h5 --out run.html`");
}

Command parse_watch(const std::vector<std::string>& words) {
  return parse_after_path(&WatchOptions::path, watch_table, words,
                          "watch takes the directory of a sweep, a run file or a log of steps "
                          "first; `bipo-dist watch run.h5`",
                          parse_path);
}

// All options of inspect are flags, so that they may stand before the file too.
Command parse_inspect(const std::vector<std::string>& given) {
  std::vector<std::string> words = given;
  std::stable_partition(words.begin(), words.end(),
                        [](const std::string& word) { return !is_long_option(word); });
  return parse_after_path(&InspectOptions::run_file, inspect_table, words,
                          "inspect takes one run file first; `bipo-dist inspect run.h5`",
                          parse_path);
}

struct CommandEntry {
  const char* name;
  const char* description;
  Command (*parse)(const std::vector<std::string>& words);
  CommandTable (*table)();
  const char* argument = "";  // the value name of the word before the options
};

template <typename Options, CommandTable (*make_table)(Options&)>
Command parse_options(const std::vector<std::string>& words) {
  return parse_with(make_table, words);
}

// Returns a table that shows the defaults.
template <typename Options, CommandTable (*make_table)(Options&)>
CommandTable table_of() {
  static Options defaults;  // outlives the table
  return make_table(defaults);
}

CommandTable help_table() {
  return page_table("help",
                    "bipo-dist help [COMMAND]\n"
                    "\n"
                    "Prints the page of a command, as `bipo-dist COMMAND --help` does; without one "
                    "the list of commands.\n");
}

CommandTable completion_table() {
  return page_table("completion",
                    "bipo-dist completion bash|zsh\n"
                    "\n"
                    "Prints a script that completes commands, options and values.  `cmake "
                    "--install` puts it where\n"
                    "bash-completion and zsh look for it; otherwise a start-up file reads it:\n"
                    "  source <(bipo-dist completion bash)    in ~/.bashrc\n"
                    "  source <(bipo-dist completion zsh)     in ~/.zshrc, after compinit\n");
}

CommandTable man_table() {
  return page_table("man",
                    "bipo-dist man\n"
                    "\n"
                    "Prints the manual page, for man: `bipo-dist man | man -l -`.\n");
}

Command parse_help(const std::vector<std::string>& words);
Command parse_completion(const std::vector<std::string>& words);
Command parse_man(const std::vector<std::string>& words);

// In the order of the help.
constexpr CommandEntry kCommands[] = {
    {"train", "train a steering vector", parse_options<TrainOptions, train_table>,
     table_of<TrainOptions, train_table>},
    {"sweep", "train one for every combination of models, data, layers, seeds and settings",
     parse_options<SweepOptions, sweep_table>, table_of<SweepOptions, sweep_table>},
    {"collect", "merge the run files of sweeps into one", parse_collect,
     table_of<CollectOptions, collect_table>, "FILE|DIR"},
    {"generate", "text under vectors, at several multipliers at once",
     parse_options<GenerateOptions, generate_table>, table_of<GenerateOptions, generate_table>},
    {"evaluate", "what vectors do to a model's answers, and what that costs",
     parse_options<EvaluateOptions, evaluate_table>, table_of<EvaluateOptions, evaluate_table>},
    {"extract", "a direction that needs no training, from the same pairs",
     parse_options<ExtractOptions, extract_table>, table_of<ExtractOptions, extract_table>},
    {"data", "print what the pairs of a file are to a model", parse_data,
     table_of<ShowDataOptions, data_table>, "FILE"},
    {"report", "one HTML page about runs, sweeps or evaluations", parse_report,
     table_of<AnalysisOptions, report_table>, "FILE|DIR"},
    {"inspect", "print what a run file holds", parse_inspect,
     table_of<InspectOptions, inspect_table>, "RUN_FILE"},
    {"watch", "show in a terminal how a run or a sweep is going", parse_watch,
     table_of<WatchOptions, watch_table>, "FILE|DIR"},
    {"export", "write vectors in the format of another program", parse_export,
     table_of<ExportOptions, export_table>, "RUN_FILE"},
    {"import", "make run files of vectors in another format", parse_import,
     table_of<ImportOptions, import_table>, "FILE"},
    {"bench", "measure the speed of training on this machine",
     parse_options<BenchOptions, bench_table>, table_of<BenchOptions, bench_table>},
    {"plan", "memory, time and the best topology of a run, before it is made",
     parse_options<PlanOptions, plan_table>, table_of<PlanOptions, plan_table>},
    {"help", "print the page of a command", parse_help, help_table, "COMMAND"},
    {"completion", "print the completion for bash or zsh", parse_completion, completion_table,
     "bash|zsh"},
    {"man", "print the manual page", parse_man, man_table},
};

std::vector<std::string> command_names() {
  std::vector<std::string> names;
  for (const CommandEntry& entry : kCommands) {
    names.emplace_back(entry.name);
  }
  return names;
}

const CommandEntry* find_command(const std::string& name) {
  const auto* const found =
      std::find_if(std::begin(kCommands), std::end(kCommands),
                   [&](const CommandEntry& entry) { return name == entry.name; });
  return found == std::end(kCommands) ? nullptr : found;
}

[[noreturn]] void throw_unknown_command(const std::string& word,
                                        const std::vector<std::string>& known) {
  throw UserError(
      fmt::format("unknown command '{}'; the nearest is {}; `bipo-dist --help` lists the commands",
                  word, nearest_name(word, known)));
}

std::vector<std::string> config_sections() {
  std::vector<std::string> sections;
  for (const CommandEntry& entry : kCommands) {
    if (by_name(entry.table().groups).contains("config")) {
      sections.emplace_back(entry.name);
    }
  }
  return sections;
}

std::vector<DescribedCommand> described_commands() {
  const std::map<std::string, std::vector<std::string>> argument_names = {
      {"help", command_names()}, {"completion", {"bash", "zsh"}}};
  std::vector<DescribedCommand> commands;
  for (const CommandEntry& entry : kCommands) {
    const auto names = argument_names.find(entry.name);
    commands.push_back({entry.name, entry.description, entry.argument,
                        names == argument_names.end() ? std::vector<std::string>{} : names->second,
                        entry.table()});
  }
  return commands;
}

std::string general_help() {
  std::string commands;
  for (const CommandEntry& entry : kCommands) {
    commands += fmt::format("  {:<10}  {}\n", entry.name, entry.description);
  }
  return fmt::format(
      "bipo-dist COMMAND [options]\n"
      "\n"
      "Trains steering vectors for language models by Bi-directional Preference Optimisation.\n"
      "\n"
      "Commands\n"
      "{}"
      "\n"
      "  bipo-dist COMMAND --help         a command's options and an example\n"
      "  bipo-dist --version [--verbose]  version and commit; libraries and processor\n"
      "\n"
      "Exit codes: 0 done, 2 usage or bad input, 75 interrupted with a checkpoint, 1 anything "
      "else\n",
      commands);
}

Command parse_help(const std::vector<std::string>& words) {
  if (words.empty()) {
    return PrintAndExit{general_help()};
  }
  if (asks_for_help(words)) {
    return PrintAndExit{help_page(help_table())};
  }
  const CommandEntry* const command = find_command(words.front());
  if (command == nullptr) {
    throw_unknown_command(words.front(), command_names());
  }
  if (words.size() > 1) {
    throw UserError(fmt::format("help takes one command, not {}; `bipo-dist help {}`", words.size(),
                                command->name));
  }
  return PrintAndExit{help_page(command->table())};
}

Command parse_completion(const std::vector<std::string>& words) {
  if (asks_for_help(words)) {
    return PrintAndExit{help_page(completion_table())};
  }
  if (words.size() == 1 && words.front() == "bash") {
    return PrintAndExit{bash_completion(described_commands())};
  }
  if (words.size() == 1 && words.front() == "zsh") {
    return PrintAndExit{zsh_completion(described_commands())};
  }
  throw UserError(fmt::format(
      "completion takes the name of a shell, bash or zsh, not '{}'; `source <(bipo-dist completion "
      "bash)`",
      fmt::join(words, " ")));
}

Command parse_man(const std::vector<std::string>& words) {
  if (asks_for_help(words)) {
    return PrintAndExit{help_page(man_table())};
  }
  if (!words.empty()) {
    throw UserError(fmt::format("man takes no '{}'; `bipo-dist man | man -l -` shows the page",
                                fmt::join(words, " ")));
  }
  return PrintAndExit{man_page(described_commands(), kProgramVersion)};
}

Command parse_version(const std::vector<std::string>& words) {
  if (words.empty()) {
    return PrintAndExit{version_text()};
  }
  if (words.size() == 1 && words.front() == "--verbose") {
    return DescribeBuild{};
  }
  throw UserError(
      fmt::format("--version takes --verbose or nothing, not '{}'", fmt::join(words, " ")));
}

}  // namespace

std::string version_text() {
  return fmt::format("bipo-dist {} (commit {}, {})\n", kProgramVersion, kGitCommit,
                     kHaveCuda ? "CPU and CUDA" : "CPU only");
}

Command parse_command_line(const std::vector<std::string>& arguments) {
  if (arguments.empty()) {
    throw UserError("no command given; `bipo-dist --help` lists the commands");
  }
  const std::string& command = arguments.front();
  const std::vector<std::string> rest(arguments.begin() + 1, arguments.end());
  if (command == "--help" || command == "-h") {
    return PrintAndExit{general_help()};
  }
  if (command == "--version") {
    return parse_version(rest);
  }
  if (const CommandEntry* const entry = find_command(command)) {
    return entry->parse(rest);
  }
  std::vector<std::string> known = command_names();
  known.insert(known.begin(), {"--help", "--version"});
  throw_unknown_command(command, known);
}

}  // namespace bipo
