// Prints loss, margin and slopes of given pairs under given objectives, as JSON.
#include <exception>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "trainer/objective/objective.hpp"

namespace {

using Json = nlohmann::json;

Json evaluated(const Json& request) {
  const auto of_answers = [&](const char* name) {
    return request.at(name).get<std::vector<double>>();
  };
  const std::vector<double> policy = of_answers("policy");
  const std::vector<double> reference = of_answers("reference");
  const std::vector<double> tokens = of_answers("tokens");
  const bipo::Objective objective{bipo::parse_objective(request.at("objective")),
                                  request.at("beta"), request.at("label_smoothing"),
                                  request.at("simpo_gamma"),
                                  bipo::parse_reduction(request.at("reduction"))};
  const bipo::PairObjective found = bipo::pair_objective(
      objective, {policy.at(0), policy.at(1)}, {reference.at(0), reference.at(1)},
      {tokens.at(0), tokens.at(1)}, request.at("direction"));
  return {{"loss", found.loss},
          {"margin", found.margin},
          {"slope", {found.slope.chosen, found.slope.rejected}}};
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::ifstream file(argc == 2 ? argv[1] : "");
    Json results = Json::array();
    for (const Json& request : Json::parse(file)) {
      results.push_back(evaluated(request));
    }
    std::cout << results.dump() << '\n';
    return 0;
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
