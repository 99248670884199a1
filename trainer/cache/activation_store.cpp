#include "trainer/cache/activation_store.hpp"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/random_name.hpp"
#include "trainer/cache/temporary_files.hpp"

namespace bipo {
namespace {

constexpr std::int64_t kLongestPath = 4096;

[[noreturn]] void fail(const std::filesystem::path& path, const char* call, int error) {
  throw EnvironmentError(
      fmt::format("activation cache {}: {}: {}", path.string(), call, std::strerror(error)));
}

// The numbers behind the activations start at a multiple of 8 bytes.
std::uint64_t activation_bytes(const StoreShape& shape) {
  const std::uint64_t bytes =
      static_cast<std::uint64_t>(shape.tokens * shape.hidden) * c10::elementSize(shape.type);
  return (bytes + 7) / 8 * 8;
}

// Returns the first directory with room: memory, where the system offers it as files, then a disk.
std::filesystem::path scratch_directory(std::uint64_t bytes, const std::filesystem::path& spare) {
  std::vector<std::filesystem::path> candidates{"/dev/shm"};
  if (const char* named = std::getenv("TMPDIR")) {
    candidates.emplace_back(named);
  }
  candidates.emplace_back("/tmp");
  if (!spare.empty()) {
    candidates.push_back(spare);
  }
  for (const auto& candidate : candidates) {
    struct statvfs room {};
    if (::statvfs(candidate.c_str(), &room) == 0 &&
        static_cast<std::uint64_t>(room.f_bavail) * room.f_frsize > bytes) {
      return candidate;
    }
  }
  throw EnvironmentError(fmt::format(
      "the ranks of a node share {} bytes of activations, but neither /dev/shm, $TMPDIR nor /tmp "
      "has room for them; lower --cache-budget, or set TMPDIR or --cache-dir to a directory with "
      "room",
      bytes));
}

std::string broadcast_path(const std::filesystem::path& path, Communicator& node) {
  const at::Tensor text = at::zeros({kLongestPath}, at::kByte);
  const std::string mine = path.string();
  std::copy_n(mine.begin(), std::min<std::size_t>(mine.size(), kLongestPath - 1),
              text.data_ptr<std::uint8_t>());
  node.broadcast(text, 0);
  return reinterpret_cast<const char*>(text.data_ptr<std::uint8_t>());
}

}  // namespace

std::uint64_t StoreShape::bytes() const {
  return activation_bytes(*this) + static_cast<std::uint64_t>(2 * pairs + 1) * sizeof(double);
}

ActivationStore::ActivationStore(const StoreShape& shape,
                                 const std::filesystem::path& spare_directory, Communicator& node)
    : shape_(shape) {
  if (node.size() > 1) {
    map_scratch_file(spare_directory, node);
  } else {
    owned_ = at::empty({static_cast<std::int64_t>(shape_.bytes())}, at::kByte);
    memory_ = reinterpret_cast<std::byte*>(owned_.data_ptr<std::uint8_t>());
  }
  activations_ = at::from_blob(memory_, {shape_.tokens, shape_.hidden},
                               at::TensorOptions().dtype(shape_.type));
  const std::uint64_t of_rows = activation_bytes(shape_);
  numbers_ = reinterpret_cast<double*>(memory_ + of_rows);
  if (const auto used = static_cast<std::uint64_t>(activations_.nbytes()); used < of_rows) {
    std::memset(memory_ + used, 0, of_rows - used);
  }
}

ActivationStore::~ActivationStore() {
  if (memory_ != nullptr && !owned_.defined()) {
    ::munmap(memory_, shape_.bytes());
  }
}

// Reserves room at once, so that a full disk is an error here and not a signal later.
void ActivationStore::map_scratch_file(const std::filesystem::path& spare_directory,
                                       Communicator& node) {
  std::filesystem::path path;
  if (node.rank() == 0) {
    path = scratch_directory(shape_.bytes(), spare_directory) /
           fmt::format("bipo-dist.{}.{}", ::getpid(), random_name());
    const TemporaryFile file(path);
    if (file.get() < 0) {
      fail(path, "open", errno);
    }
    if (const int error = ::posix_fallocate(file.get(), 0, static_cast<off_t>(shape_.bytes()))) {
      fail(path, "posix_fallocate", error);
    }
    map(file.get(), path);
    broadcast_path(path, node);
    node.barrier();  // all have opened it; its name ends here
    return;
  }
  path = broadcast_path(path, node);
  const int file = ::open(path.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC);
  if (file < 0) {
    fail(path, "open", errno);
  }
  map(file, path);
  ::close(file);
  node.barrier();
}

void ActivationStore::map(int file, const std::filesystem::path& path) {
  void* begin = ::mmap(nullptr, shape_.bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (begin == MAP_FAILED) {
    fail(path, "mmap", errno);
  }
  memory_ = static_cast<std::byte*>(begin);
}

}  // namespace bipo
