// The options of `train`, declared once: name, help and how the text of a value is checked and
// stored.
#include "launcher/option_table.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <boost/program_options/value_semantic.hpp>
#include <sstream>
#include <utility>

#include "collectives/errors.hpp"
#include "launcher/option_values.hpp"

namespace bipo {
namespace {

namespace po = boost::program_options;

constexpr unsigned kHelpWidth = 110;

const char* const kTrainUsage =
    "bipo-dist train --model DIR --train FILE --layer N --out FILE [options]\n"
    "\n"
    "Trains one steering vector and writes vector, log and checkpoint into one HDF5 file.\n"
    "Start it by itself or under mpirun or srun; the ranks share the work.\n";

const char* const kTrainNotes =
    "\n"
    "Configuration file (--config): lines `option = value` with the names above without dashes, "
    "optionally\n"
    "  under [train]; flags take true or false.  The command line wins.  A value is everything "
    "after the\n"
    "  '=', '#' and quotes included; a comment is a line that begins with '#' or ';'.\n"
    "A value that begins with two dashes needs the form --option=value.\n"
    "SIGUSR1 and SIGTERM: a checkpoint at the next step, then exit code 75.\n"
    "\n"
    "Exit codes\n"
    "   0  done\n"
    "   2  usage or bad input, found before any work\n"
    "  75  interrupted, with a checkpoint; the same command with --resume continues\n"
    "   1  anything else\n"
    "\n"
    "Example\n"
    "  mpirun -np 8 bipo-dist train --model models/SmolLM2-135M-Instruct --train train.csv --test "
    "test.csv \\\n"
    "      --layer 15 --lr-unit residual --lr 3e-3 --epochs 3 --tp 2 --out run.h5\n";

Setter path(std::filesystem::path TrainOptions::*member) {
  return [=](TrainOptions& options, const std::string& text) {
    if (text.empty()) {
      throw UserError("must name a path");
    }
    options.*member = text;
  };
}

Setter integer(std::int64_t TrainOptions::*member, std::int64_t minimum) {
  return [=](TrainOptions& options, const std::string& text) {
    options.*member = parse_integer(text, minimum);
  };
}

Setter automatic_or_positive(std::optional<std::int64_t> TrainOptions::*member) {
  return [=](TrainOptions& options, const std::string& text) {
    if (text == "auto") {
      options.*member = std::nullopt;
      return;
    }
    try {
      options.*member = parse_integer(text, 1);
    } catch (const UserError& rule) {
      throw UserError(fmt::format("{}, or auto", rule.what()));
    }
  };
}

Setter real(double TrainOptions::*member, RealRange range) {
  return [=](TrainOptions& options, const std::string& text) {
    options.*member = parse_real(text, range);
  };
}

Setter one_of(std::string TrainOptions::*member, std::vector<std::string> names) {
  return [member, names = std::move(names)](TrainOptions& options, const std::string& text) {
    options.*member = parse_name(text, names);
  };
}

Setter flag(bool TrainOptions::*member) {
  return [=](TrainOptions& options, const std::string& text) {
    options.*member = parse_name(text, {"true", "false"}) == "true";
  };
}

void set_shuffle(TrainOptions& options, const std::string& text) {
  options.shuffle = parse_name(text, {"on", "off"}) == "on";
}

void set_chat_template(TrainOptions& options, const std::string& text) {
  if (text.empty()) {
    throw UserError("must not be empty");
  }
  options.chat_template = text;
}

void set_cache_budget(TrainOptions& options, const std::string& text) {
  if (text == "auto") {
    options.cache_budget = std::nullopt;
    return;
  }
  try {
    options.cache_budget = parse_bytes(text);
  } catch (const UserError& rule) {
    throw UserError(fmt::format("{}, or auto", rule.what()));
  }
}

// --config is read before the others; the table lists it for the help and the check of names.
void set_nothing(TrainOptions&, const std::string&) {
}

std::string with_default(const std::string& description, const std::string& value) {
  return fmt::format("{} (default {})", description, value);
}

po::options_description to_description(const OptionGroup& group) {
  po::options_description description(group.title, kHelpWidth);
  for (const OptionSpec& option : group.options) {
    if (option.is_flag()) {
      description.add_options()(option.name.c_str(), option.description.c_str());
    } else {
      description.add_options()(option.name.c_str(),
                                po::value<std::string>()->value_name(option.value_name),
                                option.description.c_str());
    }
  }
  return description;
}

}  // namespace

std::vector<OptionGroup> train_option_groups() {
  using T = TrainOptions;
  const T defaults;
  return {
      {"Input and output",
       {{"model", "DIR", "Hugging Face model directory (required)", path(&T::model), true},
        {"train", "FILE", "training pairs, CSV or JSONL (required)", path(&T::train), true},
        {"test", "FILE", "held-out pairs, CSV or JSONL (default none)", path(&T::test)},
        {"layer", "N", "block, from 0, whose output is steered (required)", integer(&T::layer, 0),
         true},
        {"out", "FILE", "run file to write (required)", path(&T::out), true},
        {"resume", "", "continue --out from its checkpoint; start anew if there is none",
         flag(&T::resume)},
        {"overwrite", "", "replace an existing --out", flag(&T::overwrite)},
        {"config", "FILE", "INI file with any of these options", set_nothing}}},
      {"Training",
       {{"epochs", "N",
         with_default("passes over the training pairs", fmt::to_string(defaults.epochs)),
         integer(&T::epochs, 1)},
        {"max-steps", "N",
         with_default("optimiser steps to end after; 0: all", fmt::to_string(defaults.max_steps)),
         integer(&T::max_steps, 0)},
        {"batch-size", "N",
         with_default("pairs per optimiser step", fmt::to_string(defaults.batch_size)),
         integer(&T::batch_size, 1)},
        {"micro-batch", "N|auto",
         with_default("pairs per pass through the model", "auto: batch / dp"),
         automatic_or_positive(&T::micro_batch)},
        {"lr", "X", with_default("peak learning rate", fmt::to_string(defaults.lr)),
         real(&T::lr, RealRange::kPositive)},
        {"lr-unit", "NAME",
         with_default("absolute, or residual: times the layer's median RMS", defaults.lr_unit),
         one_of(&T::lr_unit, {"absolute", "residual"})},
        {"beta", "X",
         with_default("sharpness of the preference loss", fmt::to_string(defaults.beta)),
         real(&T::beta, RealRange::kPositive)},
        {"weight-decay", "X",
         with_default("decoupled weight decay", fmt::to_string(defaults.weight_decay)),
         real(&T::weight_decay, RealRange::kNonNegative)},
        {"max-grad-norm", "X",
         with_default("clip the gradient's norm here; 0: never",
                      fmt::to_string(defaults.max_grad_norm)),
         real(&T::max_grad_norm, RealRange::kNonNegative)},
        {"warmup-steps", "N",
         with_default("steps of linear warm-up before the cosine",
                      fmt::to_string(defaults.warmup_steps)),
         integer(&T::warmup_steps, 0)},
        {"sign", "NAME",
         with_default("direction per step: batch, pair, both, plus, minus", defaults.sign),
         one_of(&T::sign, {"batch", "pair", "both", "plus", "minus"})},
        {"shuffle", "on|off", with_default("new order each epoch", defaults.shuffle ? "on" : "off"),
         set_shuffle},
        {"seed", "N", with_default("of the order and the signs", fmt::to_string(defaults.seed)),
         [](T& options, const std::string& text) { options.seed = parse_unsigned(text); }}}},
      {"Evaluation and saving",
       {{"multipliers", "LIST",
         with_default("of the vector, to evaluate at",
                      fmt::format("{}", fmt::join(defaults.multipliers, ","))),
         [](T& options, const std::string& text) { options.multipliers = parse_real_list(text); }},
        {"eval-every", "N",
         with_default("epochs between evaluations; 0: never", fmt::to_string(defaults.eval_every)),
         integer(&T::eval_every, 0)},
        {"save-every", "S",
         with_default("seconds between saves within an epoch", fmt::to_string(defaults.save_every)),
         real(&T::save_every, RealRange::kNonNegative)}}},
      {"Machine",
       {{"dtype", "NAME", with_default("of weights and products: auto, fp32, bf16", defaults.dtype),
         one_of(&T::dtype, {"auto", "fp32", "bf16"})},
        {"device", "NAME", with_default("auto, cpu, cuda", defaults.device),
         one_of(&T::device, {"auto", "cpu", "cuda"})},
        {"tp", "N", with_default("ranks that share one model", fmt::to_string(defaults.tp)),
         integer(&T::tp, 1)},
        {"dp", "N|auto", with_default("replicas of the model", "auto: ranks / tp"),
         automatic_or_positive(&T::dp)},
        {"threads", "N|auto",
         with_default("per rank", "auto: OMP_NUM_THREADS, else a share of the cores"),
         automatic_or_positive(&T::threads)},
        {"deterministic", "", "deterministic kernels on CUDA", flag(&T::deterministic)},
        {"cache-budget", "SIZE|auto",
         with_default("bytes per rank for cached prefixes, or 512M, 8G", "auto"),
         set_cache_budget}}},
      {"Text",
       {{"system-prompt", "TEXT",
         with_default("\"\" sends none", fmt::format("\"{}\"", defaults.system_prompt)),
         [](T& options, const std::string& text) { options.system_prompt = text; }},
        {"chat-template", "NAME", with_default("how a prompt is laid out", defaults.chat_template),
         set_chat_template},
        {"no-eos", "", "no end-of-sequence token after an answer", flag(&T::no_eos)},
        {"no-bos", "", "no begin-of-sequence token before a prompt", flag(&T::no_bos)},
        {"max-length", "N",
         with_default("most tokens in prompt and answer; 0: the model's context",
                      fmt::to_string(defaults.max_length)),
         integer(&T::max_length, 0)},
        {"skip-bad", "", "skip and count bad rows instead of ending", flag(&T::skip_bad)}}},
      {"Help", {{"help", "", "print this page", set_nothing}}},
  };
}

po::options_description to_description(const std::vector<OptionGroup>& groups) {
  po::options_description all(kHelpWidth);
  for (const OptionGroup& group : groups) {
    all.add(to_description(group));
  }
  return all;
}

std::string train_help(const std::vector<OptionGroup>& groups) {
  std::ostringstream text;
  text << kTrainUsage << to_description(groups) << kTrainNotes;
  return text.str();
}

}  // namespace bipo
