#include "collectives/foundation/input_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <span>
#include <system_error>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

const char* kind_of(mode_t mode) {
  if (S_ISDIR(mode)) {
    return "a directory";
  }
  if (S_ISFIFO(mode)) {
    return "a pipe";
  }
  if (S_ISSOCK(mode)) {
    return "a socket";
  }
  return "a device";
}

std::uint64_t memory_of_machine() {
  return static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
         static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

// O_NONBLOCK lets open() return at once for a pipe without a writer; reading a regular file is the
// same with it.  O_NOCTTY: a terminal does not become this process's own.
constexpr int kToRead = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;

}  // namespace

InputFile::InputFile(const std::filesystem::path& path)
    : path_(path), file_(open_file(path, kToRead)) {
  struct stat status {};
  if (!file_.is_open() || ::fstat(file_.get(), &status) != 0) {
    const int error = errno;
    throw UserError(fmt::format("{}: cannot be opened: {}", path.string(),
                                std::generic_category().message(error)));
  }
  if (!S_ISREG(status.st_mode)) {
    throw UserError(fmt::format("{}: is not a regular file but {}; name a file", path.string(),
                                kind_of(status.st_mode)));
  }
  size_ = static_cast<std::uint64_t>(status.st_size);
}

bool InputFile::begins_with(std::string_view mark) const {
  return size_ >= mark.size() && read_first(mark.size()) == mark;
}

std::string InputFile::read(std::uint64_t most_bytes) const {
  if (size_ > most_bytes) {
    throw UserError(fmt::format("{}: has {} bytes; such a file may have at most {}", path_.string(),
                                size_, most_bytes));
  }
  if (size_ > memory_of_machine()) {
    throw UserError(
        fmt::format("{}: has {} bytes, more than this machine has memory", path_.string(), size_));
  }
  return read_first(static_cast<std::size_t>(size_));
}

std::string InputFile::read_first(std::size_t length) const {
  std::string bytes(length, '\0');
  const ssize_t count = read_at(file_.get(), std::as_writable_bytes(std::span(bytes)), 0);
  if (count < 0) {
    throw EnvironmentError(fmt::format("{}: cannot be read: {}", path_.string(),
                                       std::generic_category().message(errno)));
  }
  if (static_cast<std::size_t>(count) < length) {
    throw EnvironmentError(fmt::format("{}: became shorter while it was read", path_.string()));
  }
  return bytes;
}

std::string read_input_file(const std::filesystem::path& path, std::uint64_t most_bytes) {
  return InputFile(path).read(most_bytes);
}

}  // namespace bipo
