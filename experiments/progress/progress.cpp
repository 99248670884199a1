#include "experiments/progress/progress.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <ostream>
#include <string_view>

#include "collectives/foundation/activity.hpp"

namespace bipo {
namespace {

using std::chrono::duration;
using std::chrono::steady_clock;

constexpr std::chrono::milliseconds kRedrawInterval{100};
constexpr std::chrono::seconds kLineInterval{10};
constexpr std::size_t kAveragedReports = 64;
constexpr std::size_t kBarWidth = 20;
constexpr std::size_t kDefaultColumns = 80;

std::size_t columns_from_environment() {
  const char* text = std::getenv("COLUMNS");
  const std::string_view digits = text == nullptr ? "" : text;
  std::size_t columns = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), columns);
  return columns > 0 ? columns : kDefaultColumns;
}

std::size_t stderr_columns() {
  winsize size{};
  const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : columns_from_environment();
}

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
      fmt::format("acc {:.0f}%", 100 * progress.accuracy),
      fmt::format("margin {:.3f}", progress.margin),
      fmt::format("|v| {:.3f} ({:.2f}% of |h|)", progress.vector_norm,
                  100 * progress.residual_share),
      fmt::format("{:.1f} pairs/s", progress.pairs_per_second),
      fmt::format("lr {:.2e}", progress.lr),
      fmt::format("grad {:.3g}", progress.grad_norm),
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

DisplayEnvironment stderr_environment() {
  return {isatty(STDERR_FILENO) == 1, stderr_columns, steady_clock::now};
}

ProgressDisplay::ProgressDisplay(std::ostream& out, DisplayEnvironment environment, bool shows)
    : out_(out), environment_(std::move(environment)), shows_(shows) {
}

ProgressDisplay::~ProgressDisplay() {
  if (shows_) {
    clear_bar();
    out_.flush();
  }
}

void ProgressDisplay::start_table(const std::vector<SettingGroup>& groups) {
  if (!shows_) {
    return;
  }
  std::size_t width = 0;
  for (const SettingGroup& group : groups) {
    for (const auto& [name, value] : group.settings) {
      width = std::max(width, name.size());
    }
  }
  clear_bar();
  for (const SettingGroup& group : groups) {
    out_ << group.title << '\n';
    for (const auto& [name, value] : group.settings) {
      out_ << fmt::format("  {:<{}}  {}\n", name, width, indented(value, width + 4));
    }
  }
  out_.flush();
}

void ProgressDisplay::phase(const std::string& name, std::int64_t done, std::int64_t total) {
  report(name, done, total, false, [] { return std::vector<std::string>(); });
}

void ProgressDisplay::step(const StepProgress& progress) {
  const bool ends_epoch = progress.ends_epoch && !environment_.is_terminal;
  report("train", progress.step, progress.total, ends_epoch,
         [&] { return step_details(progress); });
}

void ProgressDisplay::message(const std::string& text) {
  if (!shows_) {
    return;
  }
  const std::string bar = bar_;
  clear_bar();
  out_ << text << '\n' << bar << std::flush;
  bar_ = bar;
}

void ProgressDisplay::warn(const std::string& text) {
  message("warning: " + text);
}

void ProgressDisplay::finish() {
  if (!bar_.empty()) {
    out_ << '\n' << std::flush;
    bar_.clear();
  }
  phase_.clear();
}

void ProgressDisplay::report(const std::string& name, std::int64_t done, std::int64_t total,
                             bool must_show,
                             const std::function<std::vector<std::string>()>& details) {
  set_activity(name, done, total);
  if (!shows_) {
    return;
  }
  if (name != phase_) {
    begin_phase(name);
  }
  const TimePoint now = environment_.now();
  history_.emplace_back(now, done);
  if (history_.size() > kAveragedReports) {
    history_.pop_front();
  }
  const bool is_last = done >= total;
  if (is_last || must_show || is_due(now)) {
    last_shown_ = now;
    if (environment_.is_terminal) {
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
  const auto interval = environment_.is_terminal ? steady_clock::duration(kRedrawInterval)
                                                 : steady_clock::duration(kLineInterval);
  return !last_shown_ || now - *last_shown_ >= interval;
}

void ProgressDisplay::draw_bar(std::int64_t done, std::int64_t total,
                               const std::vector<std::string>& details) {
  const double share = share_done(done, total);
  std::vector<std::string> parts = {fmt::format("{} {}/{}", phase_, done, total),
                                    fmt::format("{} {:3.0f}%", bar_of(share), 100 * share),
                                    remaining_time(done, total)};
  parts.insert(parts.end(), details.begin(), details.end());
  // A terminal wraps a line that fills its last column; '\r' would then return to the wrapped rest.
  const std::size_t room = std::max<std::size_t>(environment_.columns(), 2) - 1;
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
}

void ProgressDisplay::print_line(std::int64_t done, std::int64_t total,
                                 const std::vector<std::string>& details) {
  std::vector<std::string> parts = {fmt::format("{} {}/{}", phase_, done, total)};
  const std::string remaining = remaining_time(done, total);
  if (!remaining.empty()) {
    parts.push_back(remaining);
  }
  parts.insert(parts.end(), details.begin(), details.end());
  out_ << fmt::format("{}\n", fmt::join(parts, ", ")) << std::flush;
}

void ProgressDisplay::clear_bar() {
  if (!bar_.empty()) {
    out_ << '\r' << std::string(bar_.size(), ' ') << '\r';
    bar_.clear();
  }
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
