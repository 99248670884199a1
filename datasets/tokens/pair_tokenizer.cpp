#include "datasets/tokens/pair_tokenizer.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/rows/preference_pairs.hpp"
#include "datasets/tokens/pair_checks.hpp"

namespace bipo {
namespace {

constexpr std::size_t kShownWarnings = 5;

void add_warnings(std::vector<std::string>& warnings, const std::vector<std::string>& skipped) {
  for (std::size_t i = 0; i < skipped.size() && i < kShownWarnings; ++i) {
    warnings.push_back(fmt::format("left out: {}", skipped[i]));
  }
  if (skipped.size() > kShownWarnings) {
    warnings.push_back(fmt::format("left out: {} rows more", skipped.size() - kShownWarnings));
  }
}

}  // namespace

PairTokenizer::PairTokenizer(ModelText text, const ChatTemplateSettings& chat_template,
                             std::int64_t vocabulary, const TokenizeOptions& options)
    : tokenizer_(std::move(text.tokenizer)),
      special_(text.special),
      chat_template_(text.chat_template, chat_template),
      date_given_(chat_template.date.given),
      arguments_(chat_template.arguments),
      vocabulary_(vocabulary),
      options_(options),
      text_warnings_(std::move(text.warnings)) {
}

std::string PairTokenizer::implied_system_text() const {
  return options_.system_prompt.empty() ? chat_template_.implied_system_text() : "";
}

std::vector<std::string> PairTokenizer::warnings() const {
  std::vector<std::string> warnings = text_warnings_;
  if (!options_.system_prompt.empty() && !chat_template_.takes_system_turn()) {
    warnings.push_back(fmt::format(
        "the chat template ({}) takes no system turn: the system prompt goes before the "
        "first user turn",
        template_name()));
  }
  if (!special_.after_text.empty() && chat_template_.name() == kPlainForm) {
    warnings.push_back(
        fmt::format("the tokenizer puts the tokens {} after every text; prompts end without them, "
                    "and answers with EOS unless --no-eos",
                    special_.after_text));
  }
  if (!options_.system_prompt.empty() && chat_template_.is_raw()) {
    warnings.push_back(
        "--chat-template raw: texts stand as they are, so that no system prompt is sent; give "
        "--system-prompt \"\" to say so");
  }
  for (const auto& [name, value] : arguments_.items()) {
    if (!chat_template_.mentions(name)) {
      warnings.push_back(fmt::format("--template-arg {}: the chat template ({}) never reads it",
                                     name, template_name()));
    }
  }
  if (const std::string& left_out = chat_template_.left_out_of_context(); !left_out.empty()) {
    warnings.push_back(fmt::format(
        "the chat template ({}) ends a prompt with {}, which a conversation with an answer lacks: "
        "given answers (of pairs and choices) are scored without it in their context, as TRL 1.16 "
        "does, while generation begins after it; a template file, or one of the formats of "
        "--chat-template, can put both alike",
        template_name(), nlohmann::json(left_out).dump()));
  }
  if (date_given_ && !prints_date()) {
    warnings.push_back(
        fmt::format("--template-date: the chat template ({}) prints no date", template_name()));
  }
  return warnings;
}

TokenizedFile PairTokenizer::read(const std::filesystem::path& file) const {
  RowOptions options;
  options.bad_rows = options_.bad_rows;
  return read(file, options);
}

// A name that is no token of the vocabulary becomes a new one, as in transformers.
void PairTokenizer::require_known_eos() const {
  if (options_.add_eos && special_.eos && *special_.eos >= vocabulary_) {
    throw UserError(fmt::format(
        "the end-of-sequence token \"{}\" has the token id {}, which is outside the model's "
        "vocabulary "
        "of {}; name one that the model knows as eos_token in its tokenizer_config.json, or use "
        "--no-eos",
        tokenizer_.decode(std::array{*special_.eos}, SpecialTokenText::kKept), *special_.eos,
        vocabulary_));
  }
}

TokenizedFile PairTokenizer::read(const std::filesystem::path& file,
                                  const RowOptions& options) const {
  require_known_eos();
  TokenizedFile result;
  const PairFile rows = read_preference_pairs(file, options);
  result.understood = rows.understood;
  add_warnings(result.warnings, rows.skipped);
  TokenPairs tokens = tokenize_pairs(rows.pairs, text());
  add_warnings(result.warnings, tokens.skipped);
  result.warnings.insert(result.warnings.end(), tokens.warnings.begin(), tokens.warnings.end());
  for (const TokenPair& pair : tokens.pairs) {
    try {
      for (const auto* part : {&pair.prompt, &pair.chosen, &pair.rejected}) {
        require_known_ids(*part, vocabulary_);
      }
    } catch (const UserError& error) {
      throw UserError(fmt::format("{}: {}", pair.where, error.what()));
    }
  }
  report(repeat_lines(file.string(), tokens.pairs), options.on_duplicate, result.warnings);
  report(templated_lines(file.string(), rows.pairs, tokenizer_), OnDuplicate::kWarn,
         result.warnings);
  result.pairs = std::move(tokens.pairs);
  return result;
}

}  // namespace bipo
