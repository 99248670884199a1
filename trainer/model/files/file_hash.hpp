// Hashes of the whole content of large files.
#pragma once

#include <cstdint>
#include <filesystem>

#include "trainer/model/files/mapped_file.hpp"

namespace bipo {

// Where hashes are remembered from one process to the next, one small file for each.
struct HashMemory {
  std::filesystem::path directory;  // made if it is missing; empty: nowhere
  bool trusts_others = false;       // uses what other users wrote there
  // Smaller files are hashed each time.
  std::uint64_t least_bytes = std::uint64_t{64} << 20;
};

// Returns a hash of every byte of the file, whatever its name.  Threads read it, past the mapping.
// A hash is taken from this process's or the directory's memory if size, times of the last changes
// (to the nanosecond), inode and, in the directory, path are those of then; a file that changed
// within the last seconds is not remembered, since a further change may show the same time.  Throws
// EnvironmentError where the file cannot be read or changes meanwhile.
std::uint64_t file_hash(const MappedFile& file, const HashMemory& memory = {});

}  // namespace bipo
