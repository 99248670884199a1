// Keeps two jobs from writing one result at the same time.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "experiments/sweeps/claims.hpp"

namespace bipo {

// A claim on a file that a command is about to write, in the folder `.<name>.claim` beside it,
// which the last owner removes.
class OutClaim {
 public:
  // Waits a few seconds for an owner on this host, which may be about to end, and up to
  // `times.dead_after` for one on another host that gives no sign of life; says so on standard
  // error.  Throws UserError where a live process, which it names, keeps the claim, and where the
  // claim cannot be written.
  explicit OutClaim(const std::filesystem::path& out, const ClaimTimes& times = {});

  // Ends the claim.
  ~OutClaim();
  OutClaim(const OutClaim&) = delete;
  OutClaim& operator=(const OutClaim&) = delete;

  // Returns whether no other process has taken over.  Throws EnvironmentError.
  bool is_mine() const { return !claim_->is_taken_over(); }

  // Lets others take the claim at once; see Claim::offer().
  void offer() { claim_->offer(); }

 private:
  std::filesystem::path folder_;
  std::unique_ptr<Claim> claim_;
};

// Returns the claim on `out` as other processes see it.  Throws EnvironmentError.
ClaimSign read_out_claim(const std::filesystem::path& out, const ClaimTimes& times = {});

}  // namespace bipo
