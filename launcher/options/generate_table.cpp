// The options of `generate`.
#include "launcher/options/command_tables.hpp"
#include "launcher/options/option_setters.hpp"
#include "launcher/options/shared_options.hpp"

namespace bipo {

CommandTable generate_table(GenerateOptions& o) {
  return {
      "generate",
      "bipo-dist generate --model DIR --vector FILE --prompt TEXT | --prompts FILE [options]\n"
      "\n"
      "Generates an answer to every prompt at every multiplier, all of a batch in the same passes\n"
      "through the model.  Start it by itself or under mpirun or srun; replicas share the "
      "prompts.\n",
      {{"Input and output",
        model_options(o.model, o.adapter) +
            Options{
                vector_option(o.vectors),
                {"prompt", "TEXT", "one question", some_text(o.prompt)},
                {"prompts", "FILE",
                 "questions: a text file with one a line, CSV with a column question or prompt, "
                 "or JSONL with prompt (a text or messages)",
                 path(o.prompts)},
                {"multipliers", "LIST",
                 with_default("of the vectors; 0: the model by itself", joined(o.multipliers)),
                 real_list(o.multipliers)},
                positions_option(o.positions),
                {"out", "FILE", "JSONL file to write (default: texts go to stdout)", path(o.out)},
                {"overwrite", "", "replace an existing --out", flag(o.overwrite)},
                {"stream", "", "show the texts of one --prompt side by side as they grow",
                 flag(o.stream)},
                config_option()}},
       {"Generation",
        {{"max-new-tokens", "N", with_default("most tokens of an answer", o.max_new_tokens),
          integer(o.max_new_tokens, 1)},
         {"temperature", "X",
          with_default("of sampling; 0: always the likeliest token", o.temperature),
          real(o.temperature, RealRange::kNonNegative)},
         {"top-k", "N", with_default("sample among the N likeliest tokens; 0: all", o.top_k),
          integer(o.top_k, 0)},
         {"top-p", "X",
          with_default("sample among the likeliest tokens that together have this probability",
                       o.top_p),
          real(o.top_p, RealRange::kShare)},
         {"seed", "N", with_default("of sampling", o.seed), unsigned_integer(o.seed)},
         {"ignore-eos", "", "go on after end-of-sequence tokens", flag(o.ignore_eos)},
         {"batch-size", "N|auto",
          with_default("prompts that go through the model together", "auto: for 64 answers"),
          automatic_or_positive(o.batch_size)}}},
       {"Machine", machine_options(o, "auto: ranks / tp")},
       {"Text", prompt_text_options(o)},
       help_group()},
      config_notes("generate") +
          "\n"
          "A row of --out has prompt_index, prompt, multiplier, text, tokens (ids, without the one "
          "that ended it),\n"
          "mean_logprob (nats per token, of the steered model) and finish_reason (stop, length); "
          "with several\n"
          "vectors also multipliers, one for each.  Rows stand in the order of prompts and "
          "multipliers.\n"
          "\n"
          "Exit codes: 0 done; 2 usage or bad input, found before any work; 75 interrupted, the "
          "answers so far\n"
          "are in --out; 1 anything else\n"
          "\n"
          "Example\n"
          "  bipo-dist generate --model models/SmolLM2-135M-Instruct --vector run.h5 --prompt "
          "\"How "
          "do I fix a flat tyre?\" \\\n"
          "      --multipliers -2,0,2 --stream\n"};
}

}  // namespace bipo
