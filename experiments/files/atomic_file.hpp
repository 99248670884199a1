// Replaces a file so that at any moment, and after any kill, either the old or the new file exists
// completely.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <span>

namespace bipo {

// Called right before a file is replaced, when everything else is done; false keeps the old file.
using ReplaceGuard = std::function<bool()>;

// Writes `bytes` to a temp file beside `path` (`.<name>.<host>.<random>.<pid>.tmp`), fsyncs it,
// renames it over `path` and fsyncs the directory.  Returns whether the file was replaced: false
// only where `may_replace` returned false.  Throws EnvironmentError, with path, call and reason,
// where a step fails, including the file size limit (SIGXFSZ is blocked); the temp file is then
// removed and the old file unchanged, but a failed fsync of the directory leaves the new file.  Two
// threads of a process must not write the same path at once.
bool replace_file(const std::filesystem::path& path, std::span<const std::byte> bytes,
                  const ReplaceGuard& may_replace = {});

// Throws UserError if `path` is a directory or no file can be created beside it (it creates and
// removes one).
void check_replaceable(const std::filesystem::path& path);

// Removes the temp files beside `path` that writers on this host left and whose process has ended.
void remove_stale_temps(const std::filesystem::path& path);

}  // namespace bipo
