#include "experiments/files/trial_process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/file_descriptor.hpp"

namespace bipo {
namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kArgument = "--trial-process";
constexpr int kSocket = STDIN_FILENO;  // of the trial process
constexpr std::size_t kMostMessageBytes = 1 << 15;

// Limits of a trial, each for a file of no size.  Sound files of this program take milliseconds.
constexpr std::uint64_t kProcessorSeconds = 5;
constexpr std::uint64_t kWallSeconds = 60;  // the disk may be slow, the processor taken
constexpr std::uint64_t kMemoryBytes = std::uint64_t{1} << 30;

std::uint64_t processor_seconds(std::uint64_t file_bytes) {
  return kProcessorSeconds + file_bytes / (std::uint64_t{32} << 20);
}

std::chrono::seconds wall_seconds(std::uint64_t file_bytes) {
  return std::chrono::seconds(kWallSeconds + file_bytes / (std::uint64_t{4} << 20));
}

std::uint64_t memory_bytes(std::uint64_t file_bytes) {
  return kMemoryBytes + 4 * file_bytes;
}

// A function-local object: other files register before this one's own objects exist.
std::map<std::string, TrialFunction>& functions() {
  static auto* const map = new std::map<std::string, TrialFunction>;
  return *map;
}

bool main_runs_trials = false;

// An answer's first byte; the message follows.
enum class Outcome : char { kRead = 'd', kUserError = 'u', kEnvironmentError = 'e', kMemory = 'm' };

struct Request {
  std::string name;
  std::string path;
  FileDescriptor file;
};

// A message of `text` with room for one file's descriptor; the text must outlive it.
struct DescriptorMessage {
  explicit DescriptorMessage(std::string& text) : part{text.data(), text.size()} {
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
  }
  DescriptorMessage(const DescriptorMessage&) = delete;
  DescriptorMessage& operator=(const DescriptorMessage&) = delete;

  iovec part;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr header{};
};

// The name and the path, with a NUL between them, and the file's descriptor.
bool send_request(int socket, const std::string& name, const std::string& path, int file) {
  std::string text = name + '\0' + path;
  DescriptorMessage message(text);
  cmsghdr* header = CMSG_FIRSTHDR(&message.header);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &file, sizeof(int));
  return ::sendmsg(socket, &message.header, MSG_NOSIGNAL) >= 0;
}

// Returns nothing where the other end is closed.
std::optional<Request> receive_request() {
  std::string text(kMostMessageBytes, '\0');
  DescriptorMessage message(text);
  const ssize_t size = ::recvmsg(kSocket, &message.header, MSG_CMSG_CLOEXEC);
  const cmsghdr* header = size > 0 ? CMSG_FIRSTHDR(&message.header) : nullptr;
  if (header == nullptr || header->cmsg_type != SCM_RIGHTS) {
    return std::nullopt;
  }
  int file = -1;
  std::memcpy(&file, CMSG_DATA(header), sizeof(int));
  text.resize(static_cast<std::size_t>(size));
  const std::size_t end = text.find('\0');
  if (end == std::string::npos) {
    return std::nullopt;
  }
  return Request{text.substr(0, end), text.substr(end + 1), FileDescriptor(file)};
}

void limit(__rlimit_resource resource, std::uint64_t value) {
  rlimit limits{};
  ::getrlimit(resource, &limits);
  limits.rlim_cur = std::min<rlim_t>(value, limits.rlim_max);
  ::setrlimit(resource, &limits);
}

std::uint64_t address_space() {
  std::uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

std::uint64_t processor_seconds_used() {
  rusage used{};
  ::getrusage(RUSAGE_SELF, &used);
  return static_cast<std::uint64_t>(used.ru_utime.tv_sec + used.ru_stime.tv_sec + 1);
}

// Sets the limits for one file, above what the process has used until now.
void set_limits(int file) {
  struct stat status {};
  ::fstat(file, &status);
  const auto size = static_cast<std::uint64_t>(status.st_size);
  limit(RLIMIT_CPU, processor_seconds_used() + processor_seconds(size));
  limit(RLIMIT_AS, address_space() + memory_bytes(size));
}

std::pair<Outcome, std::string> answer_to(const Request& request) {
  try {
    set_limits(request.file.get());
    functions().at(request.name)(request.path, request.file.get());
    return {Outcome::kRead, ""};
  } catch (const UserError& error) {
    return {Outcome::kUserError, error.what()};
  } catch (const std::bad_alloc&) {
    return {Outcome::kMemory, ""};
  } catch (const std::exception& error) {
    return {Outcome::kEnvironmentError, error.what()};
  }
}

[[noreturn]] void throw_start_failure(const char* call, int error) {
  throw EnvironmentError(
      fmt::format("a process that reads damaged files safely cannot be started: {} failed: {}",
                  call, std::generic_category().message(error)));
}

class TrialProcess {
 public:
  TrialProcess() {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
      throw_start_failure("socketpair", errno);
    }
    socket_ = FileDescriptor(ends[0]);
    const FileDescriptor theirs(ends[1]);
    if (const int error = start(theirs.get()); error != 0) {
      throw_start_failure("posix_spawn", error);
    }
  }
  TrialProcess(const TrialProcess&) = delete;
  TrialProcess& operator=(const TrialProcess&) = delete;
  ~TrialProcess() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      wait();
    }
  }

  // Returns the answer, with its Outcome as the first byte; nothing where the process has ended.
  std::optional<std::string> ask(const std::string& name, const std::string& path,
                                 const InputFile& file) {
    if (!send_request(socket_.get(), name, path, file.get())) {
      return std::nullopt;
    }
    const auto deadline = Clock::now() + wall_seconds(file.size());
    pollfd watched{socket_.get(), POLLIN, 0};
    while (true) {
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
      const int ready = left <= 0 ? 0 : ::poll(&watched, 1, static_cast<int>(left));
      if (ready == 0) {
        is_late_ = true;
        return std::nullopt;
      }
      if (ready > 0) {
        break;
      }
    }
    std::string answer(kMostMessageBytes, '\0');
    const ssize_t size = ::recv(socket_.get(), answer.data(), answer.size(), 0);
    if (size <= 0) {
      return std::nullopt;
    }
    answer.resize(static_cast<std::size_t>(size));
    return answer;
  }

  // Says how the process ended that gave no answer, and ends it where it has not.
  std::string end_text() {
    if (is_late_) {
      return "reading it did not end";
    }
    const int status = wait();
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU) {
      return "reading it did not end";
    }
    if (WIFSIGNALED(status)) {
      return fmt::format("reading it crashed the library ({})", ::strsignal(WTERMSIG(status)));
    }
    return fmt::format("reading it ended the process (exit code {})", WEXITSTATUS(status));
  }

 private:
  // Returns 0 or an error number.  The process hears no signal of the terminal: it has a group of
  // its own, and ends with this one.
  int start(int socket) {
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_adddup2(&files, socket, kSocket);
    posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&files, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    sigset_t none;
    sigset_t all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(
        &attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    std::string program = "bipo-dist";
    std::string argument = kArgument;
    char* arguments[] = {program.data(), argument.data(), nullptr};
    const int error =
        ::posix_spawn(&pid_, "/proc/self/exe", &files, &attributes, arguments, environ);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
    return error;
  }

  int wait() {
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    return status;
  }

  FileDescriptor socket_;
  pid_t pid_ = -1;
  bool is_late_ = false;
};

// Guards the process and the number of its keepers.
std::recursive_mutex& trial_mutex() {
  static auto* const mutex = new std::recursive_mutex;
  return *mutex;
}

// The process that waits for the next file.
std::unique_ptr<TrialProcess>& kept_process() {
  static auto* const process = new std::unique_ptr<TrialProcess>;
  return *process;
}

int keepers = 0;

}  // namespace

void register_trial(const std::string& name, TrialFunction function) {
  if (!functions().emplace(name, std::move(function)).second) {
    throw BugError(fmt::format("two trials are called '{}'", name));
  }
}

std::optional<int> run_trial_process(int argc, char** argv) {
  main_runs_trials = true;
  if (argc != 2 || std::strcmp(argv[1], kArgument) != 0) {
    return std::nullopt;
  }
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  limit(RLIMIT_CORE, 0);
  while (const auto request = receive_request()) {
    const auto [outcome, message] = answer_to(*request);
    const std::string answer =
        static_cast<char>(outcome) + message.substr(0, kMostMessageBytes - 1);
    if (::send(kSocket, answer.data(), answer.size(), MSG_NOSIGNAL) < 0) {
      break;
    }
  }
  return 0;
}

void try_reading(const std::string& name, const std::string& path, const InputFile& file) {
  if (!main_runs_trials) {
    throw BugError("a trial process is needed, but main() does not call run_trial_process()");
  }
  const std::lock_guard lock(trial_mutex());
  const TrialProcessKept keeper;
  auto& process = kept_process();
  if (!process) {
    process = std::make_unique<TrialProcess>();
  }
  const auto answer = process->ask(name, path, file);
  if (!answer) {
    const std::string reason = process->end_text();
    process.reset();
    throw TrialFailure(reason);
  }
  const auto outcome = static_cast<Outcome>(answer->front());
  if (outcome != Outcome::kRead) {
    process.reset();  // the library in it may have suffered
  }
  switch (outcome) {
    case Outcome::kRead:
      return;
    case Outcome::kUserError:
      throw UserError(answer->substr(1));
    case Outcome::kMemory:
      throw TrialFailure(fmt::format("reading it took more than {} MiB of memory",
                                     memory_bytes(file.size()) >> 20));
    case Outcome::kEnvironmentError:
      throw EnvironmentError(answer->substr(1));
  }
  throw BugError(fmt::format("a trial process answered '{}'", *answer));
}

TrialProcessKept::TrialProcessKept() {
  const std::lock_guard lock(trial_mutex());
  ++keepers;
}

TrialProcessKept::~TrialProcessKept() {
  const std::lock_guard lock(trial_mutex());
  --keepers;
  if (keepers == 0) {
    kept_process().reset();
  }
}

}  // namespace bipo
