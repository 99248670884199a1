// Records which process works on what in a directory that several jobs share.
//
// A claim on NAME is a file NAME.1.json, NAME.2.json, ... in DIR/claims: the highest generation is
// the claim.  A process takes it by creating the next generation exclusively, so that one taker
// wins and none ever touches another's file.  The owner renews its claim by touching the file.  A
// claim is dead, and may be taken over, when it was released, when its owner is known to have ended
// (only a process on the same host can know), or when it was not renewed for `dead_after` by the
// clock of the file system, so that the clocks of two hosts need not agree.  A claim of a process
// on this machine that was made in another directory is dead too: someone copied the directory.
//
// An owner that was suspended for long may lose its claim while it works: call is_mine() before
// replacing a file that the claim guards.  A race can then waste work, but never mixes files.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include "collectives/foundation/file_descriptor.hpp"

namespace bipo {

struct ClaimTimes {
  std::chrono::milliseconds renew_every{10'000};
  std::chrono::milliseconds dead_after{120'000};  // several times `renew_every`
  // Whether ages are measured by the file system's clock, which takes a file in it; else by this
  // host's, for those who only read.
  bool touches_files = true;
};

// One claim that this process holds; a thread of its own renews it while the object lives.  Its
// functions throw EnvironmentError, with path and call, where the file system fails.  Other than
// offer(), they must be called by one thread at a time.
class Claim {
 public:
  // Returns null if any live process, including this one, holds `name`, which is part of file
  // names.
  static std::unique_ptr<Claim> take(const std::filesystem::path& directory,
                                     const std::string& name, const ClaimTimes& times = {});

  // The same for a claim whose files are in `claims` itself, which is made if it is missing.
  static std::unique_ptr<Claim> take_in(const std::filesystem::path& claims,
                                        const std::string& name, const ClaimTimes& times = {});

  // Releases the claim unless it is finished.  Ignores errors: the claim then expires.
  ~Claim();
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;

  // Reads the claim again: false once another process took over, and after release() and finish().
  bool is_mine() const;

  // Returns whether another process holds the claim now; false also where its files are gone.
  bool is_taken_over() const;

  // Lets others take the claim at once; until one does, it stays ours.  For an owner that may be
  // killed before it ends the claim; to be called once, beside is_mine() also by another thread.
  void offer();

  // Ends the claim with work left to do: others may take it at once.
  void release();

  // Ends the claim with the work done: removes the files of all generations if it is still ours.
  void finish();

 private:
  Claim(std::filesystem::path claims, std::string name, std::int64_t generation, std::string owner,
        std::string released_text, FileDescriptor file, const ClaimTimes& times);
  void start_renewing();
  void stop_renewing();

  std::filesystem::path claims_;
  std::string name_;
  std::int64_t generation_;
  std::string owner_;          // 128 random bits
  std::string released_text_;  // of the file; as long as the present text
  FileDescriptor file_;        // the file that we created, whatever has its name now
  ClaimTimes times_;
  bool is_over_ = false;  // released or finished
  std::jthread renewal_;
};

// Returns whether a claim exists, live or dead.
bool has_claim(const std::filesystem::path& directory, const std::string& name);

enum class ClaimState { kFree, kLive };

// A claim as other processes see it.
struct ClaimSign {
  ClaimState state = ClaimState::kFree;     // kLive: take() would find a live owner
  std::filesystem::file_time_type renewed;  // last renewal by a live owner
  bool is_proven = false;                   // the live owner is known to run on this host
  std::string owner;                        // the live owner, for people
};

// Requires read permission only.  Without write permission, ages are measured with this host's
// clock.  Throws EnvironmentError.
ClaimSign read_claim(const std::filesystem::path& directory, const std::string& name,
                     const ClaimTimes& times = {});

// The same for claims whose files are in `claims` itself.
ClaimSign read_claim_in(const std::filesystem::path& claims, const std::string& name,
                        const ClaimTimes& times = {});

inline ClaimState claim_state(const std::filesystem::path& directory, const std::string& name,
                              const ClaimTimes& times = {}) {
  return read_claim(directory, name, times).state;
}

}  // namespace bipo
