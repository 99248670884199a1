// Records that say which process wrote them, and when.
#pragma once

#include <cstdint>
#include <string>

namespace bipo {

// Identifies a process to other processes.  Texts are empty and numbers 0 where the system does not
// know them.
struct ProcessIdentity {
  std::string host;              // for people; two machines may have the same name
  std::string boot_id;           // of the running kernel: one machine from one boot to the next
  std::string pid_namespace;     // in which `pid` is valid, e.g. pid:[4026531836]
  std::int64_t pid = 0;          // positive
  std::uint64_t start_time = 0;  // clock ticks from boot; tells processes with the same pid apart
};

// Returns the current time by this host's clock, ISO 8601 in UTC: 2026-01-02T03:04:05Z.
std::string utc_text();

ProcessIdentity this_process();

enum class Life { kUnknown, kLives, kEnded };

// Returns whether a process still runs; unknown unless it shares this boot, host and pid namespace.
// A process whose pid now belongs to another one has ended.
Life life_of(const ProcessIdentity& process);

}  // namespace bipo
