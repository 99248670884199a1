// The commands' options: declared once, parsed into plain structs, help text from the same
// declaration.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "datasets/text/template_date.hpp"
#include "experiments/sweeps/sweep_axes.hpp"
#include "launcher/options/vector_choice.hpp"

namespace bipo {

// `auto` on the command line is std::nullopt here.

// How a conversation becomes tokens.
struct TextOptions {
  std::string system_prompt = "You are a helpful, honest and concise assistant.";
  std::string chat_template = "auto";
  std::optional<TemplateDate> template_date;  // none: the day of the beginning
  bool no_eos = false;
  bool no_bos = false;
  std::int64_t max_length = 0;  // 0: the model's context
  bool skip_bad = false;
};

// Where the ranks compute and in which types.
struct MachineOptions {
  std::string dtype = "auto";   // auto, fp32, bf16
  std::string device = "auto";  // auto, cpu, cuda
  std::int64_t tp = 1;
  std::optional<std::int64_t> dp;
  std::optional<std::int64_t> threads;
  bool deterministic = false;
};

// The kept activations of blocks 0..L.
struct CacheOptions {
  std::optional<std::uint64_t> cache_budget;  // bytes per node
  std::string cache_dtype = "auto";           // auto, fp32, bf16
  std::filesystem::path cache_dir;            // empty: anonymous shared memory
};

// What the cells of a sweep share, which is all of a training run but its place in the sweep.
struct TrainingOptions : TextOptions, MachineOptions, CacheOptions {
  std::filesystem::path model;
  std::filesystem::path adapter;  // empty: none
  bool check_weights = false;
  std::filesystem::path train;
  std::filesystem::path test;  // empty: no held-out pairs

  std::int64_t epochs = 20;
  std::int64_t max_steps = 0;
  std::int64_t batch_size = 4;
  std::optional<std::int64_t> micro_batch;
  std::string lr_unit = "absolute";
  double weight_decay = 0;
  double max_grad_norm = 1;
  std::int64_t warmup_steps = 100;
  bool shuffle = true;

  std::vector<double> multipliers = {-1, 0, 1};
  std::int64_t eval_every = 1;  // epochs; 0: never
  double save_every = 30;       // seconds
};

struct TrainOptions : TrainingOptions {
  std::int64_t layer = -1;
  std::filesystem::path out;
  bool resume = false;
  bool overwrite = false;
  double lr = 5e-4;
  double beta = 0.1;
  std::string sign = "batch";
  std::uint64_t seed = 11;
};

struct SweepOptions : TrainingOptions {
  // In place of model, epochs and batch_size above; data stands alone or for train and test.
  SweepAxes axes;
  std::filesystem::path out;                     // a directory
  std::optional<std::int64_t> vectors_per_pass;  // 1: one after the other
  bool retry_failed = false;
  bool dry_run = false;
};

// A model directory, or a named shape or config.json without weights; one of the two is set.
struct ModelChoice {
  std::filesystem::path model;
  std::string shape;
};

// Pairs of made-up tokens, all of the same lengths, where no file gives real ones.
struct PairLengths {
  std::int64_t prompt_length = 80;
  std::int64_t answer_length = 12;
  std::int64_t common_prefix = 18;  // leading prompt tokens that all pairs share
};

struct BenchOptions : TextOptions, MachineOptions, CacheOptions {
  ModelChoice source;
  std::filesystem::path adapter;  // empty: none
  std::filesystem::path train;    // empty: pairs of the lengths below
  PairLengths lengths;
  std::optional<std::int64_t> pairs;
  std::int64_t layer = -1;
  std::int64_t batch_size = 4;
  std::optional<std::int64_t> micro_batch;
  std::int64_t steps = 10;
  std::int64_t warmup = 2;  // steps before the counted ones
  bool json = false;
};

struct PlanOptions : TextOptions {
  ModelChoice source;
  std::filesystem::path train;  // empty: pairs of the lengths below
  PairLengths lengths;
  std::optional<std::int64_t> pairs;
  std::int64_t test_pairs = 0;
  std::int64_t layer = -1;
  std::int64_t batch_size = 4;
  std::optional<std::int64_t> micro_batch;
  std::int64_t epochs = 20;
  std::vector<double> multipliers = {-1, 0, 1};
  std::int64_t eval_every = 1;  // epochs; 0: never
  std::string dtype = "auto";
  std::string cache_dtype = "auto";
  std::string machine;             // a name of the machine table; empty: see `measured`
  std::filesystem::path measured;  // output of `bench --json`; both empty: this machine is measured
  std::int64_t devices = 1;
  std::optional<std::int64_t> tp;
  std::int64_t cells = 1;
  bool json = false;
};

// Directions that need no training, from the same pairs.
struct ExtractOptions : TextOptions, MachineOptions {
  std::string method = "caa";
  std::filesystem::path model;
  std::filesystem::path adapter;  // empty: none
  bool check_weights = false;
  std::filesystem::path train;
  std::int64_t layer = -1;         // -1: `layers` are asked for
  std::vector<LayerRange> layers;  // empty: every layer of the model
  std::filesystem::path out;       // a file for `layer`, a directory for `layers`
  bool overwrite = false;
  double norm = 0;                   // 0: as found
  std::filesystem::path match_norm;  // empty: see `norm`
};

struct GenerateOptions : TextOptions, MachineOptions {
  std::filesystem::path model;
  std::filesystem::path adapter;  // empty: none
  std::vector<VectorChoice> vectors;
  std::string prompt;  // one of these two is set
  std::filesystem::path prompts;
  std::vector<double> multipliers = {-2, -1, 0, 1, 2};
  std::string positions = "all";  // all, answer
  std::int64_t max_new_tokens = 200;
  double temperature = 0;
  std::int64_t top_k = 0;
  double top_p = 1;
  std::uint64_t seed = 11;
  bool ignore_eos = false;
  std::optional<std::int64_t> batch_size;  // prompts
  std::filesystem::path out;               // empty: texts go to stdout
  bool overwrite = false;
  bool stream = false;
};

struct EvaluateOptions : TextOptions, MachineOptions {
  std::filesystem::path model;    // empty: only a judge's files
  std::filesystem::path adapter;  // empty: none
  std::vector<VectorChoice> vectors;
  std::vector<double> multipliers = {-2, -1, 0, 1, 2};
  std::string positions = "all";  // all, answer
  std::filesystem::path out;
  bool overwrite = false;
  // What to measure; empty: nothing of the kind.
  std::filesystem::path test;
  std::filesystem::path choices_ab;
  std::filesystem::path choices_mc;
  std::filesystem::path mmlu;
  std::filesystem::path reference_text;
  std::filesystem::path neutral_prompts;
  std::filesystem::path generations;
  std::vector<double> grid;
  std::filesystem::path caa;  // empty: none
  bool random_control = true;
  double beta = 0.1;
  std::uint64_t seed = 11;
  std::int64_t batch_size = 4;
  std::filesystem::path judge_export;
  std::filesystem::path rubric;
  std::string behaviour;
  std::string judge_model = "gpt-4o";
  std::filesystem::path judge_import;
};

struct CollectOptions {
  std::filesystem::path directory;
  std::filesystem::path out;
  bool overwrite = false;
};

struct ExportOptions {
  std::filesystem::path run_file;
  std::string format;
  std::filesystem::path out;
  std::optional<std::int64_t> epoch;  // none: the last vector
  double multiplier = 1;
  bool overwrite = false;
};

struct ImportOptions {
  std::filesystem::path file;
  std::string format = "auto";
  std::optional<std::int64_t> layer;  // none: as the file says
  std::string model;                  // empty: as the file says
  std::filesystem::path out;
  bool overwrite = false;
};

struct InspectOptions {
  std::filesystem::path run_file;
};

// What to print and end with: --help, --version.
struct PrintAndExit {
  std::string text;
};

using Command = std::variant<TrainOptions, SweepOptions, CollectOptions, BenchOptions, PlanOptions,
                             ExtractOptions, ExportOptions, ImportOptions, GenerateOptions,
                             EvaluateOptions, InspectOptions, PrintAndExit>;

// Parses the command line (without the program's name) and the INI file it may name by --config
// (the same option names; the command line wins).  Values are checked for what can be known without
// looking at any file: ranges, names.  Throws UserError; an unknown option or command names the
// nearest known one.
Command parse_command_line(const std::vector<std::string>& arguments);

}  // namespace bipo
