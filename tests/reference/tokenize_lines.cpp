// Runs a tokenizer over lines of standard input: a JSON string gives its ids, an array of ids gives
// the texts that a decode stream makes of them, one JSON value a line.  For a model directory,
// the first line tells of its special tokens and warnings.
#include <algorithm>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "datasets/tokenizer/gguf_tokenizer.hpp"
#include "datasets/tokenizer/tokenizer.hpp"
#include "datasets/tokens/model_text.hpp"

namespace {

// The text after each id, then what was held back to the end.
std::vector<std::string> stream_texts(const bipo::Tokenizer& tokenizer,
                                      const std::vector<bipo::TokenId>& ids,
                                      bipo::SpecialTokenText special) {
  std::vector<std::string> texts;
  bipo::Tokenizer::DecodeStream stream = tokenizer.decode_stream(special);
  for (const bipo::TokenId id : ids) {
    texts.push_back(stream.push(id));
  }
  texts.push_back(stream.finish());
  return texts;
}

// The values under tokenizer.ggml.*, written as a JSON object.
bipo::Tokenizer from_gguf_values(const std::string& path) {
  std::ifstream stream(path);
  const auto values = nlohmann::json::parse(stream);
  bipo::GgufVocabulary vocabulary;
  vocabulary.model = values.at("model");
  vocabulary.pre = values.value("pre", "");
  vocabulary.tokens = values.at("tokens");
  vocabulary.merges = values.value("merges", std::vector<std::string>());
  vocabulary.scores = values.value("scores", std::vector<float>());
  vocabulary.token_type = values.value("token_type", std::vector<std::int64_t>());
  if (values.contains("add_space_prefix")) {
    vocabulary.add_space_prefix = values["add_space_prefix"].get<bool>();
  }
  return bipo::Tokenizer::from_gguf(vocabulary);
}

nlohmann::json id_or_null(const std::optional<bipo::TokenId>& id) {
  return id ? nlohmann::json(*id) : nlohmann::json();
}

nlohmann::json description(const bipo::ModelText& text) {
  return {{"bos", id_or_null(text.special.bos)},
          {"eos", id_or_null(text.special.eos)},
          {"ends", text.special.ends},
          {"before_text", text.special.before_text},
          {"after_text", text.special.after_text},
          {"named", text.chat_template.special_tokens},
          {"warnings", text.warnings}};
}

bipo::Tokenizer open_tokenizer(const std::string& path, bool gguf_values) {
  if (gguf_values) {
    return from_gguf_values(path);
  }
  if (std::filesystem::is_directory(path)) {
    bipo::ModelText text = bipo::read_model_text(path);
    std::cout << description(text).dump() << '\n';
    return std::move(text.tokenizer);
  }
  return bipo::Tokenizer::from_file(path);
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const auto has_option = [&](const std::string& option) {
    return std::find(arguments.begin(), arguments.end(), option) != arguments.end();
  };
  if (arguments.empty()) {
    std::cerr << "usage: tokenize_lines FILE [--gguf-values] [--skip-special] < lines.jsonl\n";
    return 2;
  }
  try {
    const bipo::Tokenizer tokenizer = open_tokenizer(arguments[0], has_option("--gguf-values"));
    const auto special = has_option("--skip-special") ? bipo::SpecialTokenText::kSkipped
                                                      : bipo::SpecialTokenText::kKept;
    std::string line;
    while (std::getline(std::cin, line)) {
      const auto value = nlohmann::json::parse(line);
      const nlohmann::json result =
          value.is_string() ? nlohmann::json(tokenizer.encode(value.get<std::string>()))
                            : nlohmann::json(stream_texts(
                                  tokenizer, value.get<std::vector<bipo::TokenId>>(), special));
      std::cout << result.dump() << '\n';
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
