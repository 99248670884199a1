// The skeleton of the commands that use ranks: prepare, agree, show, begin.
#pragma once

#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "collectives/session.hpp"
#include "experiments/job/computation.hpp"
#include "experiments/progress/progress.hpp"
#include "experiments/settings/field.hpp"

namespace bipo {

// One rank's part in a command.  Every rank calls all members, in the same order.
class Job {
 public:
  // Collective over: world
  explicit Job(Session& session, const ReportOptions& report = {});

  Session& session() { return session_; }
  bool is_root() const { return is_root_; }                    // whether this rank reports
  const std::string& begin_utc() const { return begin_utc_; }  // the same on all ranks
  ProgressDisplay& display() { return display_; }              // shows nothing except on the root

  // Runs `prepare`, which must not communicate, on every rank.  Its result must have a member
  // `agreement`, equal on ranks that are about to do the same; `what` names the work in the error.
  // Throws AgreedFailure (2) on every rank if any rank throws UserError, and if the agreements
  // differ.  Collective over: world
  template <typename Prepare>
  auto prepare(const Prepare& prepare, const std::string& what) {
    std::optional<std::invoke_result_t<Prepare>> prepared;
    session_.together([&] { prepared.emplace(prepare()); });
    session_.expect_same(prepared->agreement, what);
    return *std::move(prepared);
  }

  // Sets the number of threads and shows table, notes and warnings.  Local.
  void show(const Computation& computation, const std::vector<SettingGroup>& table,
            const std::vector<std::string>& warnings, const std::vector<std::string>& notes = {});

  // The same, and makes the communicators of `computation`.  Collective over: world
  Ranks begin(const Computation& computation, const std::vector<SettingGroup>& table,
              const std::vector<std::string>& warnings, const std::vector<std::string>& notes = {});

 private:
  Session& session_;
  bool is_root_;
  std::string begin_utc_;
  ProgressDisplay display_;
};

}  // namespace bipo
