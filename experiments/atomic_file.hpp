// Replaces a file so that at any moment, and after any kill, either the old or the new one is
// there, whole.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace bipo {

// Writes `bytes` to a temp file beside `path` (`.<name>.<host>.<pid>.tmp`), fsyncs it, renames it
// over `path` and fsyncs the directory.  Throws EnvironmentError, with path, call and reason, when
// any of it fails; the temp file is then removed, and the old file is as it was, except that a
// failed fsync of the directory leaves the new one.  A file size limit is an error like a full
// disk: SIGXFSZ is held back.  Not for two threads of a process at once on one path.
void replace_file(const std::filesystem::path& path, std::span<const std::byte> bytes);

// Throws UserError unless `path` is no directory and its directory takes a new file (one is tried).
void check_replaceable(const std::filesystem::path& path);

// Removes the temp files beside `path` that writers of this host left and whose process is gone.
void remove_stale_temps(const std::filesystem::path& path);

}  // namespace bipo
