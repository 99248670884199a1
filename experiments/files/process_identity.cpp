// Records that say which process wrote them, and when.
#include "experiments/files/process_identity.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <system_error>

#include "collectives/foundation/host_name.hpp"

namespace bipo {
namespace {

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string pid_namespace() {
  std::error_code error;
  const auto target = std::filesystem::read_symlink("/proc/self/ns/pid", error);
  return error ? "" : target.string();
}

struct ProcessStatus {
  char state = 0;                // e.g. R, S; Z and X: ended
  std::uint64_t start_time = 0;  // clock ticks from boot
};

// Reads fields 3 (state) and 22 (starttime) of /proc/<pid>/stat, see proc(5).  Field 2, the command
// in parentheses, may itself contain spaces and parentheses.
std::optional<ProcessStatus> read_status(std::int64_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const std::size_t command_end = text.rfind(')');
  if (command_end == std::string::npos) {
    return std::nullopt;
  }
  std::istringstream fields(text.substr(command_end + 1));
  ProcessStatus status;
  fields >> status.state;
  constexpr int kFieldsBetween = 18;
  std::string skipped;
  for (int i = 0; i < kFieldsBetween; ++i) {
    fields >> skipped;
  }
  fields >> status.start_time;
  return fields ? std::optional(status) : std::nullopt;
}

bool shares_our_pids(const ProcessIdentity& process) {
  const ProcessIdentity own = this_process();
  return !own.boot_id.empty() && !own.pid_namespace.empty() && process.boot_id == own.boot_id &&
         process.pid_namespace == own.pid_namespace;
}

}  // namespace

std::string utc_text() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  std::array<char, 32> text{};
  const std::size_t size = std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &utc);
  return {text.data(), size};
}

ProcessIdentity this_process() {
  ProcessIdentity process;
  process.host = host_name();
  process.boot_id = first_line("/proc/sys/kernel/random/boot_id");
  process.pid_namespace = pid_namespace();
  process.pid = ::getpid();
  process.start_time = read_status(process.pid).value_or(ProcessStatus()).start_time;
  return process;
}

Life life_of(const ProcessIdentity& process) {
  if (process.pid <= 0 || process.start_time == 0 || !shares_our_pids(process)) {
    return Life::kUnknown;
  }
  if (::kill(static_cast<pid_t>(process.pid), 0) != 0 && errno == ESRCH) {
    return Life::kEnded;
  }
  const auto status = read_status(process.pid);
  if (!status) {
    return Life::kUnknown;  // the system may hide other users' processes
  }
  const bool is_over = status->state == 'Z' || status->state == 'X';
  const bool is_recycled = status->start_time != process.start_time;
  return is_over || is_recycled ? Life::kEnded : Life::kLives;
}

}  // namespace bipo
