// The command `watch`: shows the state of a sweep or of a run again and again.
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <limits>
#include <memory>
#include <string>

#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/standard_streams.hpp"
#include "experiments/files/trial_process.hpp"
#include "experiments/progress/terminal.hpp"
#include "launcher/commands/commands.hpp"
#include "launcher/commands/watch_view.hpp"

namespace bipo {
namespace {

// Ctrl-C, which ends the command in order.
class Interrupt {
 public:
  Interrupt() {
    sigemptyset(&signals_);
    sigaddset(&signals_, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
  }

  // Returns whether it came within so many seconds.
  bool comes_within(double seconds) const {
    const double whole = std::floor(std::min(seconds, 1e9));
    timespec left{};
    left.tv_sec = static_cast<time_t>(whole);
    left.tv_nsec = static_cast<long>(1e9 * (std::min(seconds, 1e9) - whole));
    return sigtimedwait(&signals_, nullptr, &left) == SIGINT;
  }

 private:
  sigset_t signals_{};
};

// Puts each picture in the place of the last one on a terminal, else below it.
class Screen {
 public:
  std::size_t rows() const {
    return is_redrawn_ ? display_size(STDOUT_FILENO).rows - 1
                       : std::numeric_limits<std::size_t>::max();
  }

  void show(const Picture& picture) {
    std::string text;
    if (is_redrawn_ && shown_ > 0) {
      text = fmt::format("\033[{}A\033[J", shown_);  // up, and clear what is below
    } else if (shown_ > 0) {
      text = "\n";
    }
    const std::size_t columns = is_redrawn_ ? display_size(STDOUT_FILENO).columns - 1
                                            : std::numeric_limits<std::size_t>::max();
    for (const BoardLine& line : picture.lines) {
      const std::string part = cut_to(line.text, columns);
      text += (has_colours_ ? coloured(part, line.colour) : part) + '\n';
    }
    shown_ = picture.lines.size();
    write_standard_output(text);
  }

 private:
  bool is_redrawn_ = ::isatty(STDOUT_FILENO) == 1 && moves_cursor();
  bool has_colours_ = shows_colours(STDOUT_FILENO);
  std::size_t shown_ = 0;  // lines
};

}  // namespace

int run_watch_command(const WatchOptions& options) {
  const TrialProcessKept trials;  // one for all run files of earlier versions
  const Interrupt interrupt;
  Screen screen;
  const std::unique_ptr<WatchView> view = make_watch_view(options.path);
  bool is_first = true;
  while (true) {
    Picture picture;
    try {
      picture = view->look(options.once ? std::numeric_limits<std::size_t>::max() : screen.rows());
    } catch (const UserError& error) {
      if (is_first) {
        throw;
      }
      picture.lines = {{error.what(), Colour::kRed}};  // a file that will be there again
    }
    is_first = false;
    screen.show(picture);
    if (options.once || picture.is_final || interrupt.comes_within(options.every)) {
      return kExitDone;
    }
  }
}

}  // namespace bipo
