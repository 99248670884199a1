#include "trainer/model/files/mapped_file.hpp"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "collectives/foundation/errors.hpp"

namespace bipo {

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path), input_(path) {
  const std::string file = path.string();
  const auto size = static_cast<std::size_t>(input_.size());
  if (size == 0) {  // which mmap refuses
    return;
  }
  void* mapping = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, input_.get(), 0);
  if (mapping == MAP_FAILED) {
    throw EnvironmentError(fmt::format("{}: mmap failed: {}", file, std::strerror(errno)));
  }
  bytes_ = {static_cast<const std::byte*>(mapping), size};
  report_.begin(bytes_, path_.c_str());
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
