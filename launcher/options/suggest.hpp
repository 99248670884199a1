// The known name nearest to a mistyped one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace bipo {

// The name of `known` that `word` abbreviates, else the one with the fewest single-character edits
// (insertion, deletion, substitution, swap of neighbours; case does not count); the
// first of equals.  `known` is not empty.
std::string nearest_name(std::string_view word, const std::vector<std::string>& known);

}  // namespace bipo
