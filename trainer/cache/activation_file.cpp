#include "trainer/cache/activation_file.hpp"

#include <ATen/Parallel.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <span>
#include <system_error>
#include <vector>

#include "collectives/foundation/block_hash.hpp"
#include "collectives/foundation/host_name.hpp"
#include "collectives/foundation/random_name.hpp"
#include "trainer/cache/temporary_files.hpp"

namespace bipo {
namespace {

// A file holds the bytes of the store, a checksum of each block of them, and the seal.
constexpr std::uint64_t kBlockBytes = 1 << 20;

constexpr const char* kExtension = ".activations";
constexpr const char* kUnfinished = ".locked.tmp";  // its maker holds a lock
constexpr const char* kEarlierUnfinished = ".tmp";  // without

// Ends a whole file.
struct Seal {
  std::uint64_t layout = 0x6269706f61637432;  // changes with the file's
  std::uint64_t key = 0;
  std::array<std::int64_t, 4> shape{};
  std::uint64_t checksum = 0;  // of the blocks' checksums and everything above
};
static_assert(sizeof(Seal) == 7 * sizeof(std::uint64_t));

constexpr std::array<const char*, 4> kCalls = {"open", "write", "fsync", "rename"};
enum Call : std::int64_t { kOpen, kWrite, kSync, kRename };

std::uint64_t block_count(std::uint64_t bytes) {
  return (bytes + kBlockBytes - 1) / kBlockBytes;
}

std::span<std::byte> block_of(std::span<std::byte> bytes, std::uint64_t block) {
  const std::uint64_t begin = block * kBlockBytes;
  return bytes.subspan(begin, std::min(kBlockBytes, bytes.size() - begin));
}

std::uint64_t file_bytes(const StoreShape& shape) {
  return shape.bytes() + block_count(shape.bytes()) * sizeof(std::uint64_t) + sizeof(Seal);
}

Seal seal_of(const StoreShape& shape, std::uint64_t key,
             const std::vector<std::uint64_t>& checksums) {
  Seal seal;
  seal.key = key;
  seal.shape = {shape.tokens, shape.hidden, shape.pairs, static_cast<std::int64_t>(shape.type)};
  seal.checksum = block_hash(std::as_bytes(std::span(checksums)));
  seal.checksum = block_hash(std::as_bytes(std::span(&seal, 1)));
  return seal;
}

// Returns whether all bytes were read; the file may have become shorter, or its disk failed.
bool read_fully(const FileDescriptor& file, std::span<std::byte> target, std::uint64_t offset) {
  return read_at(file.get(), target, offset) == static_cast<ssize_t>(target.size());
}

// Calls `visit` with the path of each entry; what cannot be listed has none.
template <typename Visit>
void for_each_entry(const std::filesystem::path& directory, const Visit& visit) {
  std::error_code error;
  std::filesystem::directory_iterator entry(directory, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    visit(entry->path());
  }
}

// Lets the name outlast a loss of power; where a directory cannot be synchronised, it stays with
// the system when.
void sync_directory(const std::filesystem::path& directory) {
  const FileDescriptor file = open_file(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (file.is_open()) {
    sync_file(file);
  }
}

}  // namespace

bool is_remarkable(FileFlaw flaw) {
  return flaw > FileFlaw::kForeign;
}

std::string described(FileFlaw flaw) {
  switch (flaw) {
    case FileFlaw::kDiffers:
      return "is not the same for all ranks";
    case FileFlaw::kUnreadable:
      return "cannot be read";
    case FileFlaw::kNoFile:
      return "is not a regular file";
    case FileFlaw::kWrongSize:
      return "has not the size that it was written with";
    case FileFlaw::kDamaged:
      return "is damaged: its checksums do not fit what it holds";
    default:
      return "is none of this user's";
  }
}

std::int64_t WriteProblem::code() const {
  return (call + 1) << 32 | error;
}

WriteProblem WriteProblem::from_code(std::int64_t code) {
  return {(code >> 32) - 1, code & 0xffffffff};
}

std::string WriteProblem::described() const {
  return fmt::format("{}: {}", kCalls.at(static_cast<std::size_t>(call)),
                     std::generic_category().message(static_cast<int>(error)));
}

std::filesystem::path foreign_store(const std::filesystem::path& directory) {
  std::filesystem::path found;
  for_each_entry(directory, [&](const std::filesystem::path& path) {
    struct stat status {};
    if (path.extension() == kExtension && ::stat(path.c_str(), &status) == 0 && !is_own(status)) {
      found = path;
    }
  });
  return found;
}

void remove_abandoned_stores(const std::filesystem::path& directory) {
  const std::string of_any_host = fmt::format("{}.", kExtension);
  const std::string of_this_host = of_any_host + host_name() + ".";
  for_each_entry(directory, [&](const std::filesystem::path& path) {
    const std::string name = path.filename().string();
    const auto holds = [&](const std::string& part) {
      return name.find(part) != std::string::npos;
    };
    if (name.ends_with(kEarlierUnfinished) && holds(of_any_host)) {
      remove_abandoned(path, name.ends_with(kUnfinished) && holds(of_this_host));
    }
  });
}

ActivationFile::ActivationFile(const StoreShape& shape, const std::filesystem::path& directory,
                               std::uint64_t key, bool trusts_others)
    : shape_(shape), path_(directory / fmt::format("{:016x}{}", key, kExtension)), key_(key) {
  flaw_ = open(trusts_others);
}

FileFlaw ActivationFile::open(bool trusts_others) {
  file_ = open_file(path_, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (!file_.is_open()) {
    return errno == ENOENT ? FileFlaw::kAbsent : FileFlaw::kUnreadable;
  }
  struct stat status {};
  if (::fstat(file_.get(), &status) != 0) {
    return FileFlaw::kUnreadable;
  }
  if (!S_ISREG(status.st_mode)) {
    return FileFlaw::kNoFile;
  }
  if (!trusts_others && !is_own(status)) {
    return FileFlaw::kForeign;
  }
  if (static_cast<std::uint64_t>(status.st_size) != file_bytes(shape_)) {
    return FileFlaw::kWrongSize;
  }
  return read_checksums(shape_.bytes()) ? FileFlaw::kNone : FileFlaw::kDamaged;
}

bool ActivationFile::read_checksums(std::uint64_t bytes) {
  checksums_.resize(block_count(bytes));
  const auto target = std::as_writable_bytes(std::span(checksums_));
  Seal seal;
  if (!read_fully(file_, target, bytes) ||
      !read_fully(file_, std::as_writable_bytes(std::span(&seal, 1)), bytes + target.size())) {
    return false;
  }
  const Seal expected = seal_of(shape_, key_, checksums_);
  content_ = expected.checksum;
  return std::memcmp(&seal, &expected, sizeof(Seal)) == 0;
}

FileFlaw ActivationFile::read(const ActivationStore& store, int part, int parts) const {
  const auto blocks = static_cast<std::int64_t>(checksums_.size());
  std::atomic<FileFlaw> flaw = FileFlaw::kNone;
  at::parallel_for(blocks * part / parts, blocks * (part + 1) / parts, 1,
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t block = begin; block < end; ++block) {
                       const auto index = static_cast<std::uint64_t>(block);
                       const std::span<std::byte> bytes = block_of(store.bytes(), index);
                       if (!read_fully(file_, bytes, index * kBlockBytes)) {
                         flaw = FileFlaw::kUnreadable;
                       } else if (block_hash(bytes) != checksums_[index]) {
                         flaw = FileFlaw::kDamaged;
                       }
                     }
                   });
  return flaw;
}

void ActivationFile::remove() {
  file_ = FileDescriptor();
  ::unlink(path_.c_str());  // what remains is replaced later, or the run says that it cannot be
}

std::optional<WriteProblem> ActivationFile::write(const ActivationStore& store) const {
  const std::span<std::byte> bytes = store.bytes();
  std::vector<std::uint64_t> checksums(block_count(bytes.size()));
  at::parallel_for(0, static_cast<std::int64_t>(checksums.size()), 1,
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t block = begin; block < end; ++block) {
                       const auto index = static_cast<std::uint64_t>(block);
                       checksums[index] = block_hash(block_of(bytes, index));
                     }
                   });
  const Seal seal = seal_of(shape_, key_, checksums);
  // Host and process for people; nobody can guess the rest and put a file or a link there first.
  std::filesystem::path unfinished = path_;
  unfinished += fmt::format(".{}.{}.{}{}", host_name(), ::getpid(), random_name(), kUnfinished);
  TemporaryFile file(unfinished);
  if (file.get() < 0) {
    return WriteProblem{kOpen, errno};
  }
  for (const std::span<const std::byte> piece :
       {std::span<const std::byte>(bytes), std::as_bytes(std::span(checksums)),
        std::as_bytes(std::span(&seal, 1))}) {
    if (!write_all(file.file(), piece)) {
      return WriteProblem{kWrite, errno};
    }
  }
  if (sync_file(file.file()) != 0) {
    return WriteProblem{kSync, errno};
  }
  if (!file.keep_as(path_)) {
    return WriteProblem{kRename, errno};
  }
  sync_directory(path_.parent_path());
  return std::nullopt;
}

}  // namespace bipo
