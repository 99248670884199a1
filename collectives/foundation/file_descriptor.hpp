// Owners of a file descriptor and of a temporary file, system calls that go on after a signal, and
// numbers in the names of files.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>

namespace bipo {

class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor();

  bool is_open() const { return fd_ >= 0; }
  int get() const { return fd_; }

  // Returns the result of ::close(), success where a signal interrupted it (on Linux the file is
  // closed all the same); nothing is open afterwards.
  int close();

 private:
  int fd_ = -1;
};

// The system calls of these names, made again where a signal interrupted them.
FileDescriptor open_file(const std::filesystem::path& path, int flags, mode_t mode = 0);
int sync_file(const FileDescriptor& file);

// Reads bytes from `offset` on.  Returns how many, fewer than `target` has only where the file
// ends; -1, with errno set, where ::pread() fails.
ssize_t read_at(int file, std::span<std::byte> target, std::uint64_t offset);

// Returns whether the file is this user's or root's: others could have written anything into it.
bool is_own(const struct stat& status);

// Returns whether `path` now names the file that is open.
bool is_file_at(const std::filesystem::path& path, const FileDescriptor& file);

// Writes all bytes at the file's position.  Returns false, with errno set, where ::write() fails.
bool write_all(const FileDescriptor& file, std::span<const std::byte> bytes);

// Returns N where `name` is `prefix`, a positive number N and `suffix`; else nothing.
template <typename Integer>
std::optional<Integer> number_in_name(std::string_view name, std::string_view prefix,
                                      std::string_view suffix) {
  if (name.size() <= prefix.size() + suffix.size() || !name.starts_with(prefix) ||
      !name.ends_with(suffix)) {
    return std::nullopt;
  }
  const char* end = name.data() + name.size() - suffix.size();
  Integer number = 0;
  const auto [stop, error] = std::from_chars(name.data() + prefix.size(), end, number);
  const bool is_whole = error == std::errc() && stop == end;
  return is_whole && number > 0 ? std::optional(number) : std::nullopt;
}

// Creates a file that did not exist, and removes it with the object unless it was renamed.
class TempFile {
 public:
  // `file().is_open()` is false, and errno is set, where the file cannot be created.
  explicit TempFile(const std::filesystem::path& path);
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;
  ~TempFile();

  const std::filesystem::path& path() const { return path_; }
  FileDescriptor& file() { return file_; }

  // Returns the result of ::rename().
  int rename_to(const std::filesystem::path& target);

 private:
  std::filesystem::path path_;
  FileDescriptor file_;
  bool is_ours_;  // to remove
};

}  // namespace bipo
