// Runs a tokenizer over lines of standard input: a JSON string gives its ids, an array of ids gives
// the texts that a decode stream makes of them, one JSON value a line.
#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "datasets/tokenizer.hpp"

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

}  // namespace

int main(int argc, char** argv) {
  const bool skips_special = argc == 3 && std::string(argv[2]) == "--skip-special";
  if (argc != 2 && !skips_special) {
    std::cerr << "usage: tokenize_lines TOKENIZER_JSON [--skip-special] < lines.jsonl\n";
    return 2;
  }
  try {
    const bipo::Tokenizer tokenizer = bipo::Tokenizer::from_file(argv[1]);
    const auto special =
        skips_special ? bipo::SpecialTokenText::kSkipped : bipo::SpecialTokenText::kKept;
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
