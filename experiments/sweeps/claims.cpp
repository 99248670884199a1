// Records which process works on what in a directory that several jobs share.
#include "experiments/sweeps/claims.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "experiments/files/process_identity.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

// Time since 1970 by the clock of the file system.
using FileTime = std::chrono::nanoseconds;

constexpr std::string_view kClaimSuffix = ".json";
constexpr std::string_view kTempSuffix = ".tmp";

[[noreturn]] void throw_failure(const fs::path& path, const char* call, int code) {
  throw EnvironmentError(fmt::format("claim {}: {} failed: {}", path.string(), call,
                                     std::generic_category().message(code)));
}

// A claim file as it was read.
struct FoundClaim {
  std::int64_t generation = 0;
  FileTime renewed{};
  std::string text;
};

// The content of an intact claim file.
struct ClaimContent {
  std::string owner;
  ProcessIdentity process;
  std::string utc;
  std::uint64_t directory = 0;  // inode of the claims' directory; 0: not known
  bool is_released = false;
};

std::string random_owner() {
  std::random_device source;
  std::string owner;
  for (int word = 0; word < 4; ++word) {
    owner += fmt::format("{:08x}", source());
  }
  return owner;
}

// Both variants have the same length, so that one can overwrite the other in place.
std::string claim_text(const std::string& owner, const ProcessIdentity& process,
                       const std::string& utc, std::uint64_t directory, bool is_released) {
  const nlohmann::ordered_json json = {{"owner", owner},
                                       {"host", process.host},
                                       {"boot_id", process.boot_id},
                                       {"pid_namespace", process.pid_namespace},
                                       {"pid", process.pid},
                                       {"start_time", process.start_time},
                                       {"utc", utc},
                                       {"directory", directory},
                                       {"released", is_released}};
  constexpr auto replace_bad_utf8 = nlohmann::ordered_json::error_handler_t::replace;
  return fmt::format("{}{}\n", json.dump(-1, ' ', false, replace_bad_utf8), is_released ? " " : "");
}

// Returns nothing for a text that is not a claim: a crash of the file system's host can leave
// anything.
std::optional<ClaimContent> parse_claim(const std::string& text) {
  try {
    const auto json = nlohmann::json::parse(text);
    ClaimContent content;
    content.owner = json.at("owner").get<std::string>();
    content.process.host = json.at("host").get<std::string>();
    content.process.boot_id = json.at("boot_id").get<std::string>();
    content.process.pid_namespace = json.at("pid_namespace").get<std::string>();
    content.process.pid = json.at("pid").get<std::int64_t>();
    content.process.start_time = json.at("start_time").get<std::uint64_t>();
    content.utc = json.at("utc").get<std::string>();
    content.directory = json.value("directory", std::uint64_t{0});  // version 0.1 wrote none
    content.is_released = json.at("released").get<bool>();
    return content;
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
}

fs::path claims_directory(const fs::path& directory) {
  return directory / "claims";
}

// Returns 0 where there is none.
std::uint64_t inode_of(const fs::path& directory) {
  struct stat status {};
  return ::stat(directory.c_str(), &status) == 0 ? status.st_ino : 0;
}

fs::path claim_path(const fs::path& claims, const std::string& name, std::int64_t generation) {
  return claims / fmt::format("{}.{}{}", name, generation, kClaimSuffix);
}

std::vector<std::string> list_files(const fs::path& claims) {
  std::vector<std::string> files;
  std::error_code error;
  fs::directory_iterator entry(claims, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    files.push_back(entry->path().filename().string());
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    throw_failure(claims, "listing the directory", error.value());
  }
  return files;
}

// In ascending order.
std::vector<std::int64_t> list_generations(const fs::path& claims, const std::string& name) {
  std::vector<std::int64_t> generations;
  for (const std::string& file : list_files(claims)) {
    if (const auto generation = number_in_name<std::int64_t>(file, name + '.', kClaimSuffix)) {
      generations.push_back(*generation);
    }
  }
  std::sort(generations.begin(), generations.end());
  return generations;
}

FileTime modification_time(const struct stat& status) {
  return std::chrono::seconds(status.st_mtim.tv_sec) +
         std::chrono::nanoseconds(status.st_mtim.tv_nsec);
}

std::string read_whole(int fd, const fs::path& path) {
  constexpr std::size_t kMostBytes = 64 * 1024;  // far more than any claim has
  std::string text;
  std::array<char, 4096> part{};
  while (text.size() < kMostBytes) {
    const ssize_t size = ::read(fd, part.data(), part.size());
    if (size < 0 && errno != EINTR) {
      throw_failure(path, "read", errno);
    }
    if (size == 0) {
      break;
    }
    text.append(part.data(), static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
  }
  return text;
}

// Returns nothing where the file is gone.  Opening it makes an NFS client ask the server for its
// age.
std::optional<FoundClaim> read_generation(const fs::path& claims, const std::string& name,
                                          std::int64_t generation) {
  const fs::path path = claim_path(claims, name, generation);
  const FileDescriptor file = open_file(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (!file.is_open() && (errno == ENOENT || errno == ESTALE)) {
    return std::nullopt;
  }
  if (!file.is_open()) {
    throw_failure(path, "open", errno);
  }
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) {
    throw_failure(path, "fstat", errno);
  }
  return FoundClaim{generation, modification_time(status), read_whole(file.get(), path)};
}

std::optional<FoundClaim> newest_claim(const fs::path& claims, const std::string& name) {
  while (true) {
    const auto generations = list_generations(claims, name);
    if (generations.empty()) {
      return std::nullopt;
    }
    if (auto found = read_generation(claims, name, generations.back())) {
      return found;
    }
    // Its owner finished between the listing and the reading.
  }
}

// A name that no other process chooses.
fs::path temp_path(const fs::path& claims) {
  return claims / fmt::format(".{}{}", random_owner(), kTempSuffix);
}

FileTime host_clock() {
  return FileTime(std::chrono::system_clock::now().time_since_epoch());
}

// Returns the present time by the clock that dates the claims, read from a file just touched; by
// this host's clock where the directory takes no file.
FileTime file_clock(const fs::path& claims) {
  TempFile probe(temp_path(claims));
  struct stat status {};
  const bool is_touched = probe.file().is_open() && ::futimens(probe.file().get(), nullptr) == 0 &&
                          ::fstat(probe.file().get(), &status) == 0;
  return is_touched ? modification_time(status) : host_clock();
}

// The newest claim and what is known of its owner.
struct Holder {
  std::optional<FoundClaim> newest;
  std::optional<ClaimContent> content;
  Life life = Life::kUnknown;
  bool is_live = false;
};

// A date in the far future is as bad as an old one: a live owner renews by the present clock.
bool is_recent(FileTime renewed, FileTime now, std::chrono::milliseconds dead_after) {
  return std::chrono::abs(now - renewed) <= dead_after;
}

// Other machines may number the files of a network file system differently.
bool is_copy(const ClaimContent& claim, const fs::path& claims) {
  return claim.directory != 0 && claim.directory != inode_of(claims);
}

Holder find_holder(const fs::path& claims, const std::string& name, const ClaimTimes& times) {
  if (list_generations(claims, name).empty()) {
    return {};
  }
  // Read the clock before the claim: a delay in between then makes the claim younger, not older.
  const FileTime now = times.touches_files ? file_clock(claims) : host_clock();
  Holder holder;
  holder.newest = newest_claim(claims, name);
  if (!holder.newest) {
    return holder;
  }
  holder.content = parse_claim(holder.newest->text);
  const auto& content = holder.content;
  holder.life = content ? life_of(content->process) : Life::kUnknown;
  if (holder.life == Life::kLives && is_copy(*content, claims)) {
    holder.life = Life::kEnded;
  }
  holder.is_live = !(content && content->is_released) && holder.life != Life::kEnded &&
                   is_recent(holder.newest->renewed, now, times.dead_after);
  return holder;
}

std::string describe_owner(const std::optional<ClaimContent>& claim) {
  return claim ? fmt::format("process {} on {}, since {}", claim->process.pid, claim->process.host,
                             claim->utc)
               : "an unknown process";
}

void write_at_start(const FileDescriptor& file, std::string_view text, const fs::path& path) {
  if (::lseek(file.get(), 0, SEEK_SET) != 0) {
    throw_failure(path, "lseek", errno);
  }
  if (!write_all(file, std::as_bytes(std::span(text)))) {
    throw_failure(path, "write", errno);
  }
  if (sync_file(file) != 0) {
    throw_failure(path, "fsync", errno);
  }
}

// An NFS server may have made the link although its answer was lost: the link count shows it.
bool has_second_name(int fd) {
  struct stat status {};
  return ::fstat(fd, &status) == 0 && status.st_nlink == 2;
}

// For file systems without hard links.  Whoever reads the file before it is written sees a live
// claim of an unknown owner.
FileDescriptor create_without_link(const fs::path& path, const std::string& text) {
  FileDescriptor file = open_file(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (!file.is_open() && errno != EEXIST && errno != ENOENT) {
    throw_failure(path, "creating the file", errno);
  }
  if (file.is_open()) {
    write_at_start(file, text, path);
  }
  return file;
}

// Creates the file with its whole content at once; returns no open file when another was first.
FileDescriptor create_claim(const fs::path& claims, const fs::path& path, const std::string& text) {
  TempFile temp(temp_path(claims));
  if (!temp.file().is_open() && errno == ENOENT) {
    return {};  // the last owner has just removed the directory
  }
  if (!temp.file().is_open()) {
    throw_failure(temp.path(), "creating the file", errno);
  }
  write_at_start(temp.file(), text, temp.path());
  if (::link(temp.path().c_str(), path.c_str()) == 0) {
    return std::move(temp.file());
  }
  const int code = errno;
  if (code == EPERM || code == EOPNOTSUPP || code == ENOSYS || code == EMLINK) {
    return create_without_link(path, text);
  }
  if (code == EEXIST && has_second_name(temp.file().get())) {
    return std::move(temp.file());
  }
  // ENOENT: another process removed the temp file as a leftover, so we were suspended for long.
  if (code != EEXIST && code != ENOENT) {
    throw_failure(path, "link", code);
  }
  return {};
}

// Returns whether nothing changed since the claim below ours was found dead: others may have taken
// over, finished and made room for a live claim in the meantime.
bool still_follows(const fs::path& claims, const std::string& name, std::int64_t generation,
                   const std::optional<FoundClaim>& judged) {
  const auto generations = list_generations(claims, name);
  if (generations.empty() || generations.back() != generation) {
    return false;
  }
  if (!judged) {
    return true;
  }
  const auto present = read_generation(claims, name, judged->generation);
  return present && present->text == judged->text;
}

void remove_file(const fs::path& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    throw_failure(path, "unlink", errno);
  }
}

// Removes the temp files of takers that were killed.
void remove_old_temps(const fs::path& claims, std::chrono::milliseconds dead_after) {
  const FileTime now = file_clock(claims);
  for (const std::string& file : list_files(claims)) {
    struct stat status {};
    const fs::path path = claims / file;
    if (file.starts_with('.') && file.ends_with(kTempSuffix) &&
        ::lstat(path.c_str(), &status) == 0 && now - modification_time(status) > dead_after) {
      remove_file(path);
    }
  }
}

void require_file_name(const std::string& name) {
  if (name.empty() || name.find('/') != std::string::npos || name.find('\0') != std::string::npos) {
    throw BugError(fmt::format("a claim on '{}', which is not a file name", name));
  }
}

// Signals are for the threads that wait for them or are interrupted by them.
void block_signals() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
}

}  // namespace

std::unique_ptr<Claim> Claim::take(const fs::path& directory, const std::string& name,
                                   const ClaimTimes& times) {
  return take_in(claims_directory(directory), name, times);
}

std::unique_ptr<Claim> Claim::take_in(const fs::path& claims, const std::string& name,
                                      const ClaimTimes& times) {
  require_file_name(name);
  std::error_code error;
  fs::create_directory(claims, error);
  if (error) {
    throw_failure(claims, "mkdir", error.value());
  }
  const Holder holder = find_holder(claims, name, times);
  if (holder.is_live) {
    return nullptr;
  }
  const std::int64_t generation = holder.newest ? holder.newest->generation + 1 : 1;
  const fs::path path = claim_path(claims, name, generation);
  const std::string owner = random_owner();
  const std::string utc = utc_text();
  const ProcessIdentity process = this_process();
  const std::uint64_t inode = inode_of(claims);
  FileDescriptor file = create_claim(claims, path, claim_text(owner, process, utc, inode, false));
  if (!file.is_open()) {
    return nullptr;
  }
  if (!still_follows(claims, name, generation, holder.newest)) {
    if (is_file_at(path, file)) {
      remove_file(path);
    }
    return nullptr;
  }
  std::unique_ptr<Claim> claim(new Claim(claims, name, generation, owner,
                                         claim_text(owner, process, utc, inode, true),
                                         std::move(file), times));
  claim->start_renewing();
  return claim;
}

Claim::Claim(fs::path claims, std::string name, std::int64_t generation, std::string owner,
             std::string released_text, FileDescriptor file, const ClaimTimes& times)
    : claims_(std::move(claims)),
      name_(std::move(name)),
      generation_(generation),
      owner_(std::move(owner)),
      released_text_(std::move(released_text)),
      file_(std::move(file)),
      times_(times) {
}

Claim::~Claim() {
  try {
    release();
  } catch (const std::exception&) {
    // No caller can act on it here.
  }
}

bool Claim::is_mine() const {
  if (is_over_) {
    return false;
  }
  const auto newest = newest_claim(claims_, name_);
  const auto content = newest ? parse_claim(newest->text) : std::nullopt;
  return content && content->owner == owner_;
}

bool Claim::is_taken_over() const {
  const auto newest = newest_claim(claims_, name_);
  const auto content = newest ? parse_claim(newest->text) : std::nullopt;
  return newest && !(content && content->owner == owner_);
}

void Claim::offer() {
  write_at_start(file_, released_text_, claim_path(claims_, name_, generation_));
}

void Claim::release() {
  if (is_over_) {
    return;
  }
  stop_renewing();
  write_at_start(file_, released_text_, claim_path(claims_, name_, generation_));
  is_over_ = true;
}

void Claim::finish() {
  stop_renewing();
  if (!is_mine()) {
    // A taker that came too late may have a newer generation for a moment, and withdraw: the claim
    // that it leaves must not look alive.
    release();
    return;
  }
  // Removes our own last, so that until then no taker finds the name free.
  for (const std::int64_t generation : list_generations(claims_, name_)) {
    if (generation <= generation_) {
      remove_file(claim_path(claims_, name_, generation));
    }
  }
  is_over_ = true;
  remove_old_temps(claims_, times_.dead_after);
}

void Claim::start_renewing() {
  renewal_ = std::jthread([fd = file_.get(), every = times_.renew_every](std::stop_token stop) {
    block_signals();
    std::mutex mutex;
    std::unique_lock lock(mutex);
    std::condition_variable_any wake;
    while (!wake.wait_for(lock, stop, every, [&] { return stop.stop_requested(); })) {
      // After a failure the next renewal succeeds, or the claim expires.
      ::futimens(fd, nullptr);
    }
  });
}

void Claim::stop_renewing() {
  renewal_ = {};
}

ClaimSign read_claim(const fs::path& directory, const std::string& name, const ClaimTimes& times) {
  return read_claim_in(claims_directory(directory), name, times);
}

ClaimSign read_claim_in(const fs::path& claims, const std::string& name, const ClaimTimes& times) {
  require_file_name(name);
  const Holder holder = find_holder(claims, name, times);
  if (!holder.is_live) {
    return {};
  }
  const std::chrono::sys_time<FileTime> renewed(holder.newest->renewed);
  return {ClaimState::kLive, std::chrono::file_clock::from_sys(renewed),
          holder.life == Life::kLives, describe_owner(holder.content)};
}

bool has_claim(const fs::path& directory, const std::string& name) {
  require_file_name(name);
  return !list_generations(claims_directory(directory), name).empty();
}

}  // namespace bipo
