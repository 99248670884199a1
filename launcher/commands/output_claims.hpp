// Keeps other jobs from the files that a command is about to write.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "experiments/job/job.hpp"
#include "experiments/progress/stop_signals.hpp"
#include "experiments/sweeps/out_claim.hpp"

namespace bipo {

// Claims of the root on files, from construction to the end of the command, also where a stop ends
// the process at once.
class OutputClaims {
 public:
  // Waits as OutClaim does, then calls `check` on the root: what was true before may have changed
  // while it waited.  Throws AgreedFailure (2) on every rank where a claim or `check` throws
  // UserError.  Collective over: world
  OutputClaims(Job& job, const std::vector<std::filesystem::path>& files,
               const std::function<void()>& check);

  // Returns whether no other job took a claim over.  Throws EnvironmentError.  For the root.
  bool are_mine() const;

  // Throws EnvironmentError, naming the file, where another job took a claim over.  For the root.
  void require() const;

  // Lets others take the claims at once; see Claim::offer().  For the root.
  void offer();

 private:
  std::vector<std::filesystem::path> files_;
  std::vector<std::unique_ptr<OutClaim>> claims_;  // on the root, one for each file
  std::optional<BeforeEnd> release_;
};

}  // namespace bipo
