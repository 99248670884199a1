#include "trainer/model/files/file_hash.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <ctime>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <vector>

#include "collectives/foundation/block_hash.hpp"
#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/file_descriptor.hpp"
#include "collectives/foundation/input_file.hpp"
#include "collectives/foundation/worker_threads.hpp"

namespace bipo {
namespace {

constexpr std::uint64_t kPieceBytes = 1 << 18;
constexpr std::size_t kMostThreads = 16;
constexpr std::int64_t kNanoseconds = 1'000'000'000;
constexpr std::int64_t kRecent = 2 * kNanoseconds;  // file systems with coarse times count seconds
constexpr std::uint64_t kMostMemoryBytes = 16384;

// What changes when a file's content does.
struct FileState {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t size = 0;
  std::int64_t modified = 0;  // nanoseconds from 1970
  std::int64_t changed = 0;   // the same of everything about it: nobody can set that time

  auto operator<=>(const FileState&) const = default;
};

std::int64_t nanoseconds(const timespec& time) {
  return time.tv_sec * kNanoseconds + time.tv_nsec;
}

FileState state_of(const MappedFile& file) {
  struct stat status {};
  if (::fstat(file.descriptor(), &status) != 0) {
    throw EnvironmentError(
        fmt::format("{}: fstat: {}", file.path().string(), std::generic_category().message(errno)));
  }
  return {status.st_dev, status.st_ino, static_cast<std::uint64_t>(status.st_size),
          nanoseconds(status.st_mtim), nanoseconds(status.st_ctim)};
}

bool is_settled(const FileState& state) {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return nanoseconds(now) - std::max(state.modified, state.changed) > kRecent;
}

std::size_t available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return ::sched_getaffinity(0, sizeof(set), &set) == 0 ? static_cast<std::size_t>(CPU_COUNT(&set))
                                                        : 1;
}

// Returns errno, ENODATA for a file that became shorter, or 0.
int read_piece(int file, std::span<std::byte> target, std::uint64_t offset) {
  const ssize_t count = read_at(file, target, offset);
  if (count < 0) {
    return errno;
  }
  return static_cast<std::size_t>(count) < target.size() ? ENODATA : 0;
}

std::uint64_t hash_of_content(const MappedFile& file, std::uint64_t size) {
  std::vector<std::uint64_t> pieces((size + kPieceBytes - 1) / kPieceBytes);
  std::atomic<std::size_t> next = 0;
  std::atomic<int> failure = 0;
  const auto work = [&] {
    const auto buffer = std::make_unique_for_overwrite<std::byte[]>(kPieceBytes);
    for (std::size_t piece = next++; piece < pieces.size() && failure == 0; piece = next++) {
      const std::uint64_t begin = piece * kPieceBytes;
      const std::span<std::byte> bytes(buffer.get(), std::min(kPieceBytes, size - begin));
      if (const int error = read_piece(file.descriptor(), bytes, begin)) {
        failure = error;
      }
      pieces[piece] = block_hash(bytes);
    }
  };
  run_in_threads(std::min({available_cores(), kMostThreads, pieces.size()}), work);
  if (failure != 0) {
    throw EnvironmentError(fmt::format(
        "{}: {}; put the whole file back, and start the same command again", file.path().string(),
        failure == ENODATA ? "became shorter while it was read"
                           : "cannot be read: " + std::generic_category().message(failure)));
  }
  ContentHash hash;
  hash.add(size);
  hash.add_bytes(pieces.data(), pieces.size() * sizeof(std::uint64_t));
  return hash.value();
}

// The hashes that this process knows.
class OwnMemory {
 public:
  std::optional<std::uint64_t> find(const FileState& state) {
    const std::lock_guard lock(mutex_);
    const auto found = hashes_.find(state);
    return found == hashes_.end() ? std::nullopt : std::optional(found->second);
  }
  void add(const FileState& state, std::uint64_t hash) {
    const std::lock_guard lock(mutex_);
    hashes_[state] = hash;
  }

 private:
  std::mutex mutex_;
  std::map<FileState, std::uint64_t> hashes_;
};

OwnMemory& own_memory() {
  static auto* const memory = new OwnMemory;
  return *memory;
}

// A hash in a directory, as a text that says of what it is.
class StoredHash {
 public:
  StoredHash(const MappedFile& file, const FileState& state, const HashMemory& memory)
      : trusts_others_(memory.trusts_others) {
    std::error_code unreachable;
    std::filesystem::path path = std::filesystem::canonical(file.path(), unreachable);
    if (unreachable) {
      path = file.path();
    }
    // Devices may have other numbers on other hosts that see the same files.
    identity_ = fmt::format("{}\nsize {} modified {} changed {} inode {}\n", path.string(),
                            state.size, state.modified, state.changed, state.inode);
    ContentHash name;
    name.add(path.string());
    path_ = memory.directory / fmt::format("{:016x}.filehash", name.value());
  }

  // Returns none for a text that is not, byte for byte, what write() writes.
  std::optional<std::uint64_t> read() const {
    struct stat status {};
    if (::stat(path_.c_str(), &status) != 0 || !(trusts_others_ || is_own(status))) {
      return std::nullopt;
    }
    try {
      const std::string text = read_input_file(path_, kMostMemoryBytes);
      std::uint64_t hash = 0;
      const char* begin = text.data() + std::min(text.size(), identity_.size());
      std::from_chars(begin, text.data() + text.size(), hash, 16);
      return text == text_of(hash) ? std::optional(hash) : std::nullopt;
    } catch (const UserError&) {
      return std::nullopt;
    } catch (const EnvironmentError&) {
      return std::nullopt;
    }
  }

  // Where it cannot be written, the next process hashes anew.
  void write(std::uint64_t hash) const {
    const std::string text = text_of(hash);
    std::error_code is_there;  // or cannot be made, of which others tell
    std::filesystem::create_directory(path_.parent_path(), is_there);
    ::unlink(path_.c_str());
    const FileDescriptor file =
        open_file(path_, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR);
    if (file.is_open()) {
      // A part of a text counts for nothing.
      [[maybe_unused]] const bool ignored = write_all(file, std::as_bytes(std::span(text)));
    }
  }

 private:
  std::string text_of(std::uint64_t hash) const {
    ContentHash check;
    check.add(identity_);
    check.add(hash);
    return fmt::format("{}{:016x} {:016x}\n", identity_, hash, check.value());
  }

  bool trusts_others_;
  std::string identity_;
  std::filesystem::path path_;
};

}  // namespace

std::uint64_t file_hash(const MappedFile& file, const HashMemory& memory) {
  const FileState state = state_of(file);
  if (const auto known = own_memory().find(state)) {
    return *known;
  }
  std::optional<StoredHash> stored;
  if (!memory.directory.empty() && state.size >= memory.least_bytes) {
    stored.emplace(file, state, memory);
    if (const auto known = stored->read()) {
      own_memory().add(state, *known);
      return *known;
    }
  }
  const bool may_remember = is_settled(state);
  const std::uint64_t hash = hash_of_content(file, state.size);
  if (state_of(file) != state) {
    throw EnvironmentError(fmt::format(
        "{}: changed while it was read; start again when it is whole", file.path().string()));
  }
  if (may_remember) {
    own_memory().add(state, hash);
    if (stored) {
      stored->write(hash);
    }
  }
  return hash;
}

}  // namespace bipo
