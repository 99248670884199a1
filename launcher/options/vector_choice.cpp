#include "launcher/options/vector_choice.hpp"

#include "collectives/foundation/errors.hpp"
#include "launcher/options/option_values.hpp"

namespace bipo {

// A path may hold an '@' itself: only what reads as a number after the last one is a weight.
VectorChoice parse_vector_choice(const std::string& text) {
  const std::size_t at = text.rfind('@');
  VectorChoice choice{text, 1};
  if (at != std::string::npos) {
    try {
      choice.weight = parse_real(text.substr(at + 1), RealRange::kAny);
      choice.file = text.substr(0, at);
    } catch (const UserError&) {
      choice.file = text;
    }
  }
  if (choice.file.empty()) {
    throw UserError("must name a run file, or FILE@WEIGHT");
  }
  return choice;
}

Setter vector_choices(std::vector<VectorChoice>& target) {
  return [&target](const std::string& text) { target.push_back(parse_vector_choice(text)); };
}

}  // namespace bipo
