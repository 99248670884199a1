// A file's bytes in memory, read from the disk when accessed.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace bipo {

// A whole file, mapped read-only.  The bytes are valid as long as the object.
class MappedFile {
 public:
  // Throws UserError for a path that cannot be opened or is not a regular file, EnvironmentError if
  // the system refuses the mapping.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::span<const std::byte> bytes() const { return bytes_; }

  // Removes the pages within `part`, of bytes(), from this process's memory, so that copied weights
  // are not held twice.  They remain in the system's page cache while it has room, and return when
  // accessed.
  void let_go(std::span<const std::byte> part) const;

 private:
  std::filesystem::path path_;
  std::span<const std::byte> bytes_;
};

}  // namespace bipo
