// Options that several commands declare alike.
#include "launcher/options/shared_options.hpp"

#include "datasets/template/chat_template.hpp"
#include "launcher/options/option_setters.hpp"

namespace bipo {

Options operator+(Options first, const Options& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

OptionSpec config_option() {
  return {"config", "FILE", "INI file with any of these options", nothing()};
}

OptionSpec dtype_option(std::string& dtype) {
  return {"dtype", "NAME", with_default("of weights and products: auto, fp32, bf16", dtype),
          one_of(dtype, {"auto", "fp32", "bf16"})};
}

OptionSpec json_option(bool& json) {
  return {"json", "", "print one JSON object instead of text", flag(json)};
}

Options prompt_text_options(TextOptions& o) {
  return {{"system-prompt", "TEXT",
           with_default("\"\" sends none", fmt::format("\"{}\"", o.system_prompt)),
           any_text(o.system_prompt)},
          {"chat-template", "NAME|FILE",
           fmt::format("how a conversation is laid out: auto (the model's own template), {}, or a "
                       "file with a Jinja template (default {})",
                       fmt::join(ChatTemplate::names(), ", "), o.chat_template),
           some_text(o.chat_template)},
          {"template-date", "YYYY-MM-DD",
           "the day that a template prints as today's (default the run's first day, in UTC)",
           template_date(o.template_date)},
          {"no-bos", "", "no begin-of-sequence token before a prompt", flag(o.no_bos)}};
}

OptionGroup text_group(TextOptions& o) {
  return {
      "Text",
      prompt_text_options(o) +
          Options{{"no-eos", "", "no end-of-sequence token after an answer", flag(o.no_eos)},
                  {"max-length", "N",
                   with_default("most tokens in prompt and answer; 0: the model's context",
                                o.max_length),
                   integer(o.max_length, 0)},
                  {"skip-bad", "", "skip and count bad rows instead of ending", flag(o.skip_bad)}}};
}

Options model_options(std::filesystem::path& model, std::filesystem::path& adapter) {
  return {{"model", "DIR|FILE", "Hugging Face model directory or GGUF file (required)", path(model),
           true},
          adapter_option(adapter)};
}

OptionSpec vector_option(std::vector<VectorChoice>& vectors) {
  OptionSpec option{"vector", "FILE[@W]",
                    "run file whose last vector is added, times W (default 1); may be given "
                    "several times: vectors add up",
                    vector_choices(vectors)};
  option.repeats = true;
  return option;
}

OptionSpec positions_option(std::string& positions) {
  return {
      "positions", "NAME",
      with_default("tokens at which vectors are added: all (as in training), answer", positions),
      one_of(positions, {"all", "answer"})};
}

Options machine_options(MachineOptions& o, const char* automatic_dp) {
  return {dtype_option(o.dtype),
          {"device", "NAME", with_default("auto, cpu, cuda", o.device),
           one_of(o.device, {"auto", "cpu", "cuda"})},
          {"tp", "N", with_default("ranks that share one model", o.tp), integer(o.tp, 1)},
          {"dp", "N|auto", with_default("replicas of the model", automatic_dp),
           automatic_or_positive(o.dp)},
          {"threads", "N|auto",
           with_default("per rank", "auto: OMP_NUM_THREADS, else a share of the cores"),
           automatic_or_positive(o.threads)},
          {"deterministic", "", "deterministic kernels on CUDA", flag(o.deterministic)}};
}

OptionGroup help_group() {
  return {"Help", {{"help", "", "print this page", nothing()}}};
}

OptionSpec adapter_option(std::filesystem::path& adapter) {
  return {"adapter", "DIR",
          "PEFT directory of a LoRA adapter, merged into the model (default none)", path(adapter)};
}

OptionSpec layer_option(std::int64_t& layer) {
  return {"layer", "N", "block, from 0, whose output is steered (required)", integer(layer, 0),
          true};
}

std::string config_notes(const std::string& command) {
  return fmt::format(
      "\n"
      "Configuration file (--config): lines `option = value` with the names above without dashes, "
      "optionally\n"
      "  under [{}]; flags take true or false.  The command line wins.  A value is everything "
      "after the\n"
      "  '=', '#' and quotes included; a comment is a line that begins with '#' or ';'.\n"
      "A value that begins with two dashes needs the form --option=value.\n",
      command);
}

}  // namespace bipo
