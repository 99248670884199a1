#include "experiments/progress/progress.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <ostream>

#include "collectives/foundation/activity.hpp"

namespace bipo {
namespace {

using std::chrono::duration;
using std::chrono::steady_clock;

constexpr std::chrono::milliseconds kRedrawInterval{100};
constexpr std::chrono::seconds kLineInterval{10};
constexpr std::size_t kAveragedReports = 64;
constexpr std::size_t kBarWidth = 20;

// No work at all counts as done.
double share_done(std::int64_t done, std::int64_t total) {
  return total > 0 ? std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0)
                   : 1.0;
}

std::string bar_of(double share) {
  const auto filled = static_cast<std::size_t>(share * kBarWidth);
  return fmt::format("[{}{}]", std::string(filled, '='), std::string(kBarWidth - filled, ' '));
}

std::vector<std::string> step_details(const StepProgress& progress) {
  return {
      fmt::format("epoch {}/{}", progress.epoch + 1, progress.epochs),
      fmt::format("loss {:.4f}", progress.loss),
      fmt::format("margin {:.3f}", progress.margin),
      fmt::format("|v| {:.2f}%", 100 * progress.residual_share),
      fmt::format("acc {:.0f}%", 100 * progress.accuracy),
      fmt::format("{:.1f} pairs/s", progress.pairs_per_second),
      fmt::format("lr {:.2e}", progress.lr),
      fmt::format("grad {:.3g}", progress.grad_norm),
      fmt::format("norm {:.3f}", progress.vector_norm),
  };
}

// Indents the continuation lines of a value to its first line.
std::string indented(const std::string& value, std::size_t indent) {
  std::string result;
  for (const char letter : value) {
    result += letter;
    if (letter == '\n') {
      result.append(indent, ' ');
    }
  }
  return result;
}

}  // namespace

std::string clock_text(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::ceil(seconds));
  const std::int64_t hours = whole / 3600;
  const std::int64_t minutes = whole / 60 % 60;
  if (hours > 0) {
    return fmt::format("{}:{:02}:{:02}", hours, minutes, whole % 60);
  }
  return fmt::format("{}:{:02}", minutes, whole % 60);
}

std::string in_lines(const std::string& start, const std::vector<std::string>& parts) {
  constexpr std::size_t kIndent = 4;
  std::string text = start;
  std::size_t column = start.size();
  for (const std::string& part : parts) {
    const bool fits = column + 2 + part.size() <= kLineWidth;
    text += fits ? "  " : '\n' + std::string(kIndent, ' ');
    text += part;
    column = (fits ? column + 2 : kIndent) + part.size();
  }
  return text;
}

DisplayEnvironment stderr_environment() {
  return {::isatty(STDERR_FILENO) == 1, [] { return display_size(STDERR_FILENO); },
          steady_clock::now, shows_colours(STDERR_FILENO), moves_cursor()};
}

ProgressDisplay::ProgressDisplay(std::ostream& out, DisplayEnvironment environment,
                                 const ReportOptions& options, bool shows)
    : out_(out),
      environment_(std::move(environment)),
      shows_(shows),
      is_quiet_(options.quiet),
      style_(options.progress) {
  if (style_ == ProgressStyle::kAuto) {
    style_ = environment_.is_terminal ? ProgressStyle::kBar : ProgressStyle::kLines;
  }
}

ProgressDisplay::~ProgressDisplay() {
  if (shows_) {
    take_away();
    out_.flush();
  }
}

void ProgressDisplay::start_table(const std::vector<SettingGroup>& groups) {
  if (!shows_ || is_quiet_) {
    return;
  }
  std::size_t width = 0;
  for (const SettingGroup& group : groups) {
    for (const auto& [name, value] : group.settings) {
      width = std::max(width, name.size());
    }
  }
  take_away();
  for (const SettingGroup& group : groups) {
    out_ << group.title << '\n';
    for (const auto& [name, value] : group.settings) {
      out_ << fmt::format("  {:<{}}  {}\n", name, width, indented(value, width + 4));
    }
  }
  out_.flush();
}

void ProgressDisplay::phase(const std::string& name, std::int64_t done, std::int64_t total) {
  report(name, done, total, false, false, [] { return std::vector<std::string>(); });
}

void ProgressDisplay::share(const std::string& name, std::int64_t done, std::int64_t total,
                            const std::string& detail) {
  report(name, done, total, false, true, [&] { return std::vector<std::string>{detail}; });
}

void ProgressDisplay::step(const StepProgress& progress) {
  const bool ends_epoch = progress.ends_epoch && style_ == ProgressStyle::kLines;
  report("train", progress.step, progress.total, ends_epoch, false,
         [&] { return step_details(progress); });
}

void ProgressDisplay::message(const std::string& text) {
  if (!is_quiet_) {
    print_apart(text);
  }
}

void ProgressDisplay::warn(const std::string& text) {
  print_apart(marked("warning:", Colour::kYellow) + ' ' + text);
}

void ProgressDisplay::problem(const std::string& text) {
  print_apart(marked("failed:", Colour::kRed) + ' ' + text);
}

bool ProgressDisplay::has_board() const {
  return shows_ && !is_quiet_ && style_ == ProgressStyle::kBar && environment_.moves_cursor;
}

std::size_t ProgressDisplay::board_room() const {
  // One line remains for the bar, and one for the cursor behind a bar that ends.
  return std::max<std::size_t>(environment_.size().rows, 3) - 2;
}

void ProgressDisplay::board(std::vector<BoardLine> lines) {
  if (!has_board()) {
    return;
  }
  const std::string bar = bar_;
  take_away();
  board_ = std::move(lines);
  put_back(bar);
}

void ProgressDisplay::finish() {
  if (!bar_.empty()) {
    const std::string bar = bar_;
    take_away();
    out_ << bar << '\n';
    put_back("");
  }
  phase_.clear();
}

std::string ProgressDisplay::marked(const std::string& mark, Colour colour) const {
  return environment_.has_colours ? coloured(mark, colour) : mark;
}

void ProgressDisplay::print_apart(const std::string& text) {
  if (!shows_) {
    return;
  }
  const std::string bar = bar_;
  take_away();
  out_ << text << '\n';
  put_back(bar);
}

void ProgressDisplay::report(const std::string& name, std::int64_t done, std::int64_t total,
                             bool must_show, bool as_share,
                             const std::function<std::vector<std::string>()>& details) {
  set_activity(name, done, total);
  if (!shows_progress()) {
    return;
  }
  if (name != phase_) {
    begin_phase(name);
    as_share_ = as_share;
  }
  const TimePoint now = environment_.now();
  history_.emplace_back(now, done);
  if (history_.size() > kAveragedReports) {
    history_.pop_front();
  }
  const bool is_last = done >= total;
  if (is_last || must_show || is_due(now)) {
    last_shown_ = now;
    if (style_ == ProgressStyle::kBar) {
      draw_bar(done, total, details());
    } else {
      print_line(done, total, details());
    }
  }
  if (is_last) {
    finish();
  }
}

void ProgressDisplay::begin_phase(const std::string& name) {
  finish();
  phase_ = name;
  last_shown_.reset();
  history_.clear();
}

bool ProgressDisplay::is_due(TimePoint now) const {
  const auto interval = style_ == ProgressStyle::kBar ? steady_clock::duration(kRedrawInterval)
                                                      : steady_clock::duration(kLineInterval);
  return !last_shown_ || now - *last_shown_ >= interval;
}

std::string ProgressDisplay::count_text(std::int64_t done, std::int64_t total) const {
  return as_share_ ? phase_ : fmt::format("{} {}/{}", phase_, done, total);
}

void ProgressDisplay::draw_bar(std::int64_t done, std::int64_t total,
                               const std::vector<std::string>& details) {
  const double share = share_done(done, total);
  std::vector<std::string> parts = {count_text(done, total),
                                    fmt::format("{} {:3.0f}%", bar_of(share), 100 * share),
                                    remaining_time(done, total)};
  parts.insert(parts.end(), details.begin(), details.end());
  // A terminal wraps a line that fills its last column; '\r' would then return to the wrapped rest.
  const std::size_t room = std::max<std::size_t>(environment_.size().columns, 2) - 1;
  std::string line;
  for (const std::string& part : parts) {
    if (part.empty()) {
      continue;
    }
    const std::string separator = line.empty() ? "" : "  ";
    if (line.size() + separator.size() + part.size() > room) {
      break;
    }
    line += separator + part;
  }
  const std::size_t leftover = bar_.size() > line.size() ? bar_.size() - line.size() : 0;
  out_ << '\r' << line << std::string(leftover, ' ') << std::string(leftover, '\b') << std::flush;
  bar_ = line;
  note_unfinished_line(!bar_.empty());
}

void ProgressDisplay::print_line(std::int64_t done, std::int64_t total,
                                 const std::vector<std::string>& details) {
  std::vector<std::string> parts = {remaining_time(done, total)};
  parts.insert(parts.end(), details.begin(), details.end());
  std::string line = count_text(done, total);
  if (as_share_) {
    line += fmt::format(" {:.0f}%", 100 * share_done(done, total));
  }
  for (const std::string& part : parts) {
    if (part.empty()) {
      continue;
    }
    if (line.size() + 2 + part.size() > kLineWidth) {
      break;
    }
    line += ", " + part;
  }
  out_ << line << '\n' << std::flush;
}

void ProgressDisplay::take_away() {
  if (board_shown_ > 0) {
    out_ << fmt::format("\r\033[{}A\033[J", board_shown_);  // up, and clear what is below
  } else if (!bar_.empty()) {
    out_ << '\r' << std::string(bar_.size(), ' ') << '\r';
  }
  board_shown_ = 0;
  bar_.clear();
  note_unfinished_line(false);
}

void ProgressDisplay::put_back(const std::string& bar) {
  if (!board_.empty()) {
    const TerminalSize size = environment_.size();
    const std::size_t rows = std::min(board_.size(), board_room());
    for (std::size_t i = 0; i < rows; ++i) {
      const std::string text = cut_to(board_[i].text, std::max<std::size_t>(size.columns, 2) - 1);
      out_ << (environment_.has_colours ? coloured(text, board_[i].colour) : text) << '\n';
    }
    board_shown_ = rows;
  }
  out_ << bar << std::flush;
  bar_ = bar;
  note_unfinished_line(!bar_.empty());
}

std::string ProgressDisplay::remaining_time(std::int64_t done, std::int64_t total) const {
  const auto& [first_time, first_done] = history_.front();
  const auto& [last_time, last_done] = history_.back();
  const bool is_known = last_done > first_done && done < total;
  if (!is_known) {
    return "";
  }
  const double seconds = duration<double>(last_time - first_time).count();
  const double seconds_each = seconds / static_cast<double>(last_done - first_done);
  return fmt::format("ETA {}", clock_text(seconds_each * static_cast<double>(total - done)));
}

}  // namespace bipo
