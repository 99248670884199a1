#include "trainer/cache/activation_store.hpp"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/random_name.hpp"

namespace bipo {
namespace {

// Ends a whole file; changes with its layout.
constexpr std::uint64_t kSeal = 0x6269706f61637431;

constexpr std::int64_t kLongestPath = 4096;

constexpr const char* kExtension = ".activations";

// An open file, or none.
class File {
 public:
  File(const std::filesystem::path& path, int flags)
      : descriptor_(::open(path.c_str(), flags | O_CLOEXEC, 0600)) {}
  ~File() {
    if (descriptor_ >= 0) {
      ::close(descriptor_);
    }
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int get() const { return descriptor_; }

 private:
  int descriptor_;
};

// The temporary files of this process.
class TemporaryFiles {
 public:
  void add(const std::filesystem::path& path) {
    const std::lock_guard lock(mutex_);
    paths_.insert(path);
  }
  void forget(const std::filesystem::path& path) {
    const std::lock_guard lock(mutex_);
    paths_.erase(path);
  }
  void remove_all() {
    const std::lock_guard lock(mutex_);
    for (const std::filesystem::path& path : paths_) {
      ::unlink(path.c_str());
    }
    paths_.clear();
  }

 private:
  std::mutex mutex_;
  std::set<std::filesystem::path> paths_;
};

TemporaryFiles& temporary_files() {
  static auto* const files = new TemporaryFiles;  // other threads may outlive main()
  return *files;
}

[[noreturn]] void fail(const std::filesystem::path& path, const char* call, int error) {
  throw EnvironmentError(
      fmt::format("activation cache {}: {}: {}", path.string(), call, std::strerror(error)));
}

// Everything before the seal starts at a multiple of 8 bytes.
std::uint64_t activation_bytes(const StoreShape& shape) {
  const std::uint64_t bytes =
      static_cast<std::uint64_t>(shape.tokens * shape.hidden) * c10::elementSize(shape.type);
  return (bytes + 7) / 8 * 8;
}

std::uint64_t* seal_of(std::byte* begin, const StoreShape& shape) {
  return reinterpret_cast<std::uint64_t*>(begin + shape.bytes()) - 2;
}

// Returns the first directory with room: memory, where the system offers it as files, then a disk.
std::filesystem::path scratch_directory(std::uint64_t bytes) {
  std::vector<std::filesystem::path> candidates{"/dev/shm"};
  if (const char* named = std::getenv("TMPDIR")) {
    candidates.emplace_back(named);
  }
  candidates.emplace_back("/tmp");
  for (const auto& candidate : candidates) {
    struct statvfs room {};
    if (::statvfs(candidate.c_str(), &room) == 0 &&
        static_cast<std::uint64_t>(room.f_bavail) * room.f_frsize > bytes) {
      return candidate;
    }
  }
  throw EnvironmentError(fmt::format(
      "the ranks of a node share {} bytes of activations, but neither /dev/shm, $TMPDIR nor /tmp "
      "has room for them; lower --cache-budget or set --cache-dir",
      bytes));
}

// Host and process for people; nobody can guess the rest and put a file or a link there first.
std::string unique_suffix() {
  char host[256] = {};
  ::gethostname(host, sizeof(host) - 1);
  return fmt::format("{}.{}.{}", host, ::getpid(), random_name());
}

// Whoever owns a file could have written anything into it.
bool is_own(const struct stat& status) {
  return status.st_uid == ::geteuid() || status.st_uid == 0;
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
  return activation_bytes(*this) + static_cast<std::uint64_t>(2 * pairs + 1) * sizeof(double) +
         2 * sizeof(std::uint64_t);
}

std::filesystem::path foreign_store(const std::filesystem::path& directory) {
  std::error_code error;
  std::filesystem::directory_iterator entry(directory, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    struct stat status {};
    if (entry->path().extension() == kExtension && ::stat(entry->path().c_str(), &status) == 0 &&
        !is_own(status)) {
      return entry->path();
    }
  }
  return {};
}

void remove_unfinished_stores() {
  temporary_files().remove_all();
}

ActivationStore::ActivationStore(const StoreShape& shape, Communicator& node) : shape_(shape) {
  begin(node);
}

ActivationStore::ActivationStore(const StoreShape& shape, const std::filesystem::path& directory,
                                 std::uint64_t key, bool trusts_others)
    : shape_(shape), final_path_(directory / fmt::format("{:016x}{}", key, kExtension)), key_(key) {
  const File file(final_path_, O_RDONLY | O_NONBLOCK);
  struct stat status {};
  const bool is_ours = file.get() >= 0 && ::fstat(file.get(), &status) == 0 &&
                       S_ISREG(status.st_mode) && (trusts_others || is_own(status));
  if (!is_ours || static_cast<std::uint64_t>(status.st_size) != shape.bytes()) {
    return;
  }
  map(file.get(), /*writable=*/false);
  const std::uint64_t* seal = seal_of(mapped_, shape_);
  complete_ = seal[0] == key && seal[1] == kSeal;
}

ActivationStore::~ActivationStore() {
  if (mapped_ != nullptr) {
    ::munmap(mapped_, shape_.bytes());
  }
  if (removes_temporary_) {
    ::unlink(temporary_path_.c_str());
    temporary_files().forget(temporary_path_);
  }
}

void ActivationStore::begin(Communicator& node) {
  if (mapped_ != nullptr) {
    ::munmap(mapped_, shape_.bytes());
    mapped_ = nullptr;
  }
  complete_ = false;
  if (!final_path_.empty()) {
    temporary_path_ = final_path_;
    temporary_path_ += "." + unique_suffix() + ".tmp";
    map_new_file(temporary_path_, node, /*keep_name=*/true);
  } else if (node.size() > 1) {
    std::filesystem::path path;
    if (node.rank() == 0) {
      path = scratch_directory(shape_.bytes()) / fmt::format("bipo-dist.{}", unique_suffix());
    }
    map_new_file(path, node, /*keep_name=*/false);
  } else {
    owned_ = at::empty({static_cast<std::int64_t>(shape_.bytes())}, at::kByte);
    set_views(reinterpret_cast<std::byte*>(owned_.data_ptr<std::uint8_t>()));
  }
}

// Reserves room at once, so that a full disk is an error here and not a signal later.
void ActivationStore::map_new_file(const std::filesystem::path& path, Communicator& node,
                                   bool keep_name) {
  if (node.rank() == 0) {
    temporary_files().add(path);
    const File file(path, O_RDWR | O_CREAT | O_EXCL);
    if (file.get() < 0) {
      fail(path, "open", errno);
    }
    if (const int error = ::posix_fallocate(file.get(), 0, static_cast<off_t>(shape_.bytes()))) {
      ::unlink(path.c_str());
      fail(path, "posix_fallocate", error);
    }
    temporary_path_ = path;
    removes_temporary_ = true;
    map(file.get(), /*writable=*/true);
  }
  const std::filesystem::path shared = broadcast_path(path, node);
  if (node.rank() != 0) {
    const File file(shared, O_RDWR | O_NOFOLLOW);
    if (file.get() < 0) {
      fail(shared, "open", errno);
    }
    map(file.get(), /*writable=*/true);
  }
  node.barrier();
  if (node.rank() == 0 && !keep_name) {
    ::unlink(path.c_str());
    temporary_files().forget(path);
    removes_temporary_ = false;
  }
}

void ActivationStore::map(int file, bool writable) {
  void* begin = ::mmap(nullptr, shape_.bytes(), writable ? PROT_READ | PROT_WRITE : PROT_READ,
                       MAP_SHARED, file, 0);
  if (begin == MAP_FAILED) {
    fail(final_path_.empty() ? temporary_path_ : final_path_, "mmap", errno);
  }
  mapped_ = static_cast<std::byte*>(begin);
  set_views(mapped_);
}

void ActivationStore::set_views(std::byte* begin) {
  activations_ =
      at::from_blob(begin, {shape_.tokens, shape_.hidden}, at::TensorOptions().dtype(shape_.type));
  numbers_ = reinterpret_cast<double*>(begin + activation_bytes(shape_));
}

void ActivationStore::commit(Communicator& node) {
  node.barrier();
  complete_ = true;
  if (final_path_.empty() || node.rank() != 0) {
    return;
  }
  std::uint64_t* seal = seal_of(mapped_, shape_);
  seal[0] = key_;
  seal[1] = kSeal;
  if (::msync(mapped_, shape_.bytes(), MS_SYNC) != 0) {
    fail(temporary_path_, "msync", errno);
  }
  if (::rename(temporary_path_.c_str(), final_path_.c_str()) != 0) {
    fail(final_path_, "rename", errno);
  }
  temporary_files().forget(temporary_path_);
  removes_temporary_ = false;
}

}  // namespace bipo
