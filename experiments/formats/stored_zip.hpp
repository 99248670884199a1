// Reads zip archives whose entries are stored without compression, as torch.save writes them, from
// untrusted files.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>

namespace bipo {

bool is_zip(std::span<const std::byte> bytes);

// Returns the data of every entry, by name, as parts of `bytes`; `name` names the file in messages.
// Ignores checksums, as torch does, which need not write them.  Throws UserError for compressed or
// encrypted entries, archives in several parts or beyond 4 GiB, and for anything that is outside
// the file, overlaps, appears twice or differs between the archive's directory and the entry.
std::map<std::string, std::span<const std::byte>> read_stored_zip(std::span<const std::byte> bytes,
                                                                  const std::string& name);

}  // namespace bipo
