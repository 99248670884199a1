// The names that tensors have in a checkpoint, where a tool or a wrapper put something before them.
#pragma once

#include <string>
#include <vector>

#include "trainer/model/sharding/names.hpp"

namespace bipo {

struct Wrapper;  // architecture/wrappers.hpp

// How a checkpoint spells the names of sharding/names.hpp.
struct CheckpointNames {
  std::string blocks = "model.";          // stands in place of "model."
  std::string head = "lm_head.weight";    // stands in place of "lm_head.weight"
  std::vector<std::string> alternatives;  // other beginnings that might have been meant
  std::string usual = "model.";           // what should stand in place of `blocks`
  // Whether transformers 5.23 reads these names as they are: it adds or takes one "model.", knows
  // those of its wrappers, and starts a model with random weights, without an error, where that
  // does not help.
  bool are_known_to_transformers = true;

  // Returns the checkpoint's name for a tensor of names.hpp.
  std::string stored(const std::string& name) const;
};

// Finds the beginning of the names of the tensors `names`, by that of the first block's norm. Names
// as they should be come first: those that `wrapper` declares, in its order, or those of
// `usual` where it is null.  Of several other beginnings none is chosen.
CheckpointNames find_names(const std::vector<std::string>& names, const Wrapper* wrapper = nullptr,
                           const ClassNames& usual = {});

}  // namespace bipo
