// The rotary embeddings that a config.json describes.
#pragma once

#include <cstdint>

#include "trainer/model/architecture/config_fields.hpp"
#include "trainer/model/architecture/families.hpp"
#include "trainer/model/architecture/rotary.hpp"

namespace bipo {

// That of the blocks that see everything, in the places and under the names of transformers 4 and
// 5; head size and context must be known.  May lower the context to what the rescaling is defined
// for.  Throws UserError.
RotaryEmbedding read_rotary_embedding(const ConfigFields& fields, const Family& family,
                                      ModelConfig& config);

// That of the blocks with a window, in families where it is another one.
RotaryEmbedding read_local_rotary_embedding(const ConfigFields& fields, const Family& family);

}  // namespace bipo
