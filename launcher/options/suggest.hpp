// Finds the known name nearest to a mistyped one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace bipo {

// Returns the name of `known` that `word` abbreviates, else the first with the fewest
// single-character edits (insertion, deletion, substitution, swap of neighbours; case does not
// count).  `known` must not be empty.
std::string nearest_name(std::string_view word, const std::vector<std::string>& known);

}  // namespace bipo
