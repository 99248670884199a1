// What a GGUF file's metadata says of its model's architecture.
#pragma once

#include "trainer/model/architecture/config.hpp"
#include "trainer/model/gguf/gguf_architectures.hpp"
#include "trainer/model/gguf/gguf_file.hpp"

namespace bipo {

// Throws UserError, naming those that are supported, for the file of another architecture, and for
// files that hold no model (adapters, projectors).
const GgufArchitecture& architecture_of(const GgufFile& file);

// The sizes come from the metadata, the vocabulary and whether the head is tied from the tensors.
// Throws UserError for missing or malformed keys and for every key of the architecture that this
// program does not know, or whose value it does not implement: any of them may change the
// mathematics.
ModelConfig read_gguf_config(const GgufFile& file);

}  // namespace bipo
