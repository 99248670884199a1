// Finds the files of a model that is split over several GGUF files.
#pragma once

#include <filesystem>
#include <vector>

#include "trainer/model/gguf/gguf_file.hpp"

namespace bipo {

// Opens the file `path`, and if it is one part of a split model (metadata split.count above 1) all
// parts, which lie beside it as NAME-00001-of-00003.gguf and so on.  Returns them in their order;
// metadata is that of the first, tensors are in all of them.  `path` may name any part.
//
// Throws UserError as parse_gguf does, and naming the file: if the name does not fit the metadata,
// so that the others cannot be found; if parts are missing; if a part says to be another one, or
// one of another number of parts; if it has metadata that the first part does not have; if a tensor
// is in two parts; if there are not as many tensors as the metadata says.  Throws UserError also
// for a file that is by its name a piece of one that was cut at any byte (NAME.gguf.part1of2).
std::vector<GgufPart> open_gguf_parts(const std::filesystem::path& path);

}  // namespace bipo
