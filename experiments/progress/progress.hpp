// Shows the user what a run is doing: the table of settings at the start, then a bar or plain
// lines.
#pragma once

#include <fmt/format.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <iosfwd>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace bipo {

inline constexpr double kGiB = 1 << 30;

// Returns for instance "1.25 GiB".
inline std::string gib_text(double bytes, int decimals = 2) {
  return fmt::format("{:.{}f} GiB", bytes / kGiB, decimals);
}

struct SettingGroup {
  std::string title;
  std::vector<std::pair<std::string, std::string>> settings;  // name, value
};

// Returns for instance "1:05:00" or "4:10".
std::string clock_text(double seconds);

// Figures of the last optimiser step.
struct StepProgress {
  std::int64_t step = 0;  // steps done, this one included
  std::int64_t total = 0;
  std::int64_t epoch = 0;  // from 0
  std::int64_t epochs = 0;
  bool ends_epoch = false;
  double loss = 0;            // nats
  double margin = 0;          // nats
  double accuracy = 0;        // share
  double grad_norm = 0;       // before clipping
  double vector_norm = 0;     // after the update
  double residual_share = 0;  // vector_norm / median residual norm
  double lr = 0;
  double pairs_per_second = 0;
};

// What the display knows of its surroundings; tests replace it.
struct DisplayEnvironment {
  bool is_terminal = false;
  std::function<std::size_t()> columns;  // called at every redraw: the user may resize
  std::function<std::chrono::steady_clock::time_point()> now;
};

// Returns the environment of stderr: whether it is a terminal, its width (else $COLUMNS, else 80),
// and the steady clock.
DisplayEnvironment stderr_environment();

// Shows progress on a terminal in one line, redrawn at most ten times a second; elsewhere in plain
// lines, at most one in ten seconds.  Always shows the first and the last report of a phase and,
// without a terminal, the end of each epoch.  For one thread; `out` must outlive the display.
class ProgressDisplay {
 public:
  // Ranks that do not report have a display with `shows` false.
  ProgressDisplay(std::ostream& out, DisplayEnvironment environment, bool shows = true);
  ProgressDisplay(const ProgressDisplay&) = delete;
  ProgressDisplay& operator=(const ProgressDisplay&) = delete;
  // Removes an unfinished bar, so that later output starts on an empty line.
  ~ProgressDisplay();

  void start_table(const std::vector<SettingGroup>& groups);

  // Reports the progress of a pass over the data, such as "prefix"; `done` counts up to `total`.
  void phase(const std::string& name, std::int64_t done, std::int64_t total);

  void step(const StepProgress& progress);

  // Prints a line of its own; a bar moves below it.
  void message(const std::string& text);
  void warn(const std::string& text);  // the same after "warning: "

  // Ends the current phase and leaves its last line on the screen.
  void finish();

 private:
  using TimePoint = std::chrono::steady_clock::time_point;

  // Lists `details` by falling importance: a narrow terminal shows only the first ones.
  void report(const std::string& name, std::int64_t done, std::int64_t total, bool must_show,
              const std::function<std::vector<std::string>()>& details);
  void begin_phase(const std::string& name);
  bool is_due(TimePoint now) const;
  void draw_bar(std::int64_t done, std::int64_t total, const std::vector<std::string>& details);
  void print_line(std::int64_t done, std::int64_t total, const std::vector<std::string>& details);
  void clear_bar();
  // Returns "ETA 1:23" from the moving average of the phase's last reports; empty before there are
  // two.
  std::string remaining_time(std::int64_t done, std::int64_t total) const;

  std::ostream& out_;
  DisplayEnvironment environment_;
  bool shows_;
  std::string phase_;                                       // empty: none running
  std::optional<TimePoint> last_shown_;                     // of this phase
  std::deque<std::pair<TimePoint, std::int64_t>> history_;  // time, number done
  std::string bar_;  // on the terminal now, without a line end
};

}  // namespace bipo
