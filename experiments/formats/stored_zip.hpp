// Reads zip archives whose entries are stored without compression, as torch.save writes them; the
// files are not trusted.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>

namespace bipo {

bool is_zip(std::span<const std::byte> bytes);

// The data of every entry, by name, as parts of `bytes`; `name` stands for the file in messages.
// Checksums are left alone, as torch does, which can be told not to write them.  Throws UserError
// for compressed or encrypted entries, archives in several parts or beyond 4 GiB, and for anything
// that leads out of the file, overlaps, appears twice or differs between the archive's directory
// and the entry itself.
std::map<std::string, std::span<const std::byte>> read_stored_zip(std::span<const std::byte> bytes,
                                                                  const std::string& name);

}  // namespace bipo
