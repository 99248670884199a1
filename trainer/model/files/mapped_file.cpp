#include "trainer/model/files/mapped_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "collectives/foundation/errors.hpp"

namespace bipo {

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  const std::string file = path.string();
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    throw UserError(fmt::format("{}: cannot be opened: {}", file, std::strerror(errno)));
  }
  struct stat status {};
  if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
    close(descriptor);
    throw UserError(fmt::format("{}: is not a regular file", file));
  }
  const auto size = static_cast<std::size_t>(status.st_size);
  if (size == 0) {  // which mmap refuses
    close(descriptor);
    return;
  }
  void* mapping = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  const int error = errno;
  close(descriptor);
  if (mapping == MAP_FAILED) {
    throw EnvironmentError(fmt::format("{}: mmap failed: {}", file, std::strerror(error)));
  }
  bytes_ = {static_cast<const std::byte*>(mapping), size};
}

void MappedFile::let_go(std::span<const std::byte> part) const {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const auto first = static_cast<std::size_t>(part.data() - bytes_.data());
  // The pages at both ends may hold other parts too.  A mapping begins with a whole page.
  const std::size_t begin = (first + page - 1) / page * page;
  const std::size_t end = (first + part.size()) / page * page;
  if (begin < end) {
    // Only advice: if the system ignores it, the memory stays in use.
    madvise(const_cast<std::byte*>(bytes_.data()) + begin, end - begin, MADV_DONTNEED);
  }
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) {
    munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }
}

}  // namespace bipo
