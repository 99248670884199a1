#include "datasets/tokens/model_text.hpp"

#include <utility>

namespace bipo {

ModelText read_model_text(const std::filesystem::path& directory) {
  Tokenizer tokenizer = Tokenizer::from_file(directory / "tokenizer.json");
  const SpecialTokens special = read_special_tokens(directory, tokenizer);
  return {std::move(tokenizer), special, read_chat_template_source(directory), {}};
}

}  // namespace bipo
