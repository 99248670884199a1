// Which of the vectors of a run file is meant.
#pragma once

#include <cstdint>
#include <string>

namespace bipo {

struct VectorSelection {
  enum class Kind {
    kResult,  // the one that the run ended with: the last row of /vectors
    kLast,    // that of the last step
    kBest,    // that of best_epoch()
    kEpoch    // that of `epoch`
  };

  Kind kind = Kind::kResult;
  std::int64_t epoch = 0;  // of kEpoch, from 1 as people count
};

// Returns what follows the ':' behind the file: "", "last", "best", "epoch=3".
std::string to_string(const VectorSelection& selection);

}  // namespace bipo
