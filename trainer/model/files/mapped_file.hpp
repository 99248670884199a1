// A file's bytes in memory, read from the disk when accessed.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

#include "collectives/foundation/input_file.hpp"
#include "trainer/model/files/lost_pages.hpp"

namespace bipo {

// A whole file, mapped read-only.  The bytes are valid as long as the object.  If the file becomes
// shorter meanwhile, or its disk fails, whoever reads what is missing ends the process; see
// LostPageReport.
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
  int descriptor() const { return input_.get(); }  // of the same file, whatever has its name now

  // Removes the pages within `part`, of bytes(), from this process's memory, so that copied weights
  // are not held twice.  They remain in the system's page cache while it has room, and return when
  // accessed.
  void let_go(std::span<const std::byte> part) const;

 private:
  std::filesystem::path path_;
  InputFile input_;
  std::span<const std::byte> bytes_;
  LostPageReport report_;
};

}  // namespace bipo
