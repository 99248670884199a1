// The seal of a file: 32 bytes behind its content, by which a reader finds damage before it gives
// the content to a library.
//
//   bytes 0..7    "bipo-sum"
//   bytes 8..15   number of bytes before the seal, little-endian
//   bytes 16..31  the Checksum of these bytes
//
// HDF5 ignores what follows its own end of a file, and cuts it off when a program changes the file:
// an edited file has no seal.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "collectives/foundation/input_file.hpp"

namespace bipo {

// Appends the seal of `content`.
void add_seal(std::vector<std::byte>& content);

enum class Seal {
  kIntact,  // the content is what was sealed
  kBroken,  // it is not
  kNone,    // the file has no seal, or one of another length
};

// The first takes the bytes of a whole file.  The second reads it, piece by piece, and throws
// EnvironmentError where it cannot be read.
Seal check_seal(std::span<const std::byte> file);
Seal check_seal(const InputFile& file);

}  // namespace bipo
