#include "experiments/job/text_options.hpp"

#include <fmt/format.h>

#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/template/chat_template.hpp"
#include "datasets/template/chat_template_source.hpp"
#include "datasets/tokens/tokenization.hpp"

namespace bipo {

TokenizeOptions tokenize_options(const TextOptions& options, std::int64_t context) {
  if (options.max_length > context) {
    throw UserError(fmt::format("--max-length {}: the model's context is {} tokens",
                                options.max_length, context));
  }
  TokenizeOptions tokenize;
  tokenize.system_prompt = options.system_prompt;
  tokenize.bos = options.bos;
  tokenize.add_eos = !options.no_eos;
  tokenize.max_length = options.max_length == 0 ? context : options.max_length;
  tokenize.bad_rows = options.skip_bad ? BadRows::kSkip : BadRows::kRefuse;
  tokenize.train_turns = options.train_turns;
  return tokenize;
}

RowOptions row_options(const TextOptions& options, std::int64_t max_pairs) {
  RowOptions rows;
  rows.bad_rows = options.skip_bad ? BadRows::kSkip : BadRows::kRefuse;
  rows.columns = parse_columns(options.columns);
  rows.answer_pairs = options.answer_pairs;
  rows.max_pairs = max_pairs;
  rows.seed = options.data_seed;
  rows.on_duplicate = options.on_duplicate;
  rows.keeps_transcripts = options.chat_template == kRawForm;
  return rows;
}

ChatTemplateSettings template_settings(const TextOptions& options) {
  if (!options.template_date) {
    throw BugError("a chat template is used before its date is chosen");
  }
  TemplateVariables arguments = TemplateVariables::object();
  for (const auto& [name, value] : options.template_args.values) {
    arguments[name] = value;
  }
  return {options.chat_template, *options.template_date, std::move(arguments)};
}

}  // namespace bipo
