// Parses the command line and the INI file into plain structs.
#include "launcher/options.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <boost/program_options/cmdline.hpp>
#include <boost/program_options/parsers.hpp>
#include <map>
#include <set>

#include "collectives/errors.hpp"
#include "launcher/config_file.hpp"
#include "launcher/option_table.hpp"
#include "launcher/suggest.hpp"
#include "launcher/version.hpp"

namespace bipo {
namespace {

namespace po = boost::program_options;

const char* const kInspectHelp =
    "bipo-dist inspect RUN_FILE\n"
    "\n"
    "Prints what a run file holds: settings, progress, losses, vectors and evaluations.\n";

const char* const kHelp =
    "bipo-dist COMMAND [options]\n"
    "\n"
    "Trains steering vectors for language models by Bi-directional Preference Optimisation.\n"
    "\n"
    "Commands\n"
    "  train      train a steering vector\n"
    "  inspect    print what a run file holds\n"
    "\n"
    "  bipo-dist COMMAND --help    a command's options and an example\n"
    "  bipo-dist --version         version, commit and what it was built with\n"
    "\n"
    "Exit codes: 0 done, 2 usage or bad input, 75 interrupted with a checkpoint, 1 anything else\n";

using OptionTable = std::map<std::string, OptionSpec>;

OptionTable to_table(const std::vector<OptionGroup>& groups) {
  OptionTable table;
  for (const OptionGroup& group : groups) {
    for (const OptionSpec& option : group.options) {
      table.emplace(option.name, option);
    }
  }
  return table;
}

// One option as given, from either source.
struct GivenOption {
  std::string name;
  std::string value;
  std::string shown;  // how an error names it
};

bool is_long_option(const std::string& word) {
  return word.size() > 2 && word.starts_with("--");
}

// "--name" of "--name=value".
std::string option_word(const std::string& word) {
  return word.substr(0, word.find('='));
}

[[noreturn]] void throw_unknown(const std::string& shown, const std::string& word,
                                const std::vector<std::string>& known,
                                const std::string& command = "train") {
  throw UserError(
      fmt::format("unknown option {}; the nearest is {}; `bipo-dist {} --help` lists all", shown,
                  nearest_name(word, known), command));
}

std::vector<std::string> names(const OptionTable& table, const std::string& prefix) {
  std::vector<std::string> all;
  for (const auto& [name, option] : table) {
    all.push_back(prefix + name);
  }
  return all;
}

// Boost refuses `--name=`; the two words mean the same.
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

GivenOption to_given(const po::option& parsed, const OptionTable& table) {
  const std::string& word = parsed.original_tokens.front();
  const bool is_positional = parsed.position_key >= 0;
  const bool has_one_dash = is_positional && word.size() > 1 && word.front() == '-';
  if (parsed.unregistered || has_one_dash) {
    throw_unknown(option_word(word), option_word(word), names(table, "--"));
  }
  if (is_positional) {
    throw UserError(
        fmt::format("'{}' belongs to no option; train takes only options, each beginning with "
                    "two dashes (quote a value that contains blanks)",
                    word));
  }
  if (table.at(parsed.string_key).is_flag()) {
    return {parsed.string_key, "true", option_word(word)};
  }
  const std::string& value = parsed.value.at(0);
  const bool next_word_is_option = parsed.original_tokens.size() > 1 && is_long_option(value);
  if (next_word_is_option) {
    throw UserError(
        fmt::format("{} needs a value, but the option {} follows; a value that begins with two "
                    "dashes is written {}={}",
                    word, value, word, value));
  }
  return {parsed.string_key, value, fmt::format("--{} '{}'", parsed.string_key, value)};
}

std::vector<po::option> split_words(const std::vector<std::string>& words,
                                    const std::vector<OptionGroup>& groups) {
  using namespace po::command_line_style;
  const po::options_description description = to_description(groups);
  try {
    return po::command_line_parser(split_empty_values(words))
        .options(description)
        .style(allow_long | long_allow_adjacent | long_allow_next)
        .allow_unregistered()
        .run()
        .options;
  } catch (const po::error& error) {
    throw UserError(
        fmt::format("{}; `bipo-dist train --help` describes the options", error.what()));
  }
}

std::vector<GivenOption> read_config(const std::string& file, const OptionTable& table) {
  std::vector<GivenOption> given;
  for (const ConfigEntry& entry : read_config_file(file)) {
    const std::string where = fmt::format("{}:{}", file, entry.line);
    if (!entry.section.empty() && entry.section != "train") {
      throw UserError(
          fmt::format("{}: section [{}] is unknown; options stand under [train] or under no "
                      "section",
                      where, entry.section));
    }
    if (entry.key == "config" || entry.key == "help") {
      throw UserError(fmt::format("{}: '{}' works on the command line only; remove the line", where,
                                  entry.key));
    }
    if (!table.contains(entry.key)) {
      throw_unknown(fmt::format("'{}' in {}", entry.key, where), entry.key, names(table, ""));
    }
    given.push_back(
        {entry.key, entry.value, fmt::format("{}: {} = '{}'", where, entry.key, entry.value)});
  }
  return given;
}

void require_no_repetition(const std::vector<GivenOption>& given) {
  std::set<std::string> seen;
  for (const GivenOption& option : given) {
    if (!seen.insert(option.name).second) {
      throw UserError(
          fmt::format("{}: {} is given a second time; give it once", option.shown, option.name));
    }
  }
}

void apply(const std::vector<GivenOption>& given, const OptionTable& table, TrainOptions& options) {
  for (const GivenOption& option : given) {
    try {
      table.at(option.name).set(options, option.value);
    } catch (const UserError& rule) {
      throw UserError(fmt::format("{}: {}", option.shown, rule.what()));
    }
  }
}

void require_required(const std::vector<OptionGroup>& groups, const std::set<std::string>& given) {
  std::vector<std::string> missing;
  for (const OptionGroup& group : groups) {
    for (const OptionSpec& option : group.options) {
      if (option.required && !given.contains(option.name)) {
        missing.push_back(fmt::format("--{}", option.name));
      }
    }
  }
  if (!missing.empty()) {
    throw UserError(fmt::format("train needs {}; `bipo-dist train --help` describes the options",
                                fmt::join(missing, ", ")));
  }
}

void require_consistent(const TrainOptions& options) {
  if (options.resume && options.overwrite) {
    throw UserError(
        "--resume and --overwrite exclude each other: --resume continues the run file, "
        "--overwrite replaces it; give one");
  }
  if (options.micro_batch && *options.micro_batch > options.batch_size) {
    throw UserError(
        fmt::format("--micro-batch {} is larger than --batch-size {}; a micro-batch is a part of "
                    "a batch, give at most {}",
                    *options.micro_batch, options.batch_size, options.batch_size));
  }
}

bool asks_for_help(const std::vector<std::string>& words) {
  return std::any_of(words.begin(), words.end(),
                     [](const std::string& word) { return word == "--help" || word == "-h"; });
}

Command parse_train(const std::vector<std::string>& words) {
  const std::vector<OptionGroup> groups = train_option_groups();
  if (asks_for_help(words)) {
    return PrintAndExit{train_help(groups)};
  }
  const OptionTable table = to_table(groups);
  std::vector<GivenOption> from_command_line;
  for (const po::option& parsed : split_words(words, groups)) {
    from_command_line.push_back(to_given(parsed, table));
  }
  require_no_repetition(from_command_line);

  std::vector<GivenOption> from_file;
  const auto config =
      std::find_if(from_command_line.begin(), from_command_line.end(),
                   [](const GivenOption& option) { return option.name == "config"; });
  if (config != from_command_line.end()) {
    from_file = read_config(config->value, table);
    require_no_repetition(from_file);
  }

  TrainOptions options;
  std::set<std::string> given;
  for (const auto* source : {&from_file, &from_command_line}) {
    apply(*source, table, options);
    for (const GivenOption& option : *source) {
      given.insert(option.name);
    }
  }
  require_required(groups, given);
  require_consistent(options);
  return options;
}

Command parse_inspect(const std::vector<std::string>& words) {
  if (asks_for_help(words)) {
    return PrintAndExit{kInspectHelp};
  }
  if (words.size() != 1 || words.front().empty()) {
    throw UserError(fmt::format(
        "inspect takes one run file, not {} arguments; `bipo-dist inspect run.h5`", words.size()));
  }
  if (is_long_option(words.front())) {
    throw_unknown(words.front(), words.front(), {"--help"}, "inspect");
  }
  return InspectOptions{words.front()};
}

std::string version_text() {
  return fmt::format("bipo-dist {} (commit {}, {})\n", kProgramVersion, kGitCommit,
                     kHaveCuda ? "CPU and CUDA" : "CPU only");
}

}  // namespace

Command parse_command_line(const std::vector<std::string>& arguments) {
  if (arguments.empty()) {
    throw UserError("no command given; `bipo-dist --help` lists the commands");
  }
  const std::string& command = arguments.front();
  const std::vector<std::string> rest(arguments.begin() + 1, arguments.end());
  if (command == "train") {
    return parse_train(rest);
  }
  if (command == "inspect") {
    return parse_inspect(rest);
  }
  if (command == "--help" || command == "-h") {
    return PrintAndExit{kHelp};
  }
  if (command == "--version") {
    return PrintAndExit{version_text()};
  }
  throw UserError(
      fmt::format("unknown command '{}'; the nearest is {}; `bipo-dist --help` lists the commands",
                  command, nearest_name(command, {"train", "inspect", "--help", "--version"})));
}

}  // namespace bipo
