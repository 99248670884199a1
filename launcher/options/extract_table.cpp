// The options of `extract`.
#include "launcher/options/command_tables.hpp"
#include "launcher/options/option_setters.hpp"
#include "launcher/options/shared_options.hpp"

namespace bipo {

CommandTable extract_table(ExtractOptions& o) {
  return {
      "extract",
      "bipo-dist extract --model DIR --train FILE --layer N --out FILE [options]\n"
      "bipo-dist extract --model DIR --train FILE --layers LIST --out DIR [options]\n"
      "\n"
      "Makes a direction without training, from one pass of the pairs through the model, and "
      "writes it as a\n"
      "complete run file, which every command takes that takes a trained vector: the baseline to "
      "compare with.\n"
      "Start it by itself or under mpirun or srun; the ranks share the work.\n",
      {{"Input and output",
        model_options(o.model, o.adapter) +
            Options{
                {"check-weights", "", "look for NaN and infinity in all weights before work begins",
                 flag(o.check_weights)},
                {"train", "FILE", "preference pairs, CSV or JSONL (required)", path(o.train), true},
                {"layer", "N", "block, from 0, whose output the direction is of (this or --layers)",
                 integer(o.layer, 0)},
                {"layers", "LIST",
                 "several in one pass: 1,2,5 or 5:25:5 (first:last:step) or all (this or --layer)",
                 layer_list(o.layers)},
                {"out", "FILE|DIR",
                 "run file to write; with --layers the directory of run files layerN.h5 (required)",
                 path(o.out), true},
                {"overwrite", "", "replace run files that exist", flag(o.overwrite)},
                config_option()}},
       {"Direction",
        {{"method", "NAME", with_default("caa: the mean difference, see below", o.method),
          one_of(o.method, {"caa"})},
         {"norm", "X", "scale the direction to this length (default: as found)",
          real(o.norm, RealRange::kPositive)},
         {"match-norm", "FILE",
          "scale it to the length of the last vector of this run file (default: as found)",
          path(o.match_norm)}}},
       {"Machine", machine_options(o, "auto: ranks / tp")},
       text_group(o),
       help_group()},
      "\n"
      "Mean difference (caa; Contrastive Activation Addition, arXiv 2312.06681): the mean over the "
      "pairs of\n"
      "  the mean of h over the chosen answer's tokens - the mean of h over the rejected answer's "
      "tokens,\n"
      "  where h is the output of block N without any vector.  An answer's tokens are those of its "
      "text, up to\n"
      "  and without the end-of-sequence token: generation ends there, so that no vector is ever "
      "added to its\n"
      "  activations.  Sums are exact: any --dp gives the same bits.\n" +
          config_notes("extract") +
          "\n"
          "Exit codes: 0 done; 2 usage or bad input, found before any work; 1 anything else\n"
          "\n"
          "Example\n"
          "  mpirun -np 8 bipo-dist extract --method caa --model models/SmolLM2-135M-Instruct "
          "--train train.csv \\\n"
          "      --layers all --match-norm run.h5 --out caa\n"};
}

}  // namespace bipo
