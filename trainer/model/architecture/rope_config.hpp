// The rotary embeddings that a config.json describes.
#pragma once

#include <cstdint>

#include "trainer/model/architecture/config_fields.hpp"
#include "trainer/model/architecture/families.hpp"

namespace bipo {

// The head sizes of blocks without and with a window.
struct HeadSizes {
  std::int64_t global = 0;
  std::int64_t local = 0;
};

// Sets config.rotary: the embedding of the blocks without a window, and behind it that of the
// blocks with one in families where it differs.  The context must be known.  May lower it to the
// limit of the rescaling.
//
// transformers 4 has `rope_theta` and `rope_scaling`, transformers 5 has `rope_parameters`, and
// each has a rule for files that hold both or repeat a setting elsewhere (configuration_utils.py,
// modeling_rope_utils.py and the families' configurations of 4.57.6 and 5.23.0).  Follows 5.23.0,
// whichever version wrote the file.  Adds a warning for each setting that the rule reads past, and
// one if the two rules give different embeddings.  Throws UserError.
void read_rotary_embeddings(const ConfigFields& fields, const Family& family,
                            const HeadSizes& head_sizes, ModelConfig& config);

}  // namespace bipo
