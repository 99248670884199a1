// The options of `export`.
#include "launcher/options/command_tables.hpp"
#include "launcher/options/option_setters.hpp"
#include "launcher/options/shared_options.hpp"

namespace bipo {

CommandTable export_table(ExportOptions& o) {
  return {
      "export",
      "bipo-dist export RUN_FILE --format NAME --out FILE [options]\n"
      "\n"
      "Writes the vector of a run file in the format of another program.\n",
      {{"Options",
        {{"format", "NAME",
          "pt (torch.save of a float32 tensor), safetensors, gguf (a control vector for "
          "llama.cpp), npy, or lm-eval (for lm-evaluation-harness, --model steered) (required)",
          one_of(o.format, {"pt", "safetensors", "gguf", "npy", "lm-eval"}), true},
         {"out", "FILE", "file to write (required)", path(o.out), true},
         {"epoch", "N", "epoch, from 0, whose vector is meant (default the last)",
          integer(o.epoch, 0)},
         {"multiplier", "X", with_default("factor on the vector", o.multiplier),
          real(o.multiplier, RealRange::kAny)},
         {"overwrite", "", "replace an existing --out", flag(o.overwrite)}}},
       help_group()},
      "\n"
      "Whoever reads the file adds the vector to the output of block --layer of the run (from 0), "
      "at every\n"
      "  position.  A gguf names that block itself; one of block 0 cannot be written, because "
      "llama.cpp takes\n"
      "  none.  An lm-eval file names it as the module layers.L and must be called *.pt.\n"
      "\n"
      "Exit codes: 0 done; 2 usage or bad input; 1 anything else\n"
      "\n"
      "Example\n"
      "  bipo-dist export run.h5 --format gguf --out vector.gguf\n"
      "  llama-cli -m model.gguf --control-vector-scaled vector.gguf:1.5 -p \"...\"\n"};
}

}  // namespace bipo
