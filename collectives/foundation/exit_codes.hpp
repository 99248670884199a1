// Exit codes of the program.
#pragma once

namespace bipo {

inline constexpr int kExitDone = 0;
inline constexpr int kExitFailure = 1;
inline constexpr int kExitBadInput = 2;
inline constexpr int kExitInterrupted = 75;

}  // namespace bipo
