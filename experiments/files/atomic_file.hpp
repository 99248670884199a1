// Replaces a file so that at any moment, and after any kill, either the old or the new one is
// there, whole.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <span>

namespace bipo {

// Asked right before a file is replaced, when everything else is done; no leaves the old one.
using ReplaceGuard = std::function<bool()>;

// Writes `bytes` to a temp file beside `path` (`.<name>.<host>.<pid>.tmp`), fsyncs it, renames it
// over `path` and fsyncs the directory.  Throws EnvironmentError, with path, call and reason, when
// any of it fails; the temp file is then removed, and the old file is as it was, except that a
// failed fsync of the directory leaves the new one.  A file size limit is an error like a full
// disk: SIGXFSZ is held back.  Not for two threads of a process at once on one path.  Returns
// whether the file was replaced: false only where `may_replace` said no.
bool replace_file(const std::filesystem::path& path, std::span<const std::byte> bytes,
                  const ReplaceGuard& may_replace = {});

// Throws UserError unless `path` is no directory and its directory takes a new file (one is tried).
void check_replaceable(const std::filesystem::path& path);

// Removes the temp files beside `path` that writers of this host left and whose process is gone.
void remove_stale_temps(const std::filesystem::path& path);

}  // namespace bipo
