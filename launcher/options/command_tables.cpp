// The options of every command, declared once.
#include "launcher/options/command_tables.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "launcher/options/option_setters.hpp"
#include "launcher/options/shared_options.hpp"
#include "trainer/cost/machine_table.hpp"
#include "trainer/model/architecture/shapes.hpp"

namespace bipo {
namespace {

const std::vector<std::string> kSigns = {"batch", "pair", "both", "plus", "minus"};

OptionSpec batch_size_option(std::int64_t& batch_size) {
  return {"batch-size", "N", with_default("pairs per optimiser step", batch_size),
          integer(batch_size, 1)};
}

OptionSpec micro_batch_option(std::optional<std::int64_t>& micro_batch,
                              const char* automatic = "auto: batch / dp") {
  return {"micro-batch", "N|auto", with_default("pairs per pass through the model", automatic),
          automatic_or_positive(micro_batch)};
}

OptionSpec epochs_option(std::int64_t& epochs) {
  return {"epochs", "N", with_default("passes over the training pairs", epochs),
          integer(epochs, 1)};
}

OptionSpec cache_dtype_option(std::string& dtype) {
  return {"cache-dtype", "NAME",
          with_default("of the kept activations: auto (fp32), fp32, bf16", dtype),
          one_of(dtype, {"auto", "fp32", "bf16"})};
}

Options cache_options(CacheOptions& o) {
  return {{"cache-budget", "SIZE|auto",
           with_default("bytes per node for cached activations, or 512M, 8G", "auto"),
           automatic_or_bytes(o.cache_budget)},
          cache_dtype_option(o.cache_dtype),
          {"cache-dir", "DIR",
           "keep the activations of blocks 0..L in files under DIR, so that the next run on the "
           "same model and data starts at once (default none)",
           path(o.cache_dir)}};
}

OptionGroup machine_group(MachineOptions& machine, CacheOptions& cache,
                          const char* automatic_dp = "auto: ranks / tp") {
  return {"Machine", machine_options(machine, automatic_dp) + cache_options(cache)};
}

OptionSpec check_weights_option(TrainingOptions& o) {
  return {"check-weights", "", "look for NaN and infinity in all weights before work begins",
          flag(o.check_weights)};
}

// Model and data of a run.
Options input_options(TrainingOptions& o) {
  return {
      {"model", "DIR|FILE", "Hugging Face model directory or GGUF file (required)", path(o.model),
       true},
      adapter_option(o.adapter),
      check_weights_option(o),
      {"train", "FILE", "training pairs, CSV or JSONL (required)", path(o.train), true},
      {"test", "FILE", "held-out pairs, CSV or JSONL (default none)", path(o.test)},
  };
}

OptionSpec max_steps_option(TrainingOptions& o) {
  return {"max-steps", "N", with_default("optimiser steps to end after; 0: all", o.max_steps),
          integer(o.max_steps, 0)};
}

OptionSpec lr_unit_option(TrainingOptions& o) {
  return {"lr-unit", "NAME",
          with_default("absolute, or residual: times the layer's median RMS", o.lr_unit),
          one_of(o.lr_unit, {"absolute", "residual"})};
}

Options optimizer_options(TrainingOptions& o) {
  return {{"weight-decay", "X", with_default("decoupled weight decay", o.weight_decay),
           real(o.weight_decay, RealRange::kNonNegative)},
          {"max-grad-norm", "X",
           with_default("clip the gradient's norm here; 0: never", o.max_grad_norm),
           real(o.max_grad_norm, RealRange::kNonNegative)},
          {"warmup-steps", "N",
           with_default("steps of linear warm-up before the cosine", o.warmup_steps),
           integer(o.warmup_steps, 0)}};
}

OptionSpec shuffle_option(TrainingOptions& o) {
  return {"shuffle", "on|off", with_default("new order each epoch", o.shuffle ? "on" : "off"),
          on_off(o.shuffle)};
}

Options evaluation_options(std::vector<double>& multipliers, std::int64_t& eval_every) {
  return {
      {"multipliers", "LIST", with_default("of the vector, to evaluate at", joined(multipliers)),
       real_list(multipliers)},
      {"eval-every", "N", with_default("epochs between evaluations; 0: never", eval_every),
       integer(eval_every, 0)}};
}

OptionGroup evaluation_and_saving_group(TrainingOptions& o) {
  return {"Evaluation and saving",
          evaluation_options(o.multipliers, o.eval_every) +
              Options{{"save-every", "S",
                       with_default("seconds between saves within an epoch", o.save_every),
                       real(o.save_every, RealRange::kNonNegative)}}};
}

Options model_choice_options(ModelChoice& source) {
  return {{"model", "DIR|FILE", "Hugging Face model directory or GGUF file", path(source.model)},
          {"shape", "NAME|FILE",
           fmt::format("instead of --model, no weights needed: {}, or a config.json",
                       fmt::join(kShapeNames, ", ")),
           some_text(source.shape)}};
}

Options pair_options(std::filesystem::path& train, PairLengths& lengths) {
  return {{"train", "FILE", "pairs to take, CSV or JSONL (default: made up, of the lengths below)",
           path(train)},
          {"prompt-length", "N", with_default("tokens of a prompt", lengths.prompt_length),
           integer(lengths.prompt_length, 1)},
          {"answer-length", "N", with_default("tokens of an answer", lengths.answer_length),
           integer(lengths.answer_length, 1)},
          {"common-prefix", "N",
           with_default("leading prompt tokens that all pairs share", lengths.common_prefix),
           integer(lengths.common_prefix, 0)}};
}

std::string exit_code_notes(const std::string& how_to_continue,
                            const std::string& failure = "anything else") {
  return fmt::format(
      "SIGUSR1 and SIGTERM: a checkpoint at the next step, then exit code 75.\n"
      "\n"
      "Exit codes\n"
      "   0  done\n"
      "   2  usage or bad input, found before any work\n"
      "  75  interrupted, with a checkpoint; {} continues\n"
      "   1  {}\n",
      how_to_continue, failure);
}

}  // namespace

CommandTable train_table(TrainOptions& o) {
  return {
      "train",
      "bipo-dist train --model DIR --train FILE --layer N --out FILE [options]\n"
      "\n"
      "Trains one steering vector and writes vector, log and checkpoint into one HDF5 file.\n"
      "Start it by itself or under mpirun or srun; the ranks share the work.\n",
      {{"Input and output",
        input_options(o) +
            Options{
                layer_option(o.layer),
                {"out", "FILE", "run file to write (required)", path(o.out), true},
                {"resume", "", "continue --out from its checkpoint; start anew if there is none",
                 flag(o.resume)},
                {"overwrite", "", "replace an existing --out", flag(o.overwrite)},
                config_option()}},
       {"Training",
        Options{epochs_option(o.epochs), max_steps_option(o), batch_size_option(o.batch_size),
                micro_batch_option(o.micro_batch)} +
            Options{{"lr", "X", with_default("peak learning rate", o.lr),
                     real(o.lr, RealRange::kPositive)},
                    lr_unit_option(o),
                    {"beta", "X", with_default("sharpness of the preference loss", o.beta),
                     real(o.beta, RealRange::kPositive)}} +
            optimizer_options(o) +
            Options{{"sign", "NAME",
                     with_default("direction per step: batch, pair, both, plus, minus", o.sign),
                     one_of(o.sign, kSigns)},
                    shuffle_option(o),
                    {"seed", "N", with_default("of the order and the signs", o.seed),
                     unsigned_integer(o.seed)}}},
       evaluation_and_saving_group(o),
       machine_group(o, o),
       text_group(o),
       help_group()},
      config_notes("train") + exit_code_notes("the same command with --resume") +
          "\n"
          "Example\n"
          "  mpirun -np 8 bipo-dist train --model models/SmolLM2-135M-Instruct --train train.csv "
          "--test test.csv \\\n"
          "      --layer 15 --lr-unit residual --lr 3e-3 --epochs 3 --tp 2 --out run.h5\n"};
}

CommandTable sweep_table(SweepOptions& o) {
  SweepAxes& axes = o.axes;
  return {
      "sweep",
      "bipo-dist sweep --models LIST --train FILE --layers LIST --out DIR [options]\n"
      "\n"
      "Trains one steering vector for every combination of the axes, each into a run file of its "
      "own in\n"
      "--out.  Groups of --dp x --tp ranks take cells in turn, and several jobs may work on one "
      "directory.\n"
      "Started again, it continues.\n",
      {{"Input and output",
        {{"train", "FILE", "training pairs, CSV or JSONL (this or --data is required)",
          path(o.train)},
         {"test", "FILE", "held-out pairs, CSV or JSONL (default none)", path(o.test)},
         adapter_option(o.adapter),
         check_weights_option(o),
         {"out", "DIR", "directory of the run files (required)", path(o.out), true},
         {"retry-failed", "", "train cells again that failed before", flag(o.retry_failed)},
         {"dry-run", "", "print the cells, their order and cost, and train nothing",
          flag(o.dry_run)},
         config_option()}},
       {"Axes",
        {{"models", "LIST",
          "Hugging Face model directories, DIR or NAME=DIR, separated by commas (required)",
          model_list(axes.models), true, "model"},
         {"data", "LIST",
          "data sets, NAME=TRAIN:TEST or NAME=TRAIN, in place of --train and --test",
          data_list(axes.data)},
         {"layers", "LIST",
          "blocks whose output is steered: 1,2,5 or 5:25:5 (first:last:step) or all (required)",
          layer_list(axes.layers), true, "layer"},
         {"seeds", "LIST", with_default("of the order and the signs", joined(axes.seeds)),
          unsigned_list(axes.seeds), false, "seed"},
         {"lrs", "LIST", with_default("peak learning rates", joined(axes.lrs)),
          positive_real_list(axes.lrs), false, "lr"},
         {"betas", "LIST", with_default("sharpnesses of the preference loss", joined(axes.betas)),
          positive_real_list(axes.betas), false, "beta"},
         {"signs", "LIST",
          with_default("directions per step: batch, pair, both, plus, minus", joined(axes.signs)),
          name_list(axes.signs, kSigns), false, "sign"},
         {"batch-sizes", "LIST", with_default("pairs per optimiser step", joined(axes.batch_sizes)),
          positive_integer_list(axes.batch_sizes), false, "batch-size"},
         {"epochs", "LIST", with_default("passes over the training pairs", joined(axes.epochs)),
          positive_integer_list(axes.epochs)},
         {"vectors-per-pass", "N|auto",
          with_default("cells of a layer that train in the same products; 1: each by itself",
                       "auto"),
          automatic_or_positive(o.vectors_per_pass)}}},
       {"Training",
        Options{max_steps_option(o), micro_batch_option(o.micro_batch, "auto: the batch"),
                lr_unit_option(o)} +
            optimizer_options(o) + Options{shuffle_option(o)}},
       evaluation_and_saving_group(o),
       machine_group(o, o, "auto: 1"),
       text_group(o),
       help_group()},
      config_notes("sweep") +
          "--model, --layer, --seed, --lr, --beta, --sign and --batch-size mean the same as their "
          "plurals.\n" +
          exit_code_notes("the same command", "a cell failed, or anything else") +
          "\n"
          "Example\n"
          "  mpirun -np 8 bipo-dist sweep --models models/SmolLM2-135M-Instruct --train train.csv "
          "--test test.csv \\\n"
          "      --layers 5:25:5 --seeds 1,2 --lr-unit residual --lr 3e-3 --epochs 3 --out "
          "sweep\n"};
}

CommandTable collect_table(CollectOptions& o) {
  return {"collect",
          "bipo-dist collect DIR --out FILE [options]\n"
          "\n"
          "Merges the run files of a sweep into one HDF5 file: /summary, one row per cell, and "
          "/runs/CELL.\n"
          "Works on a sweep that still runs, too, and says what is missing.\n",
          {{"Options",
            {{"out", "FILE", "file to write; an older one of its kind is replaced (required)",
              path(o.out), true},
             {"overwrite", "", "replace whatever --out is", flag(o.overwrite)}}},
           help_group()},
          "\nExit codes: 0 done, also where cells are missing; 2 usage or bad input; 1 anything "
          "else\n"};
}

CommandTable bench_table(BenchOptions& o) {
  return {
      "bench",
      "bipo-dist bench --model DIR | --shape NAME --layer N [options]\n"
      "\n"
      "Trains for a few steps and prints how fast that was, next to what the machine can do at "
      "most.\n"
      "Start it by itself or under mpirun or srun, as train.\n",
      {{"Model and pairs", model_choice_options(o.source) +
                               Options{adapter_option(o.adapter), layer_option(o.layer)} +
                               pair_options(o.train, o.lengths) +
                               Options{{"pairs", "N|auto",
                                        with_default("pairs to use, whole batches of them",
                                                     "auto: new ones in every step"),
                                        automatic_or_positive(o.pairs)},
                                       config_option()}},
       {"Measurement",
        {batch_size_option(o.batch_size),
         micro_batch_option(o.micro_batch),
         {"steps", "N", with_default("optimiser steps to measure", o.steps), integer(o.steps, 1)},
         {"warmup", "N", with_default("steps before them that do not count", o.warmup),
          integer(o.warmup, 0)},
         json_option(o.json)}},
       machine_group(o, o),
       text_group(o),
       help_group()},
      config_notes("bench") +
          "\n"
          "Example\n"
          "  mpirun -np 8 bipo-dist bench --shape llama-3.1-70b --layer 40 --batch-size 32 --tp "
          "8\n"};
}

CommandTable plan_table(PlanOptions& o) {
  return {
      "plan",
      "bipo-dist plan --model DIR | --shape NAME --layer N [options]\n"
      "\n"
      "Says what a run needs before it is made: memory per rank, time per step, which --tp and\n"
      "--micro-batch to use, and the cost of the run and of a sweep.  Needs no weights.\n",
      {{"Model and pairs",
        model_choice_options(o.source) + Options{layer_option(o.layer)} +
            pair_options(o.train, o.lengths) +
            Options{{"pairs", "N|auto",
                     with_default("training pairs", "auto: those of --train, else 1000"),
                     automatic_or_positive(o.pairs)},
                    {"test-pairs", "N", with_default("held-out pairs", o.test_pairs),
                     integer(o.test_pairs, 0)},
                    config_option()}},
       {"Run", Options{batch_size_option(o.batch_size), micro_batch_option(o.micro_batch),
                       epochs_option(o.epochs)} +
                   evaluation_options(o.multipliers, o.eval_every) +
                   Options{{"cells", "N", with_default("training runs of a sweep", o.cells),
                            integer(o.cells, 1)},
                           json_option(o.json)}},
       {"Machine",
        {dtype_option(o.dtype),
         cache_dtype_option(o.cache_dtype),
         {"machine", "NAME",
          fmt::format("one of {} (default: this machine, measured)",
                      fmt::join(machine_names(), ", ")),
          one_of(o.machine, machine_names())},
         {"measured", "FILE", "what `bench --json` printed on the machine", path(o.measured)},
         {"devices", "N", with_default("GPUs, or ranks on CPUs", o.devices), integer(o.devices, 1)},
         {"tp", "N|auto", with_default("ranks that share one model", "auto: the fastest that fits"),
          automatic_or_positive(o.tp)}}},
       text_group(o),
       help_group()},
      config_notes("plan") +
          "\n"
          "Example\n"
          "  bipo-dist plan --shape llama-3.1-70b --layer 40 --machine h100 --devices 8 --pairs "
          "642\n"};
}

}  // namespace bipo
