// What known families need that this program does not compute.
#pragma once

#include <string_view>

namespace bipo {

// Returns what a model of this class of transformers 5.23.0 needs, for messages; "" for classes
// that are not known.
std::string_view missing_for(std::string_view architecture);

}  // namespace bipo
