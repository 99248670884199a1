// Reads files of preference pairs as the token pairs of one model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "datasets/template/chat_template.hpp"
#include "datasets/tokenizer/tokenizer.hpp"
#include "datasets/tokens/continuations.hpp"
#include "datasets/tokens/model_text.hpp"
#include "datasets/tokens/token_pairs.hpp"

namespace bipo {

struct TokenizedFile {
  std::vector<TokenPair> pairs;
  std::vector<std::string> warnings;  // the first rows and pairs left out, and how many more
};

// A model's tokenizer, special tokens and chat template, with the settings of their use.
class PairTokenizer {
 public:
  // `vocabulary` is the number of ids that the model's embedding knows.  Throws UserError where
  // there is no chat template, or one that is not implemented.
  PairTokenizer(ModelText text, const ChatTemplateSettings& chat_template, std::int64_t vocabulary,
                const TokenizeOptions& options);

  const std::string& template_name() const { return chat_template_.name(); }

  // Whether the tokens depend on the date in the settings.
  bool prints_date() const { return chat_template_.prints_date(); }

  // What the template itself puts where the settings send no system prompt; "" where they send one.
  std::string implied_system_text() const;

  // What the template does otherwise than the settings ask for: a system prompt that has to move, a
  // date that nobody sees.
  std::vector<std::string> warnings() const;

  // Throws UserError as read_preference_pairs() and tokenize_pairs() do, and for an id that the
  // model does not know.
  TokenizedFile read(const std::filesystem::path& file) const;

  // For other texts of the same model; valid as long as this object stays where it is.
  TextTools text() const { return {chat_template_, tokenizer_, special_, options_, vocabulary_}; }

 private:
  void check_ids(const std::vector<TokenPair>& pairs) const;

  Tokenizer tokenizer_;
  SpecialTokens special_;
  ChatTemplate chat_template_;
  bool date_given_;
  std::int64_t vocabulary_;
  TokenizeOptions options_;
};

}  // namespace bipo
