// Files that no longer exist when their makers have ended.
#pragma once

#include <filesystem>

#include "collectives/foundation/file_descriptor.hpp"

namespace bipo {

// A new file of this process, mode 0600, open for reading and writing and locked (flock) as long as
// the object lives, by which others know that its maker does.  The destructor removes the file,
// unless keep_as() gave it another name.
class TemporaryFile {
 public:
  // A path that exists already, as a link too, is never opened: get() is negative then, and for
  // every other failure, and errno says why.
  explicit TemporaryFile(std::filesystem::path path);
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  int get() const { return file_.get(); }
  const FileDescriptor& file() const { return file_; }

  // Renames it.  Returns false, and errno says why, where that fails.
  bool keep_as(const std::filesystem::path& path);

 private:
  std::filesystem::path path_;
  FileDescriptor file_;
};

// Removes the temporary files of this process, for one that ends without destroying them.  For any
// thread.
void remove_temporary_files();

// Removes the file if its maker, a process of this host or another, has ended: if nobody holds its
// lock.  A lock of another host may be invisible here; what that left must be a day old.
void remove_abandoned(const std::filesystem::path& path, bool is_of_this_host);

}  // namespace bipo
