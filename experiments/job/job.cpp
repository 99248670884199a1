#include "experiments/job/job.hpp"

#include <ATen/Parallel.h>

#include <iostream>

#include "experiments/files/process_identity.hpp"
#include "experiments/job/machine.hpp"

namespace bipo {

Job::Job(Session& session, const ReportOptions& report)
    : session_(session),
      is_root_(session.rank() == 0),
      begin_utc_(session.from_first(utc_text())),
      display_(std::cerr, stderr_environment(), report, is_root_) {
}

void Job::show(const Computation& computation, const std::vector<SettingGroup>& table,
               const std::vector<std::string>& warnings, const std::vector<std::string>& notes) {
  at::set_num_threads(static_cast<int>(computation.threads.threads));
  display_.start_table(table);
  for (const std::string& note : notes) {
    display_.message(note);
  }
  for (const std::string& warning : warnings) {
    display_.warn(warning);
  }
  if (const auto warning = thread_warning(computation.threads)) {
    display_.warn(*warning);
  }
}

Ranks Job::begin(const Computation& computation, const std::vector<SettingGroup>& table,
                 const std::vector<std::string>& warnings, const std::vector<std::string>& notes) {
  show(computation, table, warnings, notes);
  return session_.make_ranks(computation.topology, computation.device);
}

}  // namespace bipo
