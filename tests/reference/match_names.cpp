// Matches names against expressions of Python's re: each line of standard input is a JSON array of
// a kind ("whole", "ending" or "before_block"), an expression and names; the answer is an array of
// booleans, or the text of the refusal.
#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/lora/name_pattern.hpp"

namespace {

bipo::NamePattern make_pattern(const std::string& kind, const std::string& expression) {
  if (kind == "whole") {
    return bipo::NamePattern::whole(expression);
  }
  return kind == "ending" ? bipo::NamePattern::ending(expression)
                          : bipo::NamePattern::before_block(expression);
}

nlohmann::json answer(const nlohmann::json& line) {
  try {
    const bipo::NamePattern pattern = make_pattern(line.at(0), line.at(1));
    std::vector<bool> matches;
    for (const std::string name : line.at(2)) {
      matches.push_back(pattern.matches(name));
    }
    return matches;
  } catch (const bipo::UserError& refusal) {
    return refusal.what();
  }
}

}  // namespace

int main() {
  try {
    for (std::string line; std::getline(std::cin, line);) {
      std::cout << answer(nlohmann::json::parse(line)).dump() << '\n';
    }
  } catch (const std::exception& error) {
    std::cerr << "match_names: " << error.what() << '\n';
    return 1;
  }
}
