// Replaces a file so that at any moment, and after any kill, either the old or the new file exists
// completely.
#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>

#include "collectives/foundation/file_descriptor.hpp"

namespace bipo {

// A file at one moment: which one, and how much and when something was written to it.
struct FileVersion {
  dev_t device = 0;
  ino_t inode = 0;
  off_t bytes = 0;
  std::int64_t modified = 0;  // nanoseconds since 1970, by the file system

  bool operator==(const FileVersion&) const = default;
};

// Called right before a file is replaced, when everything else is done, and again where the new one
// has vanished meanwhile; false keeps the old file.
using ReplaceGuard = std::function<bool()>;

// Writes `bytes` to a temp file beside `path` (`.<name>.<host>.<random>.<pid>.tmp`), fsyncs it,
// renames it over `path` and fsyncs the directory.  Returns whether the file was replaced: false
// only where `may_replace` returned false.  Throws EnvironmentError, with path, call and reason,
// where a step fails, including the file size limit (SIGXFSZ is blocked); the temp file is then
// removed and the old file unchanged, but a failed fsync of the directory leaves the new file.  Two
// threads of a process must not write the same path at once.  `written`, if given, becomes the new
// file's version before anything is replaced, so that a caller can tell it from other files
// whatever happens then.
bool replace_file(const std::filesystem::path& path, std::span<const std::byte> bytes,
                  const ReplaceGuard& may_replace = {}, FileVersion* written = nullptr);

// Throws UserError if `path` is a directory, or no file can be created beside it, or none of
// `bytes` has room there (it creates and removes one).
void check_replaceable(const std::filesystem::path& path, std::uint64_t bytes = 4096);

// Returns nothing where there is no file.
std::optional<FileVersion> version_of(const std::filesystem::path& path);

// Holds the room that a file needs which is replaced again and again while it grows: for the file
// and for the next one beside it.  For one thread at a time.
class ReservedSpace {
 public:
  // Holds nothing.
  ReservedSpace() = default;

  // Reserves room for `path` of `bytes` at most (in files without a name, which go with the
  // process).  Where the file system cannot reserve, checks that so much is free.  Throws
  // UserError, with the numbers, where there is no such room, by a quota or a limit too.
  ReservedSpace(const std::filesystem::path& path, std::uint64_t bytes);

  // Gives the room up, for a file that is about to be written.
  void release();

  // Takes it again, less what `path` has now; as it is, if there is no room any more.
  void take_again();

 private:
  int reserve();

  std::filesystem::path path_;
  std::uint64_t bytes_ = 0;
  FileDescriptor next_;    // room for the next file
  FileDescriptor growth_;  // room by which the present file is smaller
};

// Throws UserError where the file system of `path`, a file or directory that need not exist, has
// fewer bytes free.
void check_free_space(const std::filesystem::path& path, std::uint64_t bytes);

// Returns the file that a write to `path` replaces or makes: a symbolic link stays, and the file
// that it names is written.
std::filesystem::path written_path(const std::filesystem::path& path);

// Returns a name for a temp file beside `path` that nobody can guess and remove_stale_temps()
// knows.
std::filesystem::path new_temp_path(const std::filesystem::path& path);

// Removes the temp files beside `path` that writers on this host left and whose process has ended.
void remove_stale_temps(const std::filesystem::path& path);

}  // namespace bipo
