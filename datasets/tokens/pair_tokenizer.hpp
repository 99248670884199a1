// Reads files of preference pairs as the token pairs of one model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "datasets/rows/row_options.hpp"
#include "datasets/template/chat_template.hpp"
#include "datasets/tokenizer/tokenizer.hpp"
#include "datasets/tokens/model_text.hpp"
#include "datasets/tokens/tokenization.hpp"

namespace bipo {

struct TokenizedFile {
  std::vector<TokenPair> pairs;
  // The first rows left out and the number of others; equal answers, repeats, and texts that are
  // laid out for a chat already.
  std::vector<std::string> warnings;
  std::string understood;  // one line for people: see PairFile
};

// A model's tokenizer, special tokens and chat template, with the settings of their use.
class PairTokenizer {
 public:
  // `vocabulary` is the number of ids in the model's embedding.  Throws UserError if there is no
  // chat template, or one that is not implemented.
  PairTokenizer(ModelText text, const ChatTemplateSettings& chat_template, std::int64_t vocabulary,
                const TokenizeOptions& options);

  const std::string& template_name() const { return chat_template_.name(); }

  // Whether the tokens depend on the date in the settings.
  bool prints_date() const { return chat_template_.prints_date(); }

  // Returns the template's own system text if the settings send no system prompt; "" if they do.
  std::string implied_system_text() const;

  // Lists the warnings about the model's files, settings that the template cannot follow (a system
  // prompt that has to move or is not sent, a date that it does not print, a variable that it never
  // reads), and the end of a generation prompt that given answers do without.
  std::vector<std::string> warnings() const;

  // Throws UserError as read_preference_pairs() and tokenize_pairs() do, for an id that the model
  // does not know, and for equal answers and repeats under OnDuplicate::kError.
  TokenizedFile read(const std::filesystem::path& file, const RowOptions& rows) const;
  TokenizedFile read(const std::filesystem::path& file) const;  // with the bad rows of the settings

  // For other texts of the same model; valid until this object is moved or destroyed.
  TextTools text() const { return {chat_template_, tokenizer_, special_, options_, vocabulary_}; }

 private:
  void require_known_eos() const;

  Tokenizer tokenizer_;
  SpecialTokens special_;
  ChatTemplate chat_template_;
  bool date_given_;
  TemplateVariables arguments_;
  std::int64_t vocabulary_;
  TokenizeOptions options_;
  std::vector<std::string> text_warnings_;
};

}  // namespace bipo
