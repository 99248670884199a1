// Who works on what in a directory that several jobs share.
//
// A claim on NAME lies in DIR/claims as NAME.1.json, NAME.2.json, ...: the highest generation is
// the claim.  To take it is to create the next generation exclusively, so that one taker wins and
// no taker ever touches another's file.  The owner renews its claim by touching the file.  A claim
// is dead, and may be taken over, when it was released, when its owner is known to have ended
// (only a process of the same host can know), or when it was not renewed for `dead_after` by the
// clock of the file system, so that the clocks of two hosts need not agree.
//
// An owner that was stopped for long may lose its claim while it works: ask is_mine() before
// replacing a file that the claim guards.  A race can waste work then, but never mixes files.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include "experiments/files/file_descriptor.hpp"

namespace bipo {

struct ClaimTimes {
  std::chrono::milliseconds renew_every{10'000};
  std::chrono::milliseconds dead_after{120'000};  // several times `renew_every`
};

// One claim that this process holds, renewed by a thread of its own while the object lives.  Its
// functions throw EnvironmentError, with path and call, where the file system fails, and are for
// one thread at a time.
class Claim {
 public:
  // Null when a live owner has `name`, be it this process.  `name` is part of file names.
  static std::unique_ptr<Claim> take(const std::filesystem::path& directory,
                                     const std::string& name, const ClaimTimes& times = {});

  // Releases the claim unless it is finished.  An error is passed over: the claim then dies by age.
  ~Claim();
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;

  // Reads it anew: false once another took over, and after release() and finish().
  bool is_mine() const;

  // Ends the claim with work left to do: others may take it at once.
  void release();

  // Ends the claim with the work done: removes the files of all generations, if it is still ours.
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
  std::string released_text_;  // of the file; as long as what the file holds now
  FileDescriptor file_;        // of what we created, whatever bears its name by now
  ClaimTimes times_;
  bool is_over_ = false;  // released or finished
  std::jthread renewal_;
};

// Whether there is a claim at all, be it dead.
bool has_claim(const std::filesystem::path& directory, const std::string& name);

enum class ClaimState { kFree, kLive };

// What can be seen of a claim from outside.
struct ClaimSign {
  ClaimState state = ClaimState::kFree;     // kLive: take() would find a live owner
  std::filesystem::file_time_type renewed;  // last sign of life of a live owner
  bool is_proven = false;                   // the live owner is known to run on this host
};

// Needs no more than leave to read the directory; without leave to write, ages are told by this
// host's clock.  Throws EnvironmentError.
ClaimSign read_claim(const std::filesystem::path& directory, const std::string& name,
                     const ClaimTimes& times = {});

// The state alone.
ClaimState claim_state(const std::filesystem::path& directory, const std::string& name,
                       const ClaimTimes& times = {});

}  // namespace bipo
