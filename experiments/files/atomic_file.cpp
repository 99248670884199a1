// Replaces a file so that at any moment, and after any kill, either the old or the new file exists
// completely.
#include "experiments/files/atomic_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/file_descriptor.hpp"
#include "collectives/foundation/host_name.hpp"
#include "collectives/foundation/random_name.hpp"
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
  const FileDescriptor directory =
      open_file(directory_of(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (!directory.is_open()) {
    throw_failure(path, "open of its directory", errno);
  }
  // Some file systems cannot sync a directory and need not: they return EINVAL.
  if (sync_file(directory) != 0 && errno != EINVAL) {
    throw_failure(path, "fsync of its directory", errno);
  }
}

// Returns nothing where the system does not tell, as some network file systems do not.
std::optional<std::uint64_t> bytes_in(const struct statvfs& room) {
  return room.f_blocks > 0
             ? std::optional(static_cast<std::uint64_t>(room.f_bavail) * room.f_frsize)
             : std::nullopt;
}

std::optional<std::uint64_t> free_bytes(const FileDescriptor& file) {
  struct statvfs room {};
  return ::fstatvfs(file.get(), &room) == 0 ? bytes_in(room) : std::nullopt;
}

// Gives an empty file this room.  Returns 0, or the error number of a file system that has less.
int give_room(const FileDescriptor& file, std::uint64_t bytes) {
  const FileSizeSignalBlocked blocked;
  if (bytes == 0) {
    return 0;
  }
  int result = 0;
  do {
    result = ::fallocate(file.get(), 0, 0, static_cast<off_t>(bytes));
  } while (result != 0 && errno == EINTR);
  if (result == 0) {
    return 0;
  }
  if (errno != EOPNOTSUPP && errno != ENOSYS) {
    return errno;
  }
  const std::optional<std::uint64_t> free = free_bytes(file);
  return free && *free < bytes ? ENOSPC : 0;
}

FileVersion version_in(const struct stat& status) {
  constexpr std::int64_t kNanosecondsPerSecond = 1'000'000'000;
  return {status.st_dev, status.st_ino, status.st_size,
          status.st_mtim.tv_sec * kNanosecondsPerSecond + status.st_mtim.tv_nsec};
}

bool is_gone(pid_t pid) {
  // A restarted container often gets its old pid again; no temp file with our own is in use now.
  return pid == getpid() || (::kill(pid, 0) != 0 && errno == ESRCH);
}

}  // namespace

fs::path written_path(const fs::path& path) {
  constexpr int kMostLinks = 40;  // as many as the kernel follows
  fs::path target = path;
  for (int i = 0; i < kMostLinks; ++i) {
    std::error_code error;
    if (!fs::is_symlink(target, error)) {
      return target;
    }
    target = directory_of(target) / fs::read_symlink(target, error);
    if (error) {
      return path;
    }
  }
  return path;
}

// Nobody can put a file or a link there first.
fs::path new_temp_path(const fs::path& path) {
  return directory_of(path) /
         fmt::format("{}{}.{}{}", temp_prefix(path), random_name(), getpid(), kTempSuffix);
}

bool replace_file(const fs::path& given_path, std::span<const std::byte> bytes,
                  const ReplaceGuard& may_replace, FileVersion* written) {
  const fs::path path = written_path(given_path);
  std::error_code ignored;
  if (fs::is_symlink(path, ignored)) {
    throw_failure(path, "following its links", ELOOP);
  }
  const FileSizeSignalBlocked blocked;
  TempFile temp(new_temp_path(path));
  if (!temp.file().is_open()) {
    throw_failure(path, "creating a file beside it", errno);
  }
  if (!write_all(temp.file(), bytes)) {
    throw_failure(path, "write", errno);
  }
  if (sync_file(temp.file()) != 0) {
    throw_failure(path, "fsync", errno);
  }
  struct stat status {};
  if (written != nullptr && ::fstat(temp.file().get(), &status) == 0) {
    *written = version_in(status);
  }
  if (temp.file().close() != 0) {
    throw_failure(path, "close", errno);
  }
  if (may_replace && !may_replace()) {
    return false;
  }
  if (temp.rename_to(path) != 0) {
    const int error = errno;
    // Who takes a file over also removes what a writer that seemed dead has left.
    if (error == ENOENT && may_replace && !may_replace()) {
      return false;
    }
    throw_failure(path, "rename", error);
  }
  sync_directory(path);
  return true;
}

void check_replaceable(const fs::path& given_path, std::uint64_t bytes) {
  const fs::path path = written_path(given_path);
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
  if (const int error = give_room(temp.file(), bytes); error != 0) {
    throw UserError(
        fmt::format("{} cannot be written: its file system has no room for {} bytes ({}); make "
                    "room, or choose another place",
                    given_path.string(), bytes, std::generic_category().message(error)));
  }
}

std::optional<FileVersion> version_of(const fs::path& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 ? std::optional(version_in(status)) : std::nullopt;
}

ReservedSpace::ReservedSpace(const fs::path& path, std::uint64_t bytes)
    : path_(written_path(path)), bytes_(bytes) {
  for (FileDescriptor* room : {&next_, &growth_}) {
    TempFile temp(new_temp_path(path_));
    *room = std::move(temp.file());
  }
  const int error = next_.is_open() && growth_.is_open() ? reserve() : errno;
  if (error != 0) {
    const auto free = free_bytes(next_);
    throw UserError(
        fmt::format("{} needs room for {} bytes, twice while a save replaces the old file, and its "
                    "file system does not give it: {}{}; make room, or choose another place",
                    path.string(), bytes_, std::generic_category().message(error),
                    free ? fmt::format(" ({} bytes are free)", *free) : ""));
  }
}

int ReservedSpace::reserve() {
  const auto version = version_of(path_);
  const std::uint64_t present = version ? static_cast<std::uint64_t>(version->bytes) : 0;
  if (const int error = give_room(next_, bytes_); error != 0) {
    return error;
  }
  return give_room(growth_, bytes_ - std::min(bytes_, present));
}

void ReservedSpace::release() {
  for (const FileDescriptor* room : {&next_, &growth_}) {
    if (room->is_open()) {
      [[maybe_unused]] const int ignored = ::ftruncate(room->get(), 0);
    }
  }
}

void ReservedSpace::take_again() {
  if (next_.is_open() && growth_.is_open()) {
    [[maybe_unused]] const int ignored = reserve();
  }
}

void check_free_space(const fs::path& path, std::uint64_t bytes) {
  fs::path place = path;
  struct statvfs room {};
  if (::statvfs(place.c_str(), &room) != 0) {
    place = directory_of(path);
    if (::statvfs(place.c_str(), &room) != 0) {
      return;  // whoever writes there says what is wrong
    }
  }
  const auto free = bytes_in(room);
  if (free && *free < bytes) {
    throw UserError(
        fmt::format("{} needs about {} bytes, and its file system has {} free; make room, or "
                    "choose another place",
                    path.string(), bytes, *free));
  }
}

void remove_stale_temps(const fs::path& given_path) {
  const fs::path path = written_path(given_path);
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
