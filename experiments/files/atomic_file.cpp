// Replaces a file so that at any moment, and after any kill, either the old or the new file exists
// completely.
#include "experiments/files/atomic_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/random_name.hpp"
#include "experiments/files/file_descriptor.hpp"
#include "experiments/files/process_identity.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTempSuffix = ".tmp";

[[noreturn]] void throw_failure(const fs::path& path, const char* call, int code) {
  throw EnvironmentError(fmt::format("cannot write {}: {} failed: {}", path.string(), call,
                                     std::generic_category().message(code)));
}

fs::path directory_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

std::string temp_prefix(const fs::path& path) {
  return fmt::format(".{}.{}.", path.filename().string(), host_name());
}

// Keeps a symbolic link: the file that it names is replaced.
fs::path resolved(const fs::path& path) {
  std::error_code error;
  const fs::path target = fs::is_symlink(path, error) ? fs::canonical(path, error) : path;
  return error ? path : target;
}

// Blocks SIGXFSZ in this thread, which by default kills the process at a file size limit; write()
// then fails with EFBIG.  Discards the pending signal before it restores the old mask.
class FileSizeSignalBlocked {
 public:
  FileSizeSignalBlocked() {
    sigemptyset(&signal_);
    sigaddset(&signal_, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &signal_, &old_mask_);
  }
  FileSizeSignalBlocked(const FileSizeSignalBlocked&) = delete;
  FileSizeSignalBlocked& operator=(const FileSizeSignalBlocked&) = delete;
  ~FileSizeSignalBlocked() {
    const timespec no_wait{};
    while (sigtimedwait(&signal_, nullptr, &no_wait) > 0) {
    }
    pthread_sigmask(SIG_SETMASK, &old_mask_, nullptr);
  }

 private:
  sigset_t signal_{};
  sigset_t old_mask_{};
};

// Nobody can guess the name and put a file or a link there first.
fs::path new_temp_path(const fs::path& path) {
  return directory_of(path) /
         fmt::format("{}{}.{}{}", temp_prefix(path), random_name(), getpid(), kTempSuffix);
}

// Returns the process that made a temp file beside `path` of this name; nothing for another file.
// Earlier versions had no random part.
std::optional<pid_t> maker_of(const std::string& name, const fs::path& path) {
  std::string prefix = temp_prefix(path);
  const std::size_t random_size = random_name().size();
  const std::string random = name.substr(std::min(name.size(), prefix.size()), random_size);
  const bool has_random = random.size() == random_size &&
                          random.find_first_not_of("0123456789abcdef") == std::string::npos &&
                          name.compare(prefix.size() + random_size, 1, ".") == 0;
  if (has_random) {
    prefix += random + ".";
  }
  return number_in_name<pid_t>(name, prefix, kTempSuffix);
}

void sync_directory(const fs::path& path) {
  const FileDescriptor directory(
      ::open(directory_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory.is_open()) {
    throw_failure(path, "open of its directory", errno);
  }
  // Some file systems cannot sync a directory and need not: they return EINVAL.
  if (::fsync(directory.get()) != 0 && errno != EINVAL) {
    throw_failure(path, "fsync of its directory", errno);
  }
}

bool is_gone(pid_t pid) {
  // A restarted container often gets its old pid again; no temp file with our own is in use now.
  return pid == getpid() || (::kill(pid, 0) != 0 && errno == ESRCH);
}

}  // namespace

bool replace_file(const fs::path& given_path, std::span<const std::byte> bytes,
                  const ReplaceGuard& may_replace) {
  const fs::path path = resolved(given_path);
  const FileSizeSignalBlocked blocked;
  TempFile temp(new_temp_path(path));
  if (!temp.file().is_open()) {
    throw_failure(path, "creating a file beside it", errno);
  }
  if (!write_all(temp.file(), bytes)) {
    throw_failure(path, "write", errno);
  }
  if (::fsync(temp.file().get()) != 0) {
    throw_failure(path, "fsync", errno);
  }
  if (temp.file().close() != 0) {
    throw_failure(path, "close", errno);
  }
  if (may_replace && !may_replace()) {
    return false;
  }
  if (temp.rename_to(path) != 0) {
    throw_failure(path, "rename", errno);
  }
  sync_directory(path);
  return true;
}

void check_replaceable(const fs::path& given_path) {
  const fs::path path = resolved(given_path);
  std::error_code ignored;
  if (path.filename().empty() || fs::is_directory(path, ignored)) {
    throw UserError(fmt::format("{} is a directory; name a file to write", given_path.string()));
  }
  if (!fs::is_directory(directory_of(path), ignored)) {
    throw UserError(fmt::format("{} cannot be written: there is no directory {}; create it",
                                given_path.string(), directory_of(path).string()));
  }
  TempFile temp(new_temp_path(path));
  if (!temp.file().is_open()) {
    throw UserError(fmt::format(
        "{} cannot be written: its directory takes no new file ({}); choose another place",
        given_path.string(), std::generic_category().message(errno)));
  }
}

void remove_stale_temps(const fs::path& given_path) {
  const fs::path path = resolved(given_path);
  // A file that cannot be listed or removed does no harm; another process may be removing it.
  std::error_code ignored;
  fs::directory_iterator entry(directory_of(path), ignored);
  for (; entry != fs::directory_iterator(); entry.increment(ignored)) {
    const auto pid = maker_of(entry->path().filename().string(), path);
    if (pid && is_gone(*pid)) {
      ::unlink(entry->path().c_str());
    }
  }
}

}  // namespace bipo
