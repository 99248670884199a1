// What a rank says of itself when another asks it.
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace bipo {

// Groups of ranks of which one rank can be a member at the same time.
inline constexpr std::size_t kMostGroups = 32;

// How many operations of a group a rank has begun.
struct GroupCount {
  std::uint64_t key = 0;  // the same on all members, different for all groups of a rank
  std::uint64_t begun = 0;
};

struct PeerStatus {
  int rank = 0;  // in the world
  // Waits in an operation; else it works by itself.
  bool waits = false;
  // It waits for a rank that is silent or idle, at the end of whatever chain.
  bool knows_cause = false;
  // Seconds without progress: of a rank that works, in which the process used no processor time; of
  // one that waits, in which nobody made progress of those that it waits for.
  double quiet = 0;
  std::string activity;
  std::array<GroupCount, kMostGroups> groups{};  // key 0: unused
};

}  // namespace bipo
