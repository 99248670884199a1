// The options of `import`.
#include "launcher/options/command_tables.hpp"
#include "launcher/options/option_setters.hpp"
#include "launcher/options/shared_options.hpp"

namespace bipo {

CommandTable import_table(ImportOptions& o) {
  return {
      "import",
      "bipo-dist import FILE --layer L --out RUN_FILE [options]\n"
      "\n"
      "Makes a run file of a vector in another format, for --vector, export and inspect, which "
      "read "
      "run files only.\n",
      {{"Options",
        {{"layer", "N",
          "block, from 0, to whose output the vector is added (default what the file says; a pt "
          "never does)",
          integer(o.layer, 0)},
         {"out", "RUN_FILE", "run file to write (required)", path(o.out), true},
         {"format", "NAME",
          with_default("pt (of torch.save, old and new), safetensors, gguf (a control vector), or "
                       "auto: as the file begins",
                       o.format),
          one_of(o.format, {"auto", "pt", "safetensors", "gguf"})},
         {"model", "NAME", "what it was trained on (default what the file says)",
          some_text(o.model)},
         {"overwrite", "", "replace an existing --out", flag(o.overwrite)}}},
       help_group()},
      "\n"
      "FILE holds one vector of float32, float64, float16 or bfloat16; of a gguf with several "
      "--layer chooses.\n"
      "It is not trusted: nothing in it is run, and a pickle that holds more than a tensor is "
      "refused.\n"
      "\n"
      "Exit codes: 0 done; 2 usage or bad input; 1 anything else\n"
      "\n"
      "Example\n"
      "  bipo-dist import vec_ep20_layer15.pt --layer 15 --model meta-llama/Llama-2-7b-chat-hf "
      "--out power.h5\n"};
}

}  // namespace bipo
