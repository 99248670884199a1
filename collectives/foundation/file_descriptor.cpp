#include "collectives/foundation/file_descriptor.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>

namespace bipo {

FileDescriptor::~FileDescriptor() {
  if (is_open()) {
    ::close(fd_);
  }
}

int FileDescriptor::close() {
  const int result = ::close(std::exchange(fd_, -1));
  return result != 0 && errno == EINTR ? 0 : result;
}

FileDescriptor open_file(const std::filesystem::path& path, int flags, mode_t mode) {
  int file = -1;
  do {
    file = ::open(path.c_str(), flags, mode);
  } while (file < 0 && errno == EINTR);
  return FileDescriptor(file);
}

int sync_file(const FileDescriptor& file) {
  int result = 0;
  do {
    result = ::fsync(file.get());
  } while (result != 0 && errno == EINTR);
  return result;
}

ssize_t read_at(int file, std::span<std::byte> target, std::uint64_t offset) {
  std::size_t done = 0;
  while (done < target.size()) {
    const ssize_t count = ::pread(file, target.data() + done, target.size() - done,
                                  static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count < 0) {
      return -1;
    }
    if (count == 0) {
      break;
    }
    done += static_cast<std::size_t>(count);
  }
  return static_cast<ssize_t>(done);
}

bool is_own(const struct stat& status) {
  return status.st_uid == ::geteuid() || status.st_uid == 0;
}

bool is_file_at(const std::filesystem::path& path, const FileDescriptor& file) {
  struct stat opened {};
  struct stat named {};
  return file.is_open() && ::fstat(file.get(), &opened) == 0 && ::stat(path.c_str(), &named) == 0 &&
         opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

bool write_all(const FileDescriptor& file, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(file.get(), bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) {
      continue;
    }
    if (written <= 0) {
      errno = written == 0 ? EIO : errno;
      return false;
    }
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return true;
}

TempFile::TempFile(const std::filesystem::path& path)
    : path_(path),
      file_(open_file(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666)),
      is_ours_(file_.is_open()) {
}

TempFile::~TempFile() {
  if (is_ours_) {
    ::unlink(path_.c_str());
  }
}

int TempFile::rename_to(const std::filesystem::path& target) {
  const int result = ::rename(path_.c_str(), target.c_str());
  is_ours_ = is_ours_ && result != 0;
  return result;
}

}  // namespace bipo
