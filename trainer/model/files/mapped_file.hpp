// A file's bytes in memory, read from the disk when touched.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace bipo {

// A whole file, mapped read-only; the bytes live as long as the object.
class MappedFile {
 public:
  // Throws UserError for a path that cannot be opened or is no regular file, EnvironmentError when
  // the system refuses the mapping.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::span<const std::byte> bytes() const { return bytes_; }

  // Takes the pages that lie in `part`, of bytes(), out of this process's memory: weights that were
  // copied are not held twice.  They stay in the system's page cache while it has room, and are
  // there again when touched.
  void let_go(std::span<const std::byte> part) const;

 private:
  std::filesystem::path path_;
  std::span<const std::byte> bytes_;
};

}  // namespace bipo
