// The text part of a model's files: its tokenizer, special tokens and chat template.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "datasets/template/chat_template_source.hpp"
#include "datasets/tokenizer/tokenizer.hpp"

namespace bipo {

struct ModelText {
  Tokenizer tokenizer;
  SpecialTokens special;
  ChatTemplateSource chat_template;
  std::vector<std::string> warnings;  // where its files disagree, and which one is followed
};

// Reads a Hugging Face model directory.  Throws UserError if the tokenizer is missing, or any of
// the three is malformed or not implemented.
ModelText read_model_text(const std::filesystem::path& directory);

}  // namespace bipo
