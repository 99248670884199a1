// The options of `evaluate`.
#include "launcher/options/command_tables.hpp"
#include "launcher/options/option_setters.hpp"
#include "launcher/options/shared_options.hpp"

namespace bipo {
namespace {

// Of all forms of the command, --model belongs to one only.
Options model_and_vectors(EvaluateOptions& o) {
  Options options = model_options(o.model, o.adapter);
  options.front().required = false;
  options.front().description = "Hugging Face model directory or GGUF file";
  return options + Options{vector_option(o.vectors)};
}

}  // namespace

CommandTable evaluate_table(EvaluateOptions& o) {
  return {
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
      {{"Input and output",
        model_and_vectors(o) +
            Options{
                {"multipliers", "LIST",
                 with_default("of the vectors, at least two", joined(o.multipliers)),
                 real_list(o.multipliers)},
                positions_option(o.positions),
                {"out", "FILE", "evaluation file to write", path(o.out)},
                {"overwrite", "", "replace an existing --out or --judge-export", flag(o.overwrite)},
                config_option()}},
       {"What to measure (at least one)",
        {{"test", "FILE",
          "held-out pairs, CSV or JSONL: accuracy, margin, propensity curve, steerability",
          path(o.test)},
         {"choices-ab", "FILE", "A/B questions, CSV with question, A, B, matching",
          path(o.choices_ab)},
         {"choices-mc", "FILE", "MC1/MC2 questions, JSONL, also TruthfulQA's own form",
          path(o.choices_mc)},
         {"mmlu", "FILE|DIR",
          "MMLU, SUBJECT_test.csv with SUBJECT_dev.csv beside it, or all of DIR", path(o.mmlu)},
         {"reference-text", "FILE", "plain text, for its perplexity under the steered model",
          path(o.reference_text)},
         {"neutral-prompts", "FILE",
          "questions as generate reads them, for KL(p_0 || p_m) over their token positions",
          path(o.neutral_prompts)},
         {"generations", "FILE",
          "what generate wrote, for its perplexity under the unsteered model, repetition and "
          "refusals",
          path(o.generations)},
         {"grid", "LIST",
          "multipliers of each of exactly two vectors, all combinations, on --test (default none)",
          real_list(o.grid)}}},
       {"Controls and statistics",
        {{"caa", "FILE",
          "run file of a mean difference of the vectors' layer, scaled to their norm (default "
          "none)",
          path(o.caa)},
         {"random-control", "on|off",
          with_default("a random direction of the vectors' norm at their layers",
                       o.random_control ? "on" : "off"),
          on_off(o.random_control)},
         {"beta", "X", with_default("of the margin", o.beta), real(o.beta, RealRange::kPositive)},
         {"seed", "N", with_default("of the random direction and the intervals", o.seed),
          unsigned_integer(o.seed)},
         {"batch-size", "N", with_default("items that go through the model together", o.batch_size),
          integer(o.batch_size, 1)}}},
       {"Judges",
        {{"judge-export", "FILE",
          "write requests in the OpenAI batch format, one for each of --generations",
          path(o.judge_export)},
         {"rubric", "FILE",
          "text with {question} and {response}, if wanted also {matching} and {not_matching}, "
          "which --test or --choices-ab give",
          path(o.rubric)},
         {"behaviour", "NAME", "what is judged", some_text(o.behaviour)},
         {"judge-model", "NAME", with_default("whom the requests ask", o.judge_model),
          some_text(o.judge_model)},
         {"judge-import", "FILE", "results of such a batch", path(o.judge_import)}}},
       {"Machine", machine_options(o, "auto: ranks / tp")},
       text_group(o),
       help_group()},
      config_notes("evaluate") +
          "\n"
          "Tables of --out: curve, steerability, samples, choices, costs, grid, judge and "
          "judge_scores; those not\n"
          "asked for are empty.  Rows of the controls (direction caa, random) stand beside the "
          "vector's own.\n"
          "With several vectors the controls have the norm of what all of them add; --caa needs "
          "vectors of one\n"
          "layer.  A vector of another model of the same hidden size is a transfer: allowed, with "
          "a warning.\n"
          "--positions answer steers the answers' own tokens; what predicts an answer's first "
          "token is not steered,\n"
          "so that --mmlu is refused.\n"
          "--judge-import replaces what --out holds of the same behaviours and keeps everything "
          "else.\n"
          "\n"
          "Exit codes: 0 done; 2 usage or bad input, found before any work; 1 anything else\n"
          "\n"
          "Example\n"
          "  mpirun -np 4 bipo-dist evaluate --model models/SmolLM2-135M-Instruct --vector run.h5 "
          "--test test.csv \\\n"
          "      --multipliers -2,-1,0,1,2 --caa caa.h5 --neutral-prompts questions.txt --out "
          "eval.h5\n"};
}

}  // namespace bipo
