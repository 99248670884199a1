#include "datasets/tokens/model_text.hpp"

#include <utility>

#include "datasets/tokenizer/directory_tokenizer.hpp"

namespace bipo {

ModelText read_model_text(const std::filesystem::path& directory) {
  DirectoryTokenizer read = read_directory_tokenizer(directory);
  ChatTemplateSource chat_template = read_chat_template_source(directory);
  chat_template.special_tokens = std::move(read.named);
  return {std::move(read.tokenizer), std::move(read.special), std::move(chat_template),
          std::move(read.warnings)};
}

}  // namespace bipo
