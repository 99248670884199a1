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
#include "launcher/command_tables.hpp"
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
    "  sweep      train one for every combination of models, data, layers, seeds and settings\n"
    "  collect    merge the run files of a sweep into one\n"
    "  generate   text under vectors, at several multipliers at once\n"
    "  evaluate   what vectors do to a model's answers, and what that costs\n"
    "  extract    a direction that needs no training, from the same pairs\n"
    "  inspect    print what a run file holds\n"
    "  export     write a vector in the format of another program\n"
    "  import     make a run file of a vector in another format\n"
    "  bench      measure the speed of training on this machine\n"
    "  plan       memory, time and the best topology of a run, before it is made\n"
    "\n"
    "  bipo-dist COMMAND --help    a command's options and an example\n"
    "  bipo-dist --version         version, commit and what it was built with\n"
    "\n"
    "Exit codes: 0 done, 2 usage or bad input, 75 interrupted with a checkpoint, 1 anything else\n";

// By every name that is accepted.
using SpecByName = std::map<std::string, OptionSpec>;

SpecByName by_name(const std::vector<OptionGroup>& groups) {
  SpecByName specs;
  for (const OptionGroup& group : groups) {
    for (const OptionSpec& option : group.options) {
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

using Names = std::set<std::string>;

bool is_long_option(const std::string& word) {
  return word.size() > 2 && word.starts_with("--");
}

// "--name" of "--name=value".
std::string option_word(const std::string& word) {
  return word.substr(0, word.find('='));
}

[[noreturn]] void throw_unknown(const std::string& shown, const std::string& word,
                                const std::vector<std::string>& known, const std::string& command) {
  throw UserError(
      fmt::format("unknown option {}; the nearest is {}; `bipo-dist {} --help` lists all", shown,
                  nearest_name(word, known), command));
}

std::vector<std::string> names(const SpecByName& specs, const std::string& prefix) {
  std::vector<std::string> all;
  for (const auto& [name, option] : specs) {
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

GivenOption to_given(const po::option& parsed, const std::string& command,
                     const SpecByName& specs) {
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
  const OptionSpec& spec = specs.at(parsed.string_key);
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

std::vector<po::option> split_words(const std::vector<std::string>& words,
                                    const CommandTable& table) {
  using namespace po::command_line_style;
  const po::options_description description = to_description(table.groups);
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

std::vector<GivenOption> read_config(const std::string& file, const std::string& command,
                                     const SpecByName& specs) {
  std::vector<GivenOption> given;
  for (const ConfigEntry& entry : read_config_file(file)) {
    const std::string where = fmt::format("{}:{}", file, entry.line);
    if (!entry.section.empty() && entry.section != command) {
      throw UserError(
          fmt::format("{}: section [{}] is unknown; options stand under [{}] or under no "
                      "section",
                      where, entry.section, command));
    }
    if (entry.key == "config" || entry.key == "help") {
      throw UserError(fmt::format("{}: '{}' works on the command line only; remove the line", where,
                                  entry.key));
    }
    if (!specs.contains(entry.key)) {
      throw_unknown(fmt::format("'{}' in {}", entry.key, where), entry.key, names(specs, ""),
                    command);
    }
    given.push_back({specs.at(entry.key).name, entry.value,
                     fmt::format("{}: {} = '{}'", where, entry.key, entry.value)});
  }
  return given;
}

void require_no_repetition(const std::vector<GivenOption>& given, const SpecByName& specs) {
  Names seen;
  for (const GivenOption& option : given) {
    if (!seen.insert(option.name).second && !specs.at(option.name).repeats) {
      throw UserError(
          fmt::format("{}: {} is given a second time; give it once", option.shown, option.name));
    }
  }
}

void apply(const std::vector<GivenOption>& given, const SpecByName& specs) {
  for (const GivenOption& option : given) {
    try {
      specs.at(option.name).set(option.value);
    } catch (const UserError& rule) {
      throw UserError(fmt::format("{}: {}", option.shown, rule.what()));
    }
  }
}

void require_required(const CommandTable& table, const Names& given) {
  std::vector<std::string> missing;
  for (const OptionGroup& group : table.groups) {
    for (const OptionSpec& option : group.options) {
      if (option.required && !given.contains(option.name)) {
        missing.push_back(fmt::format("--{}", option.name));
      }
    }
  }
  if (!missing.empty()) {
    throw UserError(fmt::format("{} needs {}; `bipo-dist {} --help` describes the options",
                                table.command, fmt::join(missing, ", "), table.command));
  }
}

// Sets the options that `table` was made for; returns the names of those that were given.
Names read_options(const CommandTable& table, const std::vector<std::string>& words) {
  const SpecByName specs = by_name(table.groups);
  std::vector<GivenOption> from_command_line;
  for (const po::option& parsed : split_words(words, table)) {
    from_command_line.push_back(to_given(parsed, table.command, specs));
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

  Names given;
  for (const GivenOption& option : from_command_line) {
    given.insert(option.name);
  }
  std::erase_if(from_file, [&](const GivenOption& option) {
    return specs.at(option.name).repeats && given.contains(option.name);
  });
  for (const auto* source : {&from_file, &from_command_line}) {
    apply(*source, specs);
    for (const GivenOption& option : *source) {
      given.insert(option.name);
    }
  }
  require_required(table, given);
  return given;
}

void require_part_of_batch(const std::optional<std::int64_t>& micro_batch,
                           std::int64_t batch_size) {
  if (micro_batch && *micro_batch > batch_size) {
    throw UserError(
        fmt::format("--micro-batch {} is larger than --batch-size {}; a micro-batch is a part of "
                    "a batch, give at most {}",
                    *micro_batch, batch_size, batch_size));
  }
}

void require_consistent(const TrainOptions& options, const Names&) {
  if (options.resume && options.overwrite) {
    throw UserError(
        "--resume and --overwrite exclude each other: --resume continues the run file, "
        "--overwrite replaces it; give one");
  }
  require_part_of_batch(options.micro_batch, options.batch_size);
}

void require_consistent(const SweepOptions& options, const Names& given) {
  if (given.contains("train") == given.contains("data")) {
    throw UserError(
        "give one of --train (one data set, with --test) and --data (several, NAME=TRAIN:TEST)");
  }
  if (given.contains("test") && given.contains("data")) {
    throw UserError(
        "--test and --data exclude each other: --data names the held-out pairs as NAME=TRAIN:TEST");
  }
  if (given.contains("adapter") && options.axes.models.size() > 1) {
    throw UserError(fmt::format(
        "--adapter belongs to one model, but --models names {}; make a sweep for each model",
        options.axes.models.size()));
  }
  for (const std::int64_t batch_size : options.axes.batch_sizes) {
    require_part_of_batch(options.micro_batch, batch_size);
  }
}

// The rules of what bench and plan work on.
template <typename Options>
void require_one_model_and_pairs(const Options& options, const Names& given) {
  if (given.contains("model") == given.contains("shape")) {
    throw UserError("give one of --model (a model directory) and --shape (a name or config.json)");
  }
  if (given.contains("train")) {
    if (!given.contains("model")) {
      throw UserError(
          "--train needs --model, whose tokenizer reads it; with --shape give --prompt-length and "
          "--answer-length");
    }
    for (const char* length : {"prompt-length", "answer-length", "common-prefix"}) {
      if (given.contains(length)) {
        throw UserError(fmt::format(
            "--{} and --train exclude each other: the file's pairs have lengths of their own",
            length));
      }
    }
  }
  if (options.lengths.common_prefix > options.lengths.prompt_length) {
    throw UserError(fmt::format("--common-prefix {} is longer than --prompt-length {}",
                                options.lengths.common_prefix, options.lengths.prompt_length));
  }
  require_part_of_batch(options.micro_batch, options.batch_size);
}

void require_consistent(const BenchOptions& options, const Names& given) {
  require_one_model_and_pairs(options, given);
  if (given.contains("adapter") && given.contains("shape")) {
    throw UserError("--adapter needs --model: a --shape has no weights to change");
  }
}

void require_consistent(const PlanOptions& options, const Names& given) {
  require_one_model_and_pairs(options, given);
  if (given.contains("machine") && given.contains("measured")) {
    throw UserError(
        "--machine and --measured exclude each other: both say what the machine can do");
  }
  if (options.tp && options.devices % *options.tp != 0) {
    throw UserError(
        fmt::format("--devices {} is no multiple of --tp {}", options.devices, *options.tp));
  }
}

void require_consistent(const ExtractOptions&, const Names& given) {
  if (given.contains("layer") == given.contains("layers")) {
    throw UserError(
        "give one of --layer (one direction, --out is its file) and --layers (several, --out is "
        "their directory)");
  }
  if (given.contains("norm") && given.contains("match-norm")) {
    throw UserError(
        "--norm and --match-norm exclude each other: both say how long the direction becomes");
  }
}

void require_consistent(const GenerateOptions& options, const Names& given) {
  if (given.contains("prompt") == given.contains("prompts")) {
    throw UserError("give one of --prompt (one question) and --prompts (a file of them)");
  }
  if (options.stream && !given.contains("prompt")) {
    throw UserError("--stream shows the texts of one --prompt, not those of a file");
  }
  if (options.stream && !options.out.empty()) {
    throw UserError("--stream and --out exclude each other: one shows texts, the other keeps them");
  }
}

// The forms that need no model.
void require_judge_files(const EvaluateOptions& options, const Names& given) {
  if (!given.contains("judge-export") && !given.contains("judge-import")) {
    throw UserError(
        "evaluate needs --model; without one it writes or reads a judge's files only, by "
        "--judge-export or --judge-import");
  }
  for (const char* name : {"vector", "adapter", "choices-mc", "mmlu", "reference-text",
                           "neutral-prompts", "grid", "caa"}) {
    if (given.contains(name)) {
      throw UserError(fmt::format("--{} needs --model", name));
    }
  }
  if (given.contains("judge-import") && options.out.empty()) {
    throw UserError("--judge-import needs --out, the evaluation file that takes the scores");
  }
}

void require_measurement(const EvaluateOptions& options, const Names& given) {
  if (options.vectors.empty() || options.out.empty()) {
    throw UserError("evaluate with --model needs --vector and --out");
  }
  const std::vector<std::string> measures = {"test",       "choices-ab",     "choices-mc",
                                             "mmlu",       "reference-text", "neutral-prompts",
                                             "generations"};
  if (std::none_of(measures.begin(), measures.end(),
                   [&](const std::string& name) { return given.contains(name); })) {
    throw UserError(fmt::format("there is nothing to measure: give at least one of --{}",
                                fmt::join(measures, ", --")));
  }
  if (options.multipliers.size() < 2) {
    throw UserError(
        "--multipliers: a propensity curve and its slope need at least two different ones");
  }
  if (given.contains("grid") && !given.contains("test")) {
    throw UserError("--grid needs --test, the pairs that it is measured on");
  }
  if (given.contains("grid") && options.vectors.size() != 2) {
    throw UserError(
        fmt::format("--grid needs exactly two vectors, one for each axis, but --vector names {}",
                    options.vectors.size()));
  }
  if (given.contains("neutral-prompts") && options.positions != "all") {
    throw UserError(
        "--neutral-prompts and --positions answer exclude each other: prompts without answers are "
        "not steered then");
  }
}

void require_consistent(const EvaluateOptions& options, const Names& given) {
  if (options.model.empty()) {
    require_judge_files(options, given);
  } else {
    require_measurement(options, given);
  }
  if (given.contains("judge-export")) {
    for (const char* name : {"generations", "rubric", "behaviour"}) {
      if (!given.contains(name)) {
        throw UserError(fmt::format("--judge-export needs --{}", name));
      }
    }
  } else if (given.contains("rubric")) {
    throw UserError("--rubric needs --judge-export, whose requests it is for");
  }
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
    return PrintAndExit{help_text(table)};
  }
  const Names given = read_options(table, words);
  require_consistent(options, given);
  return options;
}

// Of a command whose one word that belongs to no option comes first: a file or directory, which
// becomes `member`; `rule` is the error where it is missing.
template <typename Options>
Command parse_after_path(std::filesystem::path Options::*member,
                         CommandTable (*make_table)(Options&),
                         const std::vector<std::string>& words, const char* rule) {
  Options options;
  const CommandTable table = make_table(options);
  if (asks_for_help(words)) {
    return PrintAndExit{help_text(table)};
  }
  if (words.empty() || words.front().empty() || is_long_option(words.front())) {
    throw UserError(rule);
  }
  options.*member = words.front();
  read_options(table, {words.begin() + 1, words.end()});
  return options;
}

Command parse_collect(const std::vector<std::string>& words) {
  return parse_after_path(
      &CollectOptions::directory, collect_table, words,
      "collect takes the directory of a sweep first; `bipo-dist collect DIR --out sweep.h5`");
}

Command parse_export(const std::vector<std::string>& words) {
  return parse_after_path(
      &ExportOptions::run_file, export_table, words,
      "export takes a run file first; `bipo-dist export run.h5 --format pt --out vector.pt`");
}

Command parse_import(const std::vector<std::string>& words) {
  return parse_after_path(
      &ImportOptions::file, import_table, words,
      "import takes the file of a vector first; `bipo-dist import vector.pt --layer 15 --out "
      "run.h5`");
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
    return parse_with(train_table, rest);
  }
  if (command == "sweep") {
    return parse_with(sweep_table, rest);
  }
  if (command == "collect") {
    return parse_collect(rest);
  }
  if (command == "bench") {
    return parse_with(bench_table, rest);
  }
  if (command == "plan") {
    return parse_with(plan_table, rest);
  }
  if (command == "extract") {
    return parse_with(extract_table, rest);
  }
  if (command == "generate") {
    return parse_with(generate_table, rest);
  }
  if (command == "evaluate") {
    return parse_with(evaluate_table, rest);
  }
  if (command == "export") {
    return parse_export(rest);
  }
  if (command == "import") {
    return parse_import(rest);
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
  const std::string nearest = nearest_name(
      command, {"train", "sweep", "collect", "generate", "evaluate", "extract", "export", "import",
                "inspect", "bench", "plan", "--help", "--version"});
  throw UserError(
      fmt::format("unknown command '{}'; the nearest is {}; `bipo-dist --help` lists the commands",
                  command, nearest));
}

}  // namespace bipo
