// The rotary embeddings that a config.json describes.
#pragma once

#include "trainer/model/architecture/config_fields.hpp"
#include "trainer/model/architecture/families.hpp"

namespace bipo {

// Sets config.rotary: the embedding of the blocks without a window, and behind it that of the
// blocks with one in families where it differs.  Head size and context must be known.  May lower
// the context to the limit of the rescaling.
//
// transformers 4 has `rope_theta` and `rope_scaling`, transformers 5 has `rope_parameters`, and
// each has a rule for files that hold both or repeat a setting elsewhere (configuration_utils.py,
// modeling_rope_utils.py and the families' configurations of 4.57.6 and 5.23.0).  Follows 5.23.0,
// whichever version wrote the file.  Adds a warning for each setting that the rule reads past, and
// one if the two rules give different embeddings.  Throws UserError.
void read_rotary_embeddings(const ConfigFields& fields, const Family& family, ModelConfig& config);

}  // namespace bipo
