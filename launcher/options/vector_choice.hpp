// The vectors that --vector names.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "launcher/options/option_table.hpp"

namespace bipo {

struct VectorChoice {
  std::filesystem::path file;  // a run file
  double weight = 1;           // what every multiplier is multiplied by for this vector
};

// FILE or FILE@WEIGHT.  Throws UserError with the rule that the text breaks.
VectorChoice parse_vector_choice(const std::string& text);

// Appends; `target` must outlive the setter.
Setter vector_choices(std::vector<VectorChoice>& target);

}  // namespace bipo
