// The rotary embeddings that a config.json describes.
#pragma once

#include <cstdint>

#include "trainer/model/architecture/config_fields.hpp"
#include "trainer/model/architecture/families.hpp"

namespace bipo {

// Reads the embedding of the blocks without a window, from the fields of transformers 4 and 5; head
// size and context must be known.  May lower the context to the limit of the rescaling.  Throws
// UserError.
RotaryEmbedding read_rotary_embedding(const ConfigFields& fields, const Family& family,
                                      ModelConfig& config);

// Reads the embedding of the blocks with a window, in families where it differs.
RotaryEmbedding read_local_rotary_embedding(const ConfigFields& fields, const Family& family);

}  // namespace bipo
