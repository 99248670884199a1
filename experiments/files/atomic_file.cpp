// Replaces a file so that at any moment, and after any kill, either the old or the new one is
// there, whole.
#include "experiments/files/atomic_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "collectives/foundation/errors.hpp"
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

fs::path temp_path(const fs::path& path) {
  return directory_of(path) / fmt::format("{}{}{}", temp_prefix(path), getpid(), kTempSuffix);
}

// A link that stands for the file stays: what it names is replaced.
fs::path resolved(const fs::path& path) {
  std::error_code error;
  const fs::path target = fs::is_symlink(path, error) ? fs::canonical(path, error) : path;
  return error ? path : target;
}

// Removes the file unless it was given away by a rename.
class TempFile {
 public:
  explicit TempFile(fs::path path) : path_(std::move(path)) {}
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;
  ~TempFile() {
    if (!renamed_) {
      ::unlink(path_.c_str());
    }
  }

  const fs::path& path() const { return path_; }
  int rename_to(const fs::path& target) {
    const int result = ::rename(path_.c_str(), target.c_str());
    renamed_ = result == 0;
    return result;
  }

 private:
  fs::path path_;
  bool renamed_ = false;
};

// Holds SIGXFSZ back from this thread, whose default would kill the process at a file size limit;
// write() then fails with EFBIG.  What arrived meanwhile is taken away before the old mask returns.
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

// A temp file of this process can only be a leftover of a former one with the same pid.
int create_exclusively(const fs::path& path) {
  ::unlink(path.c_str());
  return ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
}

void write_all(int fd, std::span<const std::byte> bytes, const fs::path& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) {
      continue;
    }
    if (written < 0) {
      throw_failure(path, "write", errno);
    }
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void sync_directory(const fs::path& path) {
  const FileDescriptor directory(
      ::open(directory_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory.is_open()) {
    throw_failure(path, "open of its directory", errno);
  }
  // Some file systems cannot sync a directory and need not: they answer EINVAL.
  if (::fsync(directory.get()) != 0 && errno != EINVAL) {
    throw_failure(path, "fsync of its directory", errno);
  }
}

std::optional<pid_t> writer_of(std::string_view name, std::string_view prefix) {
  if (name.size() <= prefix.size() + kTempSuffix.size() || !name.starts_with(prefix) ||
      !name.ends_with(kTempSuffix)) {
    return std::nullopt;
  }
  name.remove_prefix(prefix.size());
  name.remove_suffix(kTempSuffix.size());
  pid_t pid = 0;
  const auto [stop, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
  if (error != std::errc() || stop != name.data() + name.size() || pid <= 0) {
    return std::nullopt;
  }
  return pid;
}

bool is_gone(pid_t pid) {
  // A restarted container often gets its old pid again: a temp file under our own is not in use
  // now.
  return pid == getpid() || (::kill(pid, 0) != 0 && errno == ESRCH);
}

}  // namespace

bool replace_file(const fs::path& given_path, std::span<const std::byte> bytes,
                  const ReplaceGuard& may_replace) {
  const fs::path path = resolved(given_path);
  const FileSizeSignalBlocked blocked;
  TempFile temp(temp_path(path));
  FileDescriptor file(create_exclusively(temp.path()));
  if (!file.is_open()) {
    throw_failure(path, "creating a file beside it", errno);
  }
  write_all(file.get(), bytes, path);
  if (::fsync(file.get()) != 0) {
    throw_failure(path, "fsync", errno);
  }
  if (file.close() != 0) {
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
  const TempFile temp(temp_path(path));
  const FileDescriptor file(create_exclusively(temp.path()));
  if (!file.is_open()) {
    throw UserError(fmt::format(
        "{} cannot be written: its directory takes no new file ({}); choose another place",
        given_path.string(), std::generic_category().message(errno)));
  }
}

void remove_stale_temps(const fs::path& given_path) {
  const fs::path path = resolved(given_path);
  const std::string prefix = temp_prefix(path);
  // What cannot be listed or removed does no harm, and another start may be removing the same.
  std::error_code ignored;
  fs::directory_iterator entry(directory_of(path), ignored);
  for (; entry != fs::directory_iterator(); entry.increment(ignored)) {
    const auto pid = writer_of(entry->path().filename().string(), prefix);
    if (pid && is_gone(*pid)) {
      ::unlink(entry->path().c_str());
    }
  }
}

}  // namespace bipo
