#include "launcher/options/command_tables.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "experiments/settings/fields.hpp"
#include "trainer/cost/machine_table.hpp"
#include "trainer/model/architecture/shapes.hpp"

namespace bipo {
namespace {

// Adds --help to a table as its last option; the parser itself handles it.
CommandTable table(std::string command, std::string usage, std::vector<FieldGroup> groups,
                   std::string notes) {
  Field help{"help", "", "print this page", {}, {}, {}, {}};
  help.set = [](const std::string&) {};
  groups.push_back({"Help", {std::move(help).unstored()}});
  return {std::move(command), std::move(usage), std::move(groups), std::move(notes)};
}

// Returns the help text on --config of a command.
std::string config_notes(const std::string& command) {
  return fmt::format(
      "\n"
      "Configuration file (--config): lines `option = value` with the names above without dashes, "
      "before\n"
      "  the first section or under [{}]; sections of other commands are theirs.  Flags take true "
      "or\n"
      "  false.  The command line wins.  A value is everything after the '=', '#' and quotes "
      "included; a\n"
      "  comment is a line that begins with '#' or ';'.\n"
      "A value that begins with two dashes needs the form --option=value.\n",
      command);
}

std::string exit_code_notes(const std::string& how_to_continue,
                            const std::string& failure = "anything else") {
  return fmt::format(
      "SIGUSR1, SIGTERM, SIGINT, SIGHUP and SIGPIPE: the last completed step is saved at once; the "
      "end\n"
      "  follows after the step in progress, with exit code 75 (1 from mpirun for its own SIGTERM "
      "or\n"
      "  SIGINT).\n"
      "\n"
      "Exit codes\n"
      "   0  done\n"
      "   2  usage or bad input, found before any work\n"
      "  75  interrupted, with a checkpoint; {} continues\n"
      "   1  {}\n",
      how_to_continue, failure);
}

// Fields for the model and pairs of bench and plan.
std::vector<Field> workload_fields(WorkloadOptions& o, const char* pairs,
                                   const char* automatic_pairs) {
  PairLengths& lengths = o.lengths;
  return {field("model", "DIR|FILE",
                "Hugging Face model directory or its name in the local Hub cache, or GGUF file",
                o.source.model),
          field("shape", "NAME|FILE",
                fmt::format("instead of --model, no weights needed: {}, or a config.json",
                            fmt::join(kShapeNames, ", ")),
                o.source.shape, parse_some_text)
              .with_values({kShapeNames.begin(), kShapeNames.end()}),
          layer_field(o.layer),
          site_field(o.site),
          field("train", "FILE", "pairs to take: CSV, TSV, JSON, JSONL, Parquet, Arrow", o.train)
              .with_fallback("made up, of the lengths below"),
          field("prompt-length", "N", "tokens of a prompt", lengths.prompt_length, at_least(1)),
          field("answer-length", "N", "tokens of an answer", lengths.answer_length, at_least(1)),
          field("common-prefix", "N", "leading prompt tokens that all pairs share",
                lengths.common_prefix, at_least(0)),
          automatic_or("pairs", "N", pairs, o.pairs, automatic_pairs, at_least(1)),
          config_field()};
}

std::vector<std::string> export_formats() {
  return {"pt", "safetensors", "gguf", "npy", "lm-eval", "vllm-hook"};
}

std::vector<std::string> import_formats() {
  return {"auto", "pt", "npy", "safetensors", "gguf"};
}

template <typename Value, typename Parse>
Field axis(const char* name, const char* description, std::vector<Value>& values,
           const Parse& parse, const char* other_name = "") {
  return field(name, "LIST", description, values, parse).also_named(other_name);
}

// Makes an axis of a setting of a run: several values are the axis; one is the setting of all
// cells, as it was in earlier versions.
Field setting_axis(const char* name, char separator, const Field& setting,
                   std::vector<std::string>& values) {
  Field made = setting;
  made.name = name;
  made.other_name = setting.name == name ? "" : setting.name;
  made.value_name = "LIST";
  made.set = [setting, usual = setting.text(), separator, &values](const std::string& text) {
    values.clear();
    for (std::size_t begin = 0; begin <= text.size();) {
      const std::size_t end = std::min(text.find(separator, begin), text.size());
      setting.set(text.substr(begin, end - begin));
      values.push_back(setting.text());
      if (std::count(values.begin(), values.end(), values.back()) > 1) {
        throw UserError(fmt::format("must be different values; {} is given twice", values.back()));
      }
      begin = end + 1;
    }
    if (values.size() > 1) {
      setting.set(usual);
    } else {
      values.clear();
    }
  };
  made.text = [setting, separator, &values] {
    return values.empty() ? setting.text()
                          : fmt::format("{}", fmt::join(values, std::string(1, separator)));
  };
  return made;
}

std::vector<Field> setting_axes(SweepOptions& o) {
  SweepAxes& axes = o.axes;
  return {setting_axis("norms", ',', norm_field(o.norm), axes.norms),
          setting_axis("schedules", ',', schedule_field(o.schedule), axes.schedules),
          setting_axis("inits", ',', start_field(o.start), axes.inits),
          setting_axis("factors", ';', factors_field(o.factors), axes.factors)};
}

std::vector<Field> axis_fields(SweepAxes& axes) {
  const auto signs = [](const std::string& text) {
    return parse_name_list(text, names_of<SignRule>());
  };
  return {
      axis("models", "Hugging Face model directories, DIR or NAME=DIR, separated by commas",
           axes.models, parse_models, "model")
          .listing_paths()
          .required(),
      axis("data", "data sets, NAME=TRAIN:TEST or NAME=TRAIN, in place of --train and --test",
           axes.data, parse_data_sets)
          .listing_paths(),
      axis("layers",
           "blocks that are steered: 1,2,5 or 5:25:5 (first:last:step) or all; 10+15+20 are "
           "trained jointly, as one cell",
           axes.layers, parse_layer_ranges, "layer")
          .required(),
      axis("seeds", "seeds of the order and the signs", axes.seeds, parse_unsigned_list, "seed"),
      axis("lrs", "peak learning rates", axes.lrs, parse_positive_real_list, "lr"),
      axis("betas", "sharpnesses of the preference loss", axes.betas, parse_positive_real_list,
           "beta"),
      axis(
          "objectives",
          "what is minimised: bipo, dpo (in direction plus only), ipo, simpo, sft, suppress, reps "
          "(with --factors)",
          axes.objectives,
          [](const std::string& text) { return parse_name_list(text, objective_names()); },
          "objective")
          .with_values(objective_names()),
      axis("label-smoothings", "shares of pairs that are taken to be labelled the wrong way round",
           axes.label_smoothings, parse_smoothing_list, "label-smoothing"),
      axis("simpo-gammas", "margins that simpo wants above 0", axes.simpo_gammas,
           parse_non_negative_real_list, "simpo-gamma"),
      axis(
          "reductions", "of an answer's log-probabilities: sum, mean, or auto, the objective's own",
          axes.reductions,
          [](const std::string& text) {
            return parse_name_list(text, {"sum", "mean", "auto"});
          },
          "reduction")
          .with_values({"sum", "mean", "auto"}),
      axis(
          "positions",
          "tokens at which the vector is added: all, answer, prompt, first:P, last:S; in this list "
          "first:P+last:S for both ends",
          axes.positions, parse_positions_list)
          .with_values({"all", "answer", "prompt"}),
      axis("signs", "directions per step: batch, pair, both, plus, minus", axes.signs, signs,
           "sign")
          .with_values(names_of<SignRule>()),
      axis("batch-sizes", "pairs per optimiser step", axes.batch_sizes, parse_positive_integer_list,
           "batch-size"),
      axis("epochs", "passes over the training pairs", axes.epochs, parse_positive_integer_list)};
}

}  // namespace

CommandTable train_table(TrainOptions& o) {
  return table(
      "train",
      "bipo-dist train --model DIR --train FILE --layer N --out FILE [options]\n"
      "\n"
      "Trains one steering vector, or one for each of several layers jointly, and writes vector, "
      "log and\n"
      "checkpoint into one HDF5 file.\n"
      "Start it by itself or under mpirun or srun; the ranks share the work.\n",
      train_fields(o),
      config_notes("train") + exit_code_notes("the same command with --resume") +
          "\n"
          "Example\n"
          "  mpirun -np 8 bipo-dist train --model models/SmolLM2-135M-Instruct --train train.csv "
          "\\\n"
          "      --test test.csv --layer 15 --lr-unit residual --lr 3e-3 --epochs 3 --tp 2 --out "
          "run.h5\n");
}

CommandTable sweep_table(SweepOptions& o) {
  std::vector<Field> axes = axis_fields(o.axes) + setting_axes(o);
  axes.push_back(automatic_or("vectors-per-pass", "N",
                              "cells of a layer that train in the same products; 1: each by itself",
                              o.vectors_per_pass, "auto", at_least(1)));
  return table(
      "sweep",
      "bipo-dist sweep --models LIST --train FILE --layers LIST --out DIR [options]\n"
      "\n"
      "Trains one steering vector for every combination of the axes, each into a run file of its "
      "own in\n"
      "--out.  Groups of --dp x --tp ranks take cells in turn, and several jobs may work on one "
      "directory.\n"
      "Started again, it continues.\n",
      {{"Input and output",
        {field("train", "FILE",
               "training pairs: CSV, TSV, JSON, JSONL, Parquet, Arrow (this or --data is required)",
               o.train),
         field("test", "FILE", "held-out pairs, likewise", o.test).with_fallback("none"),
         adapter_field(o.adapter), check_weights_field(o.check_weights),
         field("out", "DIR", "directory of the run files", o.out).required(),
         flag("retry-failed", "train cells again that failed before", o.retry_failed),
         flag("dry-run", "print the cells, their order and cost, and train nothing", o.dry_run),
         json_field(o.json, "print what --dry-run finds as one JSON object"), config_field()}},
       {"Axes", std::move(axes)},
       {"Training",
        std::vector{preset_field(), max_steps_field(o.max_steps), patience_field(o.patience),
                    micro_batch_field(o.micro_batch, "auto: the batch"), lr_unit_field(o.lr_unit)} +
            decay_fields(o) + learned_factor_fields(o) + std::vector{rank_field(o.rank)} +
            warmup_fields(o) +
            std::vector{site_field(o.site), steer_bos_field(o.steer_bos),
                        shuffle_field(o.shuffle)}},
       evaluation_and_saving_group(o),
       {"Machine",
        machine_fields(o, "auto: 1") + std::vector{graphs_field(o.cuda_graphs)} + cache_fields(o)},
       {"Progress",
        report_fields(o) +
            std::vector{log_field(o.log_jsonl, "DIR",
                                  "write one JSON object a step, at once, to CELL.jsonl in this "
                                  "folder, which is made if it is missing")}},
       data_group(o, PairFiles::kBoth),
       text_group(o)},
      config_notes("sweep") +
          "--model, --layer, --seed, --lr, --beta, --objective, --label-smoothing, --simpo-gamma,\n"
          "--reduction, --sign, --batch-size, --norm, --schedule and --init mean the same as "
          "their\n"
          "plurals, so that 10,15,20 are three layers of an axis here, and 10+15+20 one that is\n"
          "trained jointly.  --factors has lists: 1;0.5,1,2;learned is an axis of three.\n" +
          exit_code_notes("the same command", "a cell failed, or anything else") +
          "\n"
          "Example\n"
          "  mpirun -np 8 bipo-dist sweep --models models/SmolLM2-135M-Instruct --train train.csv "
          "\\\n"
          "      --test test.csv --layers 5:25:5 --seeds 1,2 --lr-unit residual --lr 3e-3 --epochs "
          "3 "
          "\\\n"
          "      --out sweep\n");
}

CommandTable collect_table(CollectOptions& o) {
  return table(
      "collect",
      "bipo-dist collect DIR|RUN_FILE... --out FILE [options]\n"
      "\n"
      "Merges the run files of sweeps, and single ones, into one HDF5 file: /summary, one row per "
      "cell, and\n"
      "/runs/CELL.  Works on a sweep that still runs, too, and says what is missing.\n",
      {{"Options",
        {field("out", "FILE", "file to write; an older one of its kind is replaced", o.out)
             .required(),
         overwrite_field(o.overwrite, "replace whatever --out is"), json_field(o.json)}}},
      "\nExit codes: 0 done, also where cells are missing; 2 usage or bad input; 1 anything "
      "else\n");
}

CommandTable inspect_table(InspectOptions& o) {
  return table(
      "inspect",
      "bipo-dist inspect RUN_FILE [options]\n"
      "\n"
      "Prints what a run file holds: settings, progress, losses, vectors and evaluations.\n",
      {{"Options", {json_field(o.json)}}},
      "\n"
      "Exit codes: 0 done; 2 usage or bad input; 1 anything else\n"
      "\n"
      "Example\n"
      "  bipo-dist inspect run.h5\n");
}

CommandTable bench_table(BenchOptions& o) {
  std::vector<Field> workload =
      workload_fields(o, "pairs to use, whole batches of them", "auto: new ones in every step");
  workload.insert(workload.begin() + 2, adapter_field(o.adapter));
  return table(
      "bench",
      "bipo-dist bench --model DIR | --shape NAME --layer N [options]\n"
      "\n"
      "Trains for a few steps and prints how fast that was, next to what the machine can do at "
      "most.\n"
      "Start it by itself or under mpirun or srun, as train.\n",
      {{"Model and pairs", std::move(workload)},
       {"Measurement",
        {objective_field(o.objective), batch_size_field(o.batch_size),
         micro_batch_field(o.micro_batch),
         field("steps", "N", "optimiser steps to measure", o.steps, at_least(1)),
         field("warmup", "N", "steps before them that do not count", o.warmup, at_least(0)),
         json_field(o.json)}},
       {"Machine", machine_fields(o) + std::vector{graphs_field(o.cuda_graphs)} + cache_fields(o)},
       data_group(o, PairFiles::kTrain),
       text_group(o)},
      config_notes("bench") +
          "\n"
          "Example\n"
          "  mpirun -np 8 bipo-dist bench --shape llama-3.1-70b --layer 40 --batch-size 32 --tp "
          "8\n");
}

CommandTable plan_table(PlanOptions& o) {
  std::vector<Field> workload =
      workload_fields(o, "training pairs", "auto: those of --train, else 1000");
  workload.insert(workload.end() - 1,
                  field("test-pairs", "N", "held-out pairs", o.test_pairs, at_least(0)));
  return table(
      "plan",
      "bipo-dist plan --model DIR | --shape NAME --layer N [options]\n"
      "\n"
      "Says what a run needs before it is made: memory per rank, time per step, which --tp and\n"
      "--micro-batch to use, and the cost of the run and of a sweep.  Needs no weights.\n",
      {{"Model and pairs", std::move(workload)},
       {"Run",
        std::vector{objective_field(o.objective), batch_size_field(o.batch_size),
                    micro_batch_field(o.micro_batch), epochs_field(o.epochs)} +
            evaluation_fields(o.multipliers, o.eval_every) +
            std::vector{field("cells", "N", "training runs of a sweep", o.cells, at_least(1)),
                        json_field(o.json)}},
       {"Machine",
        {dtype_field(o.dtype), cache_dtype_field(o.cache_dtype), attention_field(o.attention),
         graphs_field(o.cuda_graphs),
         field("machine", "NAME", fmt::format("one of {}", fmt::join(machine_names(), ", ")),
               o.machine, one_of(machine_names()))
             .with_values(machine_names())
             .with_fallback("this machine, measured"),
         field("measured", "FILE", "what `bench --json` printed on the machine", o.measured),
         field("devices", "N", "GPUs, or ranks on CPUs", o.devices, at_least(1)),
         automatic_or("devices-per-node", "N", "so many of them share a node; --tp stays within it",
                      o.devices_per_node, "auto: GPUs at most 8, ranks on CPUs all", at_least(1)),
         automatic_or("tp", "N", "ranks that share one model", o.tp, "auto: the fastest that fits",
                      at_least(1))}},
       data_group(o, PairFiles::kTrain),
       text_group(o)},
      config_notes("plan") +
          "\n"
          "Example\n"
          "  bipo-dist plan --shape llama-3.1-70b --layer 40 --machine h100 --devices 8 --pairs "
          "642\n");
}

CommandTable extract_table(ExtractOptions& o) {
  return table(
      "extract",
      "bipo-dist extract --model DIR --train FILE --layer N --out FILE [options]\n"
      "bipo-dist extract --model DIR --train FILE --layers LIST --out DIR [options]\n"
      "bipo-dist extract --method conceptor-and|conceptor-or|conceptor-not --vector FILE ... --out "
      "FILE\n"
      "\n"
      "Makes a direction without training, from one pass of the pairs through the model, and "
      "writes it as a\n"
      "complete run file, which every command takes that takes a trained vector: the baseline to "
      "compare\n"
      "with.  Start it by itself or under mpirun or srun; the ranks share the work.\n",
      extract_fields(o),
      "\n"
      "h is the output of block N, or with --site mlp of its MLP, without any vector; a and b of a "
      "pair\n"
      "are the means of h over the tokens of the chosen and of the rejected answer: those of its "
      "text, up\n"
      "to and without the end-of-sequence token, because generation ends there, so that no vector "
      "is ever\n"
      "added to its activations.\n"
      "\n"
      "  caa    the mean of a - b over the pairs (Contrastive Activation Addition, arXiv "
      "2312.06681)\n"
      "  caa-letter\n"
      "         the same at the letter of (A or (B, where --train has A/B items: question, A, B, "
      "matching\n"
      "  probe  logistic regression that tells a from b, with an intercept, on activations in "
      "residual\n"
      "         units; its weights at length 1 (a linear probe, arXiv 1610.01644)\n"
      "  pca    the first principal component of a - b, not centred, of length 1 and with the sign "
      "of their\n"
      "         mean (arXiv 2310.01405)\n"
      "  mean-centring\n"
      "         the mean of a over the pairs of --train less the mean of a and b over those of\n"
      "         --background; the rejected answers of --train do not count (arXiv 2312.03813)\n"
      "  freeform\n"
      "         the mean of a - b at the last token of the answers' text (arXiv 2311.09433); "
      "prints the\n"
      "         Jensen-Shannon divergence by which its authors choose a layer: the largest\n"
      "  confst the mean of a over the pairs whose a the regression of probe gives --confidence "
      "(after\n"
      "         CONFST, arXiv 2503.02989)\n"
      "  ensemble\n"
      "         the mean of the vectors of given run files of this layer, each times its W (arXiv\n"
      "         2503.05371)\n"
      "  conceptor\n"
      "         no direction but a matrix C = R (R + aperture^-2 I)^-1 with R the second moments "
      "of a in\n"
      "         residual units (arXiv 2410.16314), in a file of its own kind; generate and "
      "evaluate\n"
      "         multiply h by W C\n"
      "  conceptor-and, conceptor-or, conceptor-not\n"
      "         the conceptor of what all of the given conceptors let pass, of what any of them "
      "does, of\n"
      "         what the one given holds back; these read no model and no pairs\n"
      "\n"
      "Sums are exact: any --dp gives the same bits.\n" +
          config_notes("extract") +
          "\n"
          "Exit codes: 0 done; 2 usage or bad input, found before any work; 1 anything else\n"
          "\n"
          "Example\n"
          "  mpirun -np 8 bipo-dist extract --method caa --model models/SmolLM2-135M-Instruct \\\n"
          "      --train train.csv --layers all --match-norm run.h5 --out caa\n");
}

CommandTable generate_table(GenerateOptions& o) {
  return table(
      "generate",
      "bipo-dist generate --model DIR --vector FILE --prompt TEXT | --prompts FILE [options]\n"
      "\n"
      "Generates an answer to every prompt at every multiplier, all of a batch in the same passes\n"
      "through the model.  Start it by itself or under mpirun or srun; replicas share the "
      "prompts.\n",
      generate_fields(o),
      config_notes("generate") +
          "\n"
          "A row of --out has prompt_index, prompt, vectors (name, layer, epoch from 1), "
          "multiplier, text,\n"
          "tokens (ids, without the one that ended it), mean_logprob (nats per token, of the "
          "steered model) and\n"
          "finish_reason (stop, length); with several vectors also multipliers, one for each, and "
          "with --gate\n"
          "gate_open.  Rows are in the order of prompts and multipliers.\n"
          "\n"
          "Exit codes: 0 done; 2 usage or bad input, found before any work; 75 interrupted, the "
          "answers so far\n"
          "are in --out; 1 anything else\n"
          "\n"
          "Example\n"
          "  bipo-dist generate --model models/SmolLM2-135M-Instruct --vector run.h5 \\\n"
          "      --prompt \"How do I fix a flat tyre?\" --multipliers -2,0,2 --stream\n");
}

CommandTable evaluate_table(EvaluateOptions& o) {
  return table(
      "evaluate",
      "bipo-dist evaluate --model DIR --vector FILE --test FILE --out FILE [options]\n"
      "bipo-dist evaluate --judge-export FILE --generations FILE --rubric FILE --behaviour NAME\n"
      "bipo-dist evaluate --judge-import FILE --out FILE\n"
      "\n"
      "Measures what vectors do to a model's answers and what that costs, at every multiplier, "
      "and\n"
      "writes tables with bootstrap 95 % intervals into one HDF5 file.  Start it by itself or "
      "under\n"
      "mpirun or srun; replicas share the items.  Without --model, which the judge's files do not\n"
      "need: writes requests for a judge, or adds its scores to the tables of an existing --out.\n",
      evaluate_fields(o),
      config_notes("evaluate") +
          "\n"
          "Tables of --out: curve, steerability, chosen, choices, costs, grid and judge, and the "
          "single items\n"
          "behind them: samples, choosing_pairs, choice_items, grid_samples and judge_scores; "
          "those not\n"
          "requested are empty.\n"
          "Rows of the controls (direction caa, random, random-2 ...) are beside the vector's "
          "own.\n"
          "With several vectors the controls have the norm of what all of them add; --caa needs\n"
          "vectors of one layer.  A vector of another model of the same hidden size is a transfer: "
          "allowed,\n"
          "with a warning.\n"
          "--positions answer steers the answers' own tokens; what predicts an answer's first "
          "token is not\n"
          "steered, so that --mmlu is refused.\n"
          "--judge-import replaces what --out holds of the same behaviours and keeps everything "
          "else.\n"
          "\n"
          "Exit codes: 0 done; 2 usage or bad input, found before any work; 1 anything else\n"
          "\n"
          "Example\n"
          "  mpirun -np 4 bipo-dist evaluate --model models/SmolLM2-135M-Instruct --vector run.h5 "
          "\\\n"
          "      --test test.csv --multipliers -2,-1,0,1,2 --caa caa.h5 --neutral-prompts "
          "questions.txt \\\n"
          "      --out eval.h5\n");
}

CommandTable report_table(AnalysisOptions& o) {
  Field generations = field("generations", "FILE",
                            "answers that generate wrote, of which three prompts are shown; may be "
                            "given several times",
                            o.generations, [&o](const std::string& text) {
                              std::vector<std::filesystem::path> all = o.generations;
                              all.emplace_back(parse_some_text(text));
                              return all;
                            });
  generations.repeats = true;
  return table(
      "report",
      "bipo-dist report RUN|SWEEP...|EVALUATION... [options]\n"
      "\n"
      "Writes one HTML page about a run file, about sweeps (directories, or what collect made of "
      "them) and\n"
      "runs, or about evaluation files.  It starts the Python package of experiments/analysis, "
      "which offers\n"
      "more.\n",
      {{"Options",
        {field("out", "FILE", "page to write; one that is there is replaced", o.out)
             .with_fallback(o.out.string()),
         std::move(generations),
         field("python", "FILE", "Python with h5py, matplotlib, numpy and pandas", o.python)
             .with_fallback("venv-report or venv-full in $BIPO_CACHE")}}},
      "\n"
      "launcher/quickstart.sh makes the environment venv-report (0.1 GB to fetch), unless there "
      "is\n"
      "venv-full; $BIPO_CACHE is ~/.cache/bipo-dist unless it is set.\n"
      "\n"
      "Exit codes: 0 done; 2 usage or bad input; 1 anything else\n"
      "\n"
      "Example\n"
      "  bipo-dist report run.h5 --out run.html\n");
}

CommandTable data_table(ShowDataOptions& o) {
  return table(
      "data",
      "bipo-dist data FILE --model DIR [options]\n"
      "\n"
      "Prints what was understood of a file of pairs, before any work: counts, lengths in tokens, "
      "rows that\n"
      "would be left out, and the first pair as the model gets it.  Needs no weights.\n",
      {{"Options", {model_field(o.model).required(), json_field(o.json), config_field()}},
       data_group(o, PairFiles::kTrain),
       text_group(o)},
      config_notes("data") +
          "\n"
          "Exit codes: 0 done, also where rows would be left out; 2 usage or bad input; 1 anything "
          "else\n"
          "\n"
          "Example\n"
          "  bipo-dist data train.csv --model models/SmolLM2-135M-Instruct\n");
}

CommandTable watch_table(WatchOptions& o) {
  return table(
      "watch",
      "bipo-dist watch DIR|RUN_FILE|LOG.jsonl [options]\n"
      "\n"
      "Shows the state of a sweep's directory, of a run file or of a log of --log-jsonl, again and "
      "again:\n"
      "status, step, loss, margin, time left, and which process on which host works on it.  Reads "
      "only, so\n"
      "that it does not disturb the job, and may run on another host that sees the files.\n",
      {{"Options",
        {field("every", "SECONDS", "time between two pictures", o.every,
               real(RealRange::kPositive)),
         flag("once", "show one picture and end", o.once)}}},
      "\n"
      "It ends when the work does, and at Ctrl-C.  A run file and its picture are as old as the "
      "last save.\n"
      "\n"
      "Exit codes: 0 done, also at Ctrl-C; 2 usage or bad input; 1 anything else\n"
      "\n"
      "Example\n"
      "  bipo-dist watch sweep\n");
}

CommandTable export_table(ExportOptions& o) {
  return table(
      "export",
      "bipo-dist export RUN_FILE[:EPOCH][@W]... --format NAME --out FILE [options]\n"
      "\n"
      "Writes the vector of a run file, or those of several layers of one model, in the format of "
      "another\n"
      "program.  :best, :last or :epoch=N (from 1) behind a file choose another epoch than the run "
      "did; @W\n"
      "multiplies its vector.\n",
      {{"Options",
        {field(
             "format", "NAME",
             "pt (torch.save of a float32 tensor), safetensors, gguf (a control vector for "
             "llama.cpp), npy, lm-eval (for lm-evaluation-harness, --model steered), or vllm-hook "
             "(for IBM's vLLM-Hook)",
             o.format, one_of(export_formats()))
             .with_values(export_formats())
             .required(),
         field("out", "FILE", "file to write", o.out).required(),
         field("layer", "N[,N...]", "of a run of several layers, the vectors of these", o.layers,
               parse_block_list)
             .with_fallback("all"),
         field("epoch", "N", "the same as :epoch=N behind the file", o.epoch, at_least(1))
             .with_fallback("the vector that the run ended with"),
         field("multiplier", "X", "factor on the vector", o.multiplier, real(RealRange::kAny)),
         overwrite_field(o.overwrite)}}},
      "\n"
      "A reader of the file adds the vector to the output of block --layer of the run (from 0), at "
      "every\n"
      "  position.  A gguf names that block itself; one of block 0 cannot be written, because "
      "llama.cpp\n"
      "  takes none.  An lm-eval file names it as the module layers.L and must be called *.pt.\n"
      "  A pt of several layers is {layer: tensor}, a safetensors file has the tensors layers.L; "
      "an npy and\n"
      "  a vllm-hook file hold one vector; --layer chooses one of a run of several layers.\n"
      "\n"
      "Exit codes: 0 done; 2 usage or bad input; 1 anything else\n"
      "\n"
      "Examples\n"
      "  bipo-dist export run.h5 --format gguf --out vector.gguf\n"
      "  bipo-dist export layer10.h5 layer15.h5@0.5 --format gguf --out vector.gguf\n"
      "  llama-cli -m model.gguf --control-vector-scaled vector.gguf:1.5 -p \"...\"\n");
}

CommandTable import_table(ImportOptions& o) {
  constexpr std::int64_t kLargestShift = 1000;
  return table(
      "import",
      "bipo-dist import FILE --out RUN_FILE [options]\n"
      "\n"
      "Makes a run file of a vector in another format, for --vector, export and inspect, which "
      "read run\n"
      "files only.\n",
      {{"Options",
        {field("layer", "N",
               "block, from 0, to which the vector is added; of several vectors in the file "
               "it chooses one",
               o.layer, at_least(0))
             .with_fallback("all that the file has"),
         field("layer-of-row", "r|r-1",
               "the block of row r of a table [R, D]: r, or r-1 where row 0 is the embedding's, as "
               "in persona_vectors",
               o.layer_of_row, one_of({"r", "r-1"}))
             .with_values({"r", "r-1"})
             .with_fallback("a table is refused"),
         field("shift", "N",
               "added to every layer that the file names; -1 for files of llama-cvector-generator, "
               "which measured direction.N at block N - 1",
               o.shift, at_least(-kLargestShift)),
         field("out", "RUN_FILE",
               "run file to write; of several vectors, NAME.h5 for one run that has them all, or a "
               "directory for a run file of each",
               o.out)
             .required(),
         field("format", "NAME",
               "pt (of torch.save, old and new), npy, safetensors, gguf (a control vector), or "
               "auto: as the file begins",
               o.format, one_of(import_formats()))
             .with_values(import_formats()),
         field("model", "NAME", "what it was trained on", o.model, parse_some_text)
             .with_fallback("what the file says"),
         overwrite_field(o.overwrite)}}},
      "\n"
      "FILE holds one vector, one for each of several layers ({layer: vector}, direction.L, "
      "layers.L), or a\n"
      "table.  Several make one run file each, DIR/layerL.h5, or one run file of all, NAME.h5, "
      "which\n"
      "steers all of these layers together, unless --layer chooses.  Numbers are float32, 64, 16, "
      "bfloat16,\n"
      "or float8 in a pt; a multiplier beside a vector (lm-eval) is applied to it.\n"
      "FILE is not trusted: nothing in it is run, and a pickle that holds more than tensors is "
      "refused.\n"
      "\n"
      "Exit codes: 0 done; 2 usage or bad input; 1 anything else\n"
      "\n"
      "Examples\n"
      "  bipo-dist import vec_ep20_layer15.pt --layer 15 \\\n"
      "      --model meta-llama/Llama-2-7b-chat-hf --out power.h5\n"
      "  bipo-dist import repeng.gguf --out layers/\n"
      "  bipo-dist import joint.safetensors --out joint.h5\n"
      "  bipo-dist import evil_response_avg_diff.pt --layer-of-row r-1 --layer 15 --out evil.h5\n");
}

CommandTable page_table(const std::string& command, const std::string& usage) {
  return table(command, usage, {}, "");
}

}  // namespace bipo
