// The commands' options: declared once, parsed into plain structs, help text from the same
// declaration.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace bipo {

// `auto` on the command line is std::nullopt here.
struct TrainOptions {
  std::filesystem::path model;
  std::filesystem::path train;
  std::filesystem::path test;  // empty: no held-out pairs
  std::int64_t layer = -1;
  std::filesystem::path out;
  bool resume = false;
  bool overwrite = false;

  std::int64_t epochs = 20;
  std::int64_t max_steps = 0;
  std::int64_t batch_size = 4;
  std::optional<std::int64_t> micro_batch;
  double lr = 5e-4;
  std::string lr_unit = "absolute";
  double beta = 0.1;
  double weight_decay = 0;
  double max_grad_norm = 1;
  std::int64_t warmup_steps = 100;
  std::string sign = "batch";
  bool shuffle = true;
  std::uint64_t seed = 11;

  std::vector<double> multipliers = {-1, 0, 1};
  std::int64_t eval_every = 1;  // epochs; 0: never
  double save_every = 30;       // seconds

  std::string dtype = "auto";   // auto, fp32, bf16
  std::string device = "auto";  // auto, cpu, cuda
  std::int64_t tp = 1;
  std::optional<std::int64_t> dp;
  std::optional<std::int64_t> threads;
  bool deterministic = false;

  std::string system_prompt = "You are a helpful, honest and concise assistant.";
  std::string chat_template = "auto";
  bool no_eos = false;
  bool no_bos = false;
  std::int64_t max_length = 0;  // 0: the model's context
  bool skip_bad = false;
  std::optional<std::uint64_t> cache_budget;  // bytes per rank
};

struct InspectOptions {
  std::filesystem::path run_file;
};

// What to print and end with: --help, --version.
struct PrintAndExit {
  std::string text;
};

using Command = std::variant<TrainOptions, InspectOptions, PrintAndExit>;

// Parses the command line (without the program's name) and the INI file it may name by --config
// (the same option names; the command line wins).  Values are checked for what can be known without
// looking at any file: ranges, names.  Throws UserError; an unknown option or command names the
// nearest known one.
Command parse_command_line(const std::vector<std::string>& arguments);

}  // namespace bipo
