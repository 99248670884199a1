// Tokenises one JSON string per line of standard input and prints the ids as one JSON array per
// line.
#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "datasets/tokenizer.hpp"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: tokenize_lines TOKENIZER_JSON < strings.jsonl\n";
    return 2;
  }
  try {
    const bipo::Tokenizer tokenizer = bipo::Tokenizer::from_file(argv[1]);
    std::string line;
    while (std::getline(std::cin, line)) {
      const auto text = nlohmann::json::parse(line).get<std::string>();
      std::cout << nlohmann::json(tokenizer.encode(text)).dump() << '\n';
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
