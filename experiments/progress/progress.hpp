// Shows the user what a run is doing: the table of settings at the start, then a bar or plain
// lines, and on a terminal perhaps a board of several lines above the bar.
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

#include "experiments/progress/terminal.hpp"

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

// The longest line that tables and plain lines have.
inline constexpr std::size_t kLineWidth = 80;

// Puts parts, such as one number with its name each, after each other with two spaces between, and
// begins a new line, indented by four, before one that would make a line longer than kLineWidth.
std::string in_lines(const std::string& start, const std::vector<std::string>& parts);

// kAuto: a bar where standard error is a terminal, else lines.
enum class ProgressStyle { kAuto, kBar, kLines, kNone };

// How much a command says beside its results.
struct ReportOptions {
  ProgressStyle progress = ProgressStyle::kAuto;
  bool quiet = false;  // warnings and failures only
};

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
  std::function<TerminalSize()> size;  // called at every redraw: the user may resize
  std::function<std::chrono::steady_clock::time_point()> now;
  bool has_colours = false;
  bool moves_cursor = false;  // upwards, for a board
};

// Returns the environment of stderr, with display_size() and the steady clock.
DisplayEnvironment stderr_environment();

// One line of a board.
struct BoardLine {
  std::string text;
  Colour colour = Colour::kNone;
};

// Shows progress as a bar, one line that is redrawn at most ten times a second, or in plain lines
// of at most kLineWidth bytes, at most one in ten seconds.  Always shows the first and the last
// report of a phase and, in plain lines, the end of each epoch.  For one thread; `out` must outlive
// the display.
class ProgressDisplay {
 public:
  // Ranks that do not report have a display with `shows` false.
  ProgressDisplay(std::ostream& out, DisplayEnvironment environment,
                  const ReportOptions& options = {}, bool shows = true);
  ProgressDisplay(const ProgressDisplay&) = delete;
  ProgressDisplay& operator=(const ProgressDisplay&) = delete;
  // Removes board and unfinished bar, so that later output starts on an empty line.
  ~ProgressDisplay();

  void start_table(const std::vector<SettingGroup>& groups);

  // Reports the progress of a pass over the data, such as "prefix"; `done` counts up to `total`.
  void phase(const std::string& name, std::int64_t done, std::int64_t total);

  // The same as a share of the work, whatever `done` and `total` count, with what it is now.
  void share(const std::string& name, std::int64_t done, std::int64_t total,
             const std::string& detail);

  void step(const StepProgress& progress);

  // Prints a line of its own; board and bar move below it.
  void message(const std::string& text);
  void warn(const std::string& text);     // the same after "warning: ", also where it is quiet
  void problem(const std::string& text);  // of a part of the work that failed, likewise

  // Returns whether this rank shows anything.
  bool shows() const { return shows_; }

  // Returns whether this rank shows how the work goes on, beside messages.
  bool shows_progress() const { return shows_ && !is_quiet_ && style_ != ProgressStyle::kNone; }

  // Returns whether there can be a board: several lines above the bar, which are redrawn in place.
  bool has_board() const;

  // Returns how many lines of a board the terminal has room for.
  std::size_t board_room() const;

  // Replaces the board's lines and shows as many of them as the terminal has room for; an empty
  // board goes away.  Does nothing where there can be none.
  void board(std::vector<BoardLine> lines);

  // Ends the current phase and leaves its last line on the screen.
  void finish();

 private:
  using TimePoint = std::chrono::steady_clock::time_point;

  // Lists `details` by falling importance: a narrow terminal shows only the first ones.
  void report(const std::string& name, std::int64_t done, std::int64_t total, bool must_show,
              bool as_share, const std::function<std::vector<std::string>()>& details);
  void begin_phase(const std::string& name);
  bool is_due(TimePoint now) const;
  void draw_bar(std::int64_t done, std::int64_t total, const std::vector<std::string>& details);
  void print_line(std::int64_t done, std::int64_t total, const std::vector<std::string>& details);
  void print_apart(const std::string& text);
  std::string marked(const std::string& mark, Colour colour) const;
  // Take board and bar from the terminal, and put them there again.
  void take_away();
  void put_back(const std::string& bar);
  std::string count_text(std::int64_t done, std::int64_t total) const;
  // Returns "ETA 1:23" from the moving average of the phase's last reports; empty before there are
  // two.
  std::string remaining_time(std::int64_t done, std::int64_t total) const;

  std::ostream& out_;
  DisplayEnvironment environment_;
  bool shows_;
  bool is_quiet_;
  ProgressStyle style_;  // not kAuto
  std::vector<BoardLine> board_;
  std::size_t board_shown_ = 0;                             // lines on the terminal now
  bool as_share_ = false;                                   // of this phase
  std::string phase_;                                       // empty: none running
  std::optional<TimePoint> last_shown_;                     // of this phase
  std::deque<std::pair<TimePoint, std::int64_t>> history_;  // time, number done
  std::string bar_;  // on the terminal now, without a line end
};

}  // namespace bipo
