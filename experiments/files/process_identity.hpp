// Which process wrote something, told so that another process can see whether it still lives.
#pragma once

#include <cstdint>
#include <string>

namespace bipo {

// Texts are empty and numbers 0 where the system does not tell.
struct ProcessIdentity {
  std::string host;              // for people; two machines may bear one name
  std::string boot_id;           // of the running kernel: one machine from one boot to the next
  std::string pid_namespace;     // within which `pid` counts, e.g. pid:[4026531836]
  std::int64_t pid = 0;          // positive
  std::uint64_t start_time = 0;  // clock ticks from boot; a recycled pid has another
};

std::string host_name();

ProcessIdentity this_process();

enum class Life { kUnknown, kLives, kEnded };

// Known of processes of this boot of this host and of the same pid namespace only; one whose pid
// belongs to another by now has ended.
Life life_of(const ProcessIdentity& process);

}  // namespace bipo
