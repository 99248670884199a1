// Where in a sequence vectors are added.
#pragma once

namespace bipo {

// Rows at whose positions vectors are added: all of them, as in training, or those after the prompt
// (the answer's own: its first token is predicted by a row that is not steered).
enum class SteeredPositions { kAll, kAnswer };

}  // namespace bipo
