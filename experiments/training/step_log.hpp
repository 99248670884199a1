// The log of a run's steps as JSON Lines, for programs that follow a run while it goes on.
//
// Each step is one object on a line of its own, written at once.  The run file has the same numbers
// and remains the result.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "collectives/foundation/file_descriptor.hpp"
#include "experiments/progress/progress.hpp"
#include "trainer/records/records.hpp"

namespace bipo {

// Returns the object of a step, without a line end: numbers with all their digits, those that are
// not finite as null; steps and epochs count from 1.
std::string step_object(const StepProgress& progress, const StepRow& row);

// What to do with a file that is there.
enum class ExistingLog { kRefuse, kReplace, kContinue };

// Writes the log.  For the rank that writes the run file, and for one thread.
class StepLog {
 public:
  // Opens the file; of one that is continued, keeps the lines of the steps in `known`, the rows of
  // the run so far, and cuts off what follows them.  Devices and pipes are written to as they are.
  // Throws UserError where the file cannot be opened, is there and may not be (kRefuse), or holds
  // another run or something else (kContinue).
  StepLog(const std::filesystem::path& path, ExistingLog existing,
          const std::vector<StepRow>& known);

  // Returns the number of steps in the file.
  std::int64_t steps() const { return steps_; }

  // Adds the next step.  Returns why the log ends here, once, where that fails; afterwards nothing
  // is written.
  std::string add(const StepProgress& progress, const StepRow& row);

 private:
  std::int64_t keep_lines_of(const std::vector<StepRow>& known);

  std::filesystem::path path_;
  FileDescriptor file_;
  bool is_regular_ = false;
  std::int64_t steps_ = 0;
  std::int64_t bytes_ = 0;  // of whole lines
};

}  // namespace bipo
