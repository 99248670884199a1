// The settings of every command as typed values.  experiments/settings/fields.hpp describes each
// one once: its option, help and rule, its row in the start-up table, and how files store it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "datasets/batches/batch_plan.hpp"
#include "datasets/rows/row_options.hpp"
#include "datasets/text/bos_rule.hpp"
#include "datasets/text/template_date.hpp"
#include "datasets/text/train_turns.hpp"
#include "experiments/evaluation/judge_scale.hpp"
#include "experiments/progress/progress.hpp"
#include "experiments/runs/vector_selection.hpp"
#include "experiments/sweeps/sweep_axes.hpp"
#include "trainer/intervention/intervention.hpp"
#include "trainer/intervention/layers.hpp"
#include "trainer/intervention/positions.hpp"
#include "trainer/intervention/site.hpp"
#include "trainer/objective/objective.hpp"
#include "trainer/optimizer/optimizer.hpp"

namespace bipo {

// kAuto and an empty optional mean `auto` on the command line; preparing a job resolves them.

enum class Dtype { kAuto, kFp32, kBf16 };
enum class DeviceKind { kAuto, kCpu, kCuda };
// Where a training on a device reads the cached activations from; kAuto: there, if they fit.
enum class CacheDevice { kAuto, kHost, kDevice };
enum class Kernels { kAuto, kComposed, kCompiled };
// How packed rows attend on a device; kAuto: by flash attention, where device and model allow it.
enum class Attention { kAuto, kComposed, kFlash };
// Whether the work of micro-batches is recorded as CUDA graphs; kAuto: where the host would else be
// no faster than the device.
enum class CudaGraphs { kAuto, kOff, kOn };
// The unit of --lr: 1, or the median RMS of the residual stream at the (lowest) layer.
enum class LrUnit { kAbsolute, kResidual };
// The vector that a complete run ends with: that of the last step, or of the epoch with the largest
// held-out margin.
enum class Select { kLast, kBest };
// How `extract` makes a direction: see trainer/extraction/methods.hpp.
enum class ExtractMethod {
  kCaa,
  kProbe,
  kPca,
  kMeanCentring,
  kEnsemble,
  kCaaLetter,
  kFreeform,
  kConfst,
  kConceptor,
  kConceptorAnd,
  kConceptorOr,
  kConceptorNot
};

// Whether the method makes a conceptor of given ones, without a model or pairs.
constexpr bool combines_conceptors(ExtractMethod method) {
  return method == ExtractMethod::kConceptorAnd || method == ExtractMethod::kConceptorOr ||
         method == ExtractMethod::kConceptorNot;
}

// Whether it makes a conceptor, where others make a direction.
constexpr bool makes_conceptor(ExtractMethod method) {
  return method == ExtractMethod::kConceptor || combines_conceptors(method);
}

// A length of the vector: a number, or per cent of the residual stream's median norm.
struct Length {
  double value = 0;
  bool is_percent = false;
  bool operator==(const Length&) const = default;

  double absolute(double residual_norm) const {
    return is_percent ? value / 100 * residual_norm : value;
  }
};

// The vector's norm after every update.
struct NormChoice {
  NormRule rule = NormRule::kFree;
  Length length;  // unless kFree
  bool operator==(const NormChoice&) const = default;
};

// The vector before the first step, unless a file has it: of a random direction, or zeros.
struct RandomStart {
  Length length;  // 0: zeros
  bool operator==(const RandomStart&) const = default;
};

// By what a pair's vector is multiplied: one of `values`, which it draws, or a number that is
// trained with the vector.
struct FactorChoice {
  std::vector<double> values = {1};
  bool is_learned = false;
  bool operator==(const FactorChoice&) const = default;
};

// A warm-up as a share of a run's steps, or as steps.
using Warmup = std::variant<double, std::int64_t>;

// Which rows of a data file are taken, and how their columns are read.
struct DataOptions {
  std::string columns;  // as parse_columns() reads it; empty: the file's own names
  AnswerPairs answer_pairs = AnswerPairs::kBest;
  std::int64_t max_pairs = 0;              // of the training file; 0: all
  std::int64_t max_test_pairs = 0;         // of the held-out file; 0: all
  std::optional<std::uint64_t> data_seed;  // empty: the first pairs, in the file's order
  OnDuplicate on_duplicate = OnDuplicate::kWarn;
};

// Variables of chat templates, by name.
struct TemplateArguments {
  std::map<std::string, nlohmann::ordered_json> values;
  bool operator==(const TemplateArguments&) const = default;
};

// How a conversation becomes tokens.
struct TextOptions : DataOptions {
  std::string system_prompt = "You are a helpful, honest and concise assistant.";
  std::string chat_template = "auto";
  std::optional<TemplateDate> template_date;  // empty: the first day of the run
  TemplateArguments template_args;
  TrainTurns train_turns = TrainTurns::kAssistant;
  bool no_eos = false;
  BosRule bos = BosRule::kAuto;
  std::int64_t max_length = 0;  // tokens; 0: the model's context
  bool skip_bad = false;
};

// Where the ranks compute and in which types.
struct MachineOptions {
  Dtype dtype = Dtype::kAuto;
  DeviceKind device = DeviceKind::kAuto;
  std::int64_t tp = 1;
  std::optional<std::int64_t> dp;
  std::optional<std::int64_t> threads;
  bool deterministic = false;
  Kernels kernels = Kernels::kAuto;
  Attention attention = Attention::kAuto;
  CudaGraphs cuda_graphs = CudaGraphs::kAuto;
  double timeout = 600;  // seconds that ranks wait for one without progress; 0: without end
};

// The cached activations of blocks 0..L.
struct CacheOptions {
  std::optional<std::uint64_t> cache_budget;  // bytes per node
  Dtype cache_dtype = Dtype::kAuto;
  CacheDevice cache_device = CacheDevice::kAuto;
  std::filesystem::path cache_dir;  // empty: anonymous shared memory
  bool cache_shared = false;        // opens files there that belong to other users
};

// A vector as people name it: FILE, FILE:best, FILE:last or FILE:epoch=N, each with or without
// @WEIGHT behind it.
struct VectorChoice {
  std::filesystem::path file;  // a run file; empty: none
  double weight = 1;           // factor on every multiplier of this vector
  VectorSelection selection = {};

  bool empty() const { return file.empty(); }
};

// Settings that the cells of a sweep share: those of a training run except for its axes.
struct TrainingOptions : TextOptions, MachineOptions, CacheOptions, ReportOptions {
  std::set<std::string> given;  // names of the options that the user wrote
  std::filesystem::path model;
  std::filesystem::path adapter;  // empty: none
  bool check_weights = false;
  std::filesystem::path train;
  std::filesystem::path test;        // empty: no held-out pairs
  std::filesystem::path background;  // of an extraction; empty: none
  bool trains_on_letters = false;    // of an extraction: `train` has A/B items
  Site site = Site::kBlock;          // of every layer that is steered

  std::int64_t epochs = 3;
  std::int64_t max_steps = 0;  // 0: no limit
  std::int64_t batch_size = 4;
  std::optional<std::int64_t> micro_batch;
  LrUnit lr_unit = LrUnit::kResidual;
  double weight_decay = 0;
  double max_grad_norm = 1;  // 0: no clipping
  FactorChoice factors;
  double factor_lr = 0.01;  // of a learned factor, absolute
  double factor_init = 1;   // where it begins
  std::int64_t rank = 1;    // see parse_rank()
  Schedule schedule = Schedule::kCosine;
  NormChoice norm;
  RandomStart start;
  bool steer_bos = true;                     // a prompt's begin-of-sequence token is one of it
  std::optional<Warmup> warmup;              // see warmup.hpp, also for both empty
  std::optional<std::int64_t> warmup_steps;  // as they are, even beyond the end of the run
  bool shuffle = true;

  std::vector<double> multipliers = {-1, 0, 1};
  std::int64_t eval_every = 1;  // epochs; 0: never
  Select select = Select::kLast;
  std::int64_t patience = 0;         // evaluations without a better margin; 0: no early end
  std::filesystem::path log_jsonl;   // of a sweep a directory of logs; empty: none
  double save_every = 30;            // seconds
  std::filesystem::path rescue_dir;  // empty: the system's folder for temporary files
  bool dry_run = false;              // prepares and shows, trains and writes nothing
};

struct TrainOptions : TrainingOptions {
  SteeredLayers layer = -1;  // or several, trained jointly
  std::filesystem::path out;
  bool resume = false;
  bool overwrite = false;
  VectorChoice continue_from;   // empty: the vector starts at zero
  bool starts_by_init = false;  // --init names continue_from, as --continue-from does otherwise
  double lr = 3e-3;
  ObjectiveKind objective = ObjectiveKind::kBipo;
  double beta = 0.1;
  double label_smoothing = 0;
  double simpo_gamma = Objective().simpo_gamma;
  std::optional<Reduction> reduction;  // empty: the objective's own
  SteeredPositions positions;          // after preparation with the token that is left out
  // After preparation kPlus for an objective with one direction, kBoth for one that projects out.
  SignRule sign = SignRule::kBatch;
  std::uint64_t seed = 11;
};

// Returns the layers with their site.
inline SteeredLayers steered_layers(const TrainOptions& options) {
  return options.layer.at(options.site);
}

// Returns the option that names the run file whose vector a run starts from.
inline const char* start_option(const TrainOptions& options) {
  return options.starts_by_init ? "--init" : "--continue-from";
}

// The objective's own reduction, or the given one.
inline Objective objective_of(const TrainOptions& options) {
  return {options.objective, options.beta, options.label_smoothing, options.simpo_gamma,
          options.reduction.value_or(own_reduction(options.objective))};
}

struct SweepOptions : TrainingOptions {
  // The axes replace model, epochs and batch_size above; axes.data may be empty where train and
  // test are set.
  SweepAxes axes;
  std::filesystem::path out;                     // a directory
  std::optional<std::int64_t> vectors_per_pass;  // 1: one after the other
  bool retry_failed = false;
  bool json = false;  // with dry_run
};

// A model directory, or a named shape or config.json without weights; exactly one is set.
struct ModelChoice {
  std::filesystem::path model;
  std::string shape;
};

// Pairs of made-up tokens, all of the same lengths, for use without a file of real ones.
struct PairLengths {
  std::int64_t prompt_length = 80;
  std::int64_t answer_length = 12;
  std::int64_t common_prefix = 18;  // leading prompt tokens that all pairs share
};

// The work that bench measures and plan predicts: steps on one model and its pairs.
struct WorkloadOptions {
  ModelChoice source;
  std::filesystem::path train;  // empty: pairs of the lengths below
  PairLengths lengths;
  std::optional<std::int64_t> pairs;
  SteeredLayers layer = -1;  // or several, trained jointly
  Site site = Site::kBlock;
  std::int64_t batch_size = 4;
  std::optional<std::int64_t> micro_batch;
  bool json = false;
};

inline SteeredLayers steered_layers(const WorkloadOptions& options) {
  return options.layer.at(options.site);
}

struct BenchOptions : TextOptions, MachineOptions, CacheOptions, WorkloadOptions {
  std::filesystem::path adapter;  // empty: none
  ObjectiveKind objective = ObjectiveKind::kBipo;
  std::int64_t steps = 10;
  std::int64_t warmup = 2;  // steps before the counted ones
};

struct PlanOptions : TextOptions, WorkloadOptions {
  std::int64_t test_pairs = 0;
  ObjectiveKind objective = ObjectiveKind::kBipo;
  std::int64_t epochs = 3;
  std::vector<double> multipliers = {-1, 0, 1};
  std::int64_t eval_every = 1;  // epochs; 0: never
  Dtype dtype = Dtype::kAuto;
  Dtype cache_dtype = Dtype::kAuto;
  Attention attention = Attention::kAuto;
  CudaGraphs cuda_graphs = CudaGraphs::kAuto;
  std::string machine;             // a name of the machine table; empty: see `measured`
  std::filesystem::path measured;  // output of `bench --json`; both empty: measure this machine
  std::int64_t devices = 1;
  std::optional<std::int64_t> devices_per_node;
  std::optional<std::int64_t> tp;
  std::int64_t cells = 1;
};

// Extraction: a direction computed from the same pairs without training.
struct ExtractOptions : TextOptions, MachineOptions, ReportOptions {
  ExtractMethod method = ExtractMethod::kCaa;
  double probe_c = 1;                 // of kProbe and kConfst
  double confidence = 0.9;            // of kConfst
  double aperture = 10;               // of kConceptor, in residual units
  std::filesystem::path background;   // pairs of kMeanCentring
  std::vector<VectorChoice> vectors;  // of kEnsemble; conceptors where it combines_conceptors()
  bool normalise = false;             // each of them
  std::filesystem::path model;  // empty where it combines_conceptors(), as are `train` and `layer`
  std::filesystem::path adapter;  // empty: none
  bool check_weights = false;
  std::filesystem::path train;
  std::int64_t layer = -1;         // -1: see `layers`
  std::vector<LayerRange> layers;  // empty: every layer of the model
  Site site = Site::kBlock;        // what the activations are of
  std::filesystem::path out;       // a file for `layer`, a directory for `layers`
  bool overwrite = false;
  double norm = 0;          // 0: as found
  VectorChoice match_norm;  // empty: see `norm`
};

// The prompts whose answers are steered: those whose projection on the vector is above a threshold.
struct GateChoice {
  VectorChoice vector;  // empty: all prompts
  double threshold = 0;
};

// Vectors in use: a whole model, vectors, and the multipliers to try.
struct SteeringOptions : TextOptions, MachineOptions, ReportOptions {
  std::filesystem::path model;    // empty: judge files only (evaluate)
  std::filesystem::path adapter;  // empty: none
  std::vector<VectorChoice> vectors;
  std::vector<double> multipliers = {-2, -1, 0, 1, 2};
  std::optional<SteeredPositions> positions;  // empty: those that the vectors were trained at
  std::optional<bool> steer_bos;              // likewise
  Intervention intervention;
  GateChoice gate;
  std::filesystem::path out;
  bool overwrite = false;
  std::uint64_t seed = 11;
};

struct GenerateOptions : SteeringOptions {  // out empty: texts go to stdout
  std::string prompt;                       // one of these two is set
  std::filesystem::path prompts;
  std::int64_t max_new_tokens = 200;
  double temperature = 0;
  std::int64_t top_k = 0;
  double top_p = 1;
  double repetition_penalty = 1;  // 1: none
  bool ignore_eos = false;
  std::optional<std::int64_t> batch_size;  // prompts
  bool stream = false;
};

struct EvaluateOptions : SteeringOptions {
  // Inputs of the measures; an empty one means that its measure is left out.
  std::filesystem::path test;
  std::filesystem::path choices_ab;
  std::filesystem::path choices_mc;
  std::filesystem::path mmlu;
  std::filesystem::path reference_text;
  std::filesystem::path neutral_prompts;
  std::filesystem::path generations;
  std::vector<double> grid;
  VectorChoice caa;  // empty: none
  bool random_control = true;
  std::int64_t random = 1;          // random directions; all but the first on `test` only
  std::optional<double> choose_on;  // share of the pairs of `test` that choose a multiplier
  double beta = 0.1;
  std::int64_t batch_size = 4;
  std::filesystem::path judge_export;
  std::filesystem::path rubric;
  std::string behaviour;
  std::string judge_model = "gpt-4o";
  std::filesystem::path judge_import;
  JudgeScale judge_scale;
  bool json = false;

  std::int64_t random_directions() const { return random_control ? random : 0; }
};

struct CollectOptions {
  std::vector<std::filesystem::path> sources;  // directories of sweeps, run files
  std::filesystem::path out;
  bool overwrite = false;
  bool json = false;
};

struct ExportOptions {
  std::vector<VectorChoice> vectors;  // of different layers
  std::string format;
  std::filesystem::path out;
  std::optional<std::int64_t> epoch;  // the same as the selection of every vector
  std::vector<std::int64_t> layers;   // empty: all that the files have
  double multiplier = 1;
  bool overwrite = false;
};

struct ImportOptions {
  std::filesystem::path file;
  std::string format = "auto";
  std::optional<std::int64_t> layer;  // empty: all of the file's
  std::string layer_of_row;           // of a table: "r" or "r-1"; empty: a table is refused
  std::int64_t shift = 0;             // added to the layers that the file names
  std::string model;                  // empty: the file's
  std::filesystem::path out;          // a directory where several vectors are imported
  bool overwrite = false;
};

// Shows what the pairs of a file are to a model.
struct ShowDataOptions : TextOptions {
  std::filesystem::path file;
  std::filesystem::path model;
  bool json = false;
};

// Follows a sweep's directory, a run file, or a log of --log-jsonl.
struct WatchOptions {
  std::filesystem::path path;
  double every = 5;  // seconds
  bool once = false;
};

// Starts the analysis.
struct AnalysisOptions {
  std::vector<std::filesystem::path> paths;  // a run, sweeps or evaluations
  std::filesystem::path out = "report.html";
  std::vector<std::filesystem::path> generations;
  std::filesystem::path python;  // empty: of the environment that the set-up made
};

struct InspectOptions {
  std::filesystem::path run_file;
  bool json = false;
};

}  // namespace bipo
