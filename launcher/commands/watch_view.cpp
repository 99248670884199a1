#include "launcher/commands/watch_view.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <sstream>
#include <system_error>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/file_descriptor.hpp"
#include "experiments/files/atomic_file.hpp"
#include "experiments/runs/run_file.hpp"
#include "experiments/sweep_run/sweep_board.hpp"
#include "experiments/sweeps/claims.hpp"
#include "experiments/sweeps/out_claim.hpp"
#include "experiments/sweeps/short_names.hpp"
#include "experiments/sweeps/stored_plan.hpp"
#include "experiments/sweeps/sweep_directory.hpp"
#include "experiments/training/run_observer.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kAveragedSteps = 64;
constexpr double kUnknownTime = -1;

// Claims are judged by this host's clock: asking the file system for its own takes a file in it.
ClaimTimes reading_only() {
  ClaimTimes times;
  times.touches_files = false;
  return times;
}

double seconds_since(std::int64_t nanoseconds) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::max(
      0.0, std::chrono::duration<double>(now).count() - 1e-9 * static_cast<double>(nanoseconds));
}

// Returns 0 where the settings do not say how long the run is to be.
std::int64_t total_steps(const nlohmann::json& config) {
  const auto number = [&](const char* key) {
    const auto found = config.is_object() ? config.find(key) : config.end();
    return config.is_object() && found != config.end() && found->is_number_integer()
               ? found->get<std::int64_t>()
               : std::int64_t{0};
  };
  const std::int64_t batch = number("batch_size");
  const std::int64_t pairs = number("train_pairs");
  const std::int64_t epochs = number("epochs");
  if (batch < 1 || pairs < 1 || epochs < 1 || epochs > std::numeric_limits<int>::max()) {
    return 0;
  }
  const std::int64_t whole = epochs * ((pairs - 1) / batch + 1);
  const std::int64_t most = number("max_steps");
  return most > 0 ? std::min(most, whole) : whole;
}

// What is shown of a run file.
struct RunState {
  RunStatus status = RunStatus::kRunning;
  bool is_weak = false;  // its verdict says that it shows no effect
  StepProgress step;     // the last one; total 0: not known
  double seconds_per_step = kUnknownTime;
  std::vector<EvalRow> evals;  // of the last evaluation
  std::int64_t saved = 0;      // when the file was written, nanoseconds since 1970
  std::string problem;         // why it cannot be read; else ""
};

RunState state_of(const RunRecord& record) {
  RunState state;
  const auto config = nlohmann::json::parse(record.attributes.config, nullptr, false);
  state.status = record.attributes.status;
  state.is_weak = is_weak(record.attributes);
  state.step.total = total_steps(config);
  state.step.step = record.checkpoint.step;
  if (!record.steps.empty()) {
    const StepRow& row = record.steps.back();
    state.step.step = row.step + 1;
    state.step.epoch = row.epoch;
    state.step.loss = row.loss;
    state.step.margin = row.margin;
    state.step.accuracy = row.accuracy;
    state.step.grad_norm = row.grad_norm;
    state.step.vector_norm = row.vector_norm;
    state.step.lr = row.lr;
    double seconds = 0;
    const std::size_t count = std::min(kAveragedSteps, record.steps.size());
    for (auto i = record.steps.size() - count; i < record.steps.size(); ++i) {
      seconds += record.steps[i].seconds;
    }
    state.seconds_per_step = seconds / static_cast<double>(count);
  }
  if (config.is_object() && config.contains("epochs") && config["epochs"].is_number_integer()) {
    state.step.epochs = config["epochs"].get<std::int64_t>();
  }
  for (const EvalRow& row : record.evals) {
    if (row.step == record.evals.back().step) {
      state.evals.push_back(row);
    }
  }
  return state;
}

// Reads a run file again where it has changed.
class RunReader {
 public:
  explicit RunReader(fs::path path) : path_(std::move(path)) {}

  // Returns nothing where there is no file.
  const RunState* read() {
    const std::optional<FileVersion> present = version_of(path_);
    if (!present) {
      version_.reset();
      return nullptr;
    }
    if (present != version_) {
      try {
        state_ = state_of(read_run_file(path_));
      } catch (const UserError& error) {
        state_ = {};
        state_.problem = error.what();
      }
      state_.saved = present->modified;
      version_ = present;
    }
    return &state_;
  }

 private:
  fs::path path_;
  std::optional<FileVersion> version_;
  RunState state_;
};

// Returns the seconds that are left at the moment of the last save, less those since.
double seconds_left(const RunState& state) {
  if (state.step.total <= state.step.step || state.seconds_per_step < 0) {
    return kUnknownTime;
  }
  const double at_save =
      state.seconds_per_step * static_cast<double>(state.step.total - state.step.step);
  return std::max(0.0, at_save - seconds_since(state.saved));
}

// Returns what stands behind the status.
std::string weak_mark(const RunState& state) {
  return state.is_weak ? ", weak" : "";
}

std::string eta_text(double seconds) {
  return seconds < 0 ? "" : fmt::format("ETA {}", clock_text(seconds));
}

std::vector<BoardLine> lines_of(const std::string& text) {
  std::vector<BoardLine> lines;
  std::istringstream parts(text);
  for (std::string line; std::getline(parts, line);) {
    lines.push_back({line});
  }
  return lines;
}

std::vector<std::string> step_parts(const StepProgress& step) {
  std::vector<std::string> parts;
  if (step.epochs > 0) {
    parts.push_back(fmt::format("epoch {}/{}", step.epoch + 1, step.epochs));
  }
  parts.push_back(fmt::format("loss {:.4f}", step.loss));
  parts.push_back(fmt::format("margin {:.3f}", step.margin));
  parts.push_back(fmt::format("acc {:.0f}%", 100 * step.accuracy));
  return parts;
}

std::string step_count(const StepProgress& step) {
  return step.total > 0 ? fmt::format("{}/{}", step.step, step.total)
                        : fmt::format("{}", step.step);
}

std::string step_line(const StepProgress& step, double left) {
  std::vector<std::string> parts = step_parts(step);
  if (left >= 0) {
    parts.insert(parts.begin(), eta_text(left));
  }
  return in_lines(fmt::format("train {}", step_count(step)), parts);
}

class RunView final : public WatchView {
 public:
  explicit RunView(const fs::path& path) : path_(path), reader_(path) {}

  Picture look(std::size_t) override {
    const RunState* state = reader_.read();
    if (state == nullptr) {
      throw UserError(fmt::format("{}: no such file", path_.string()));
    }
    if (!state->problem.empty()) {
      throw UserError(state->problem);
    }
    const ClaimSign claim = read_out_claim(path_, reading_only());
    const bool is_live = claim.state == ClaimState::kLive;
    const bool is_over =
        state->status == RunStatus::kComplete || state->status == RunStatus::kDiverged;
    // A run that was killed had no time to say so.
    const bool is_stopped = !is_live && state->status == RunStatus::kRunning;
    const std::string status =
        is_stopped ? "stopped" : to_string(state->status) + weak_mark(*state);
    Colour colour = Colour::kNone;
    if (state->status == RunStatus::kComplete) {
      colour = Colour::kGreen;
    } else if (state->status == RunStatus::kDiverged || is_stopped) {
      colour = Colour::kRed;
    }
    Picture picture;
    picture.is_final = is_over && !is_live;
    picture.lines.push_back({fmt::format("{}: {}, saved {} ago", path_.string(), status,
                                         clock_text(seconds_since(state->saved))),
                             colour});
    if (is_live) {
      picture.lines.push_back({claim.owner});
    } else if (is_stopped) {
      picture.lines.push_back({"no job works on it; the same command with --resume continues"});
    }
    append(picture.lines,
           lines_of(step_line(state->step, is_live ? seconds_left(*state) : kUnknownTime)));
    if (!state->evals.empty()) {
      append(picture.lines, lines_of(evaluation_text(state->evals)));
    }
    if (state->is_weak) {
      picture.lines.push_back({"weak: `bipo-dist inspect` says why, and what to change"});
    }
    return picture;
  }

 private:
  static void append(std::vector<BoardLine>& lines, const std::vector<BoardLine>& more) {
    lines.insert(lines.end(), more.begin(), more.end());
  }

  fs::path path_;
  RunReader reader_;
};

// The end of a log of steps.
class LogView final : public WatchView {
 public:
  explicit LogView(fs::path path) : path_(std::move(path)) {}

  Picture look(std::size_t) override {
    std::int64_t written = 0;
    const std::vector<nlohmann::json> steps = last_steps(written);
    Picture picture;
    const std::string when = clock_text(seconds_since(written));
    if (steps.empty()) {
      picture.lines.push_back({fmt::format("{}: no step yet, {}", path_.string(), when)});
      return picture;
    }
    const StepProgress step = step_of(steps.back());
    double seconds = 0;
    for (const nlohmann::json& object : steps) {
      seconds += number(object, "seconds");
    }
    picture.is_final = step.total > 0 && step.step >= step.total;
    const double left = std::max(0.0, static_cast<double>(step.total - step.step) * seconds /
                                              static_cast<double>(steps.size()) -
                                          seconds_since(written));
    picture.lines.push_back({fmt::format("{}: {} {} ago", path_.string(),
                                         picture.is_final ? "last step" : "step", when),
                             picture.is_final ? Colour::kGreen : Colour::kNone});
    for (BoardLine& line :
         lines_of(step_line(step, picture.is_final || step.total == 0 ? kUnknownTime : left))) {
      picture.lines.push_back(std::move(line));
    }
    return picture;
  }

 private:
  static double number(const nlohmann::json& object, const char* key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_number() ? found->get<double>()
                                                       : std::numeric_limits<double>::quiet_NaN();
  }

  static std::int64_t integer(const nlohmann::json& object, const char* key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_number_integer() ? found->get<std::int64_t>() : 0;
  }

  static StepProgress step_of(const nlohmann::json& object) {
    StepProgress step;
    step.step = integer(object, "step");
    step.total = integer(object, "total_steps");
    step.epoch = integer(object, "epoch") - 1;
    step.epochs = integer(object, "epochs");
    step.loss = number(object, "loss");
    step.margin = number(object, "margin");
    step.accuracy = number(object, "accuracy");
    return step;
  }

  [[noreturn]] void throw_unreadable() const {
    throw UserError(fmt::format("{}: cannot be read: {}", path_.string(),
                                std::generic_category().message(errno)));
  }

  // Returns the last whole lines, and when the file was written.
  std::vector<nlohmann::json> last_steps(std::int64_t& written) const {
    constexpr off_t kTail = 64 * 1024;  // more than the steps that are averaged take
    const FileDescriptor file = open_file(path_, O_RDONLY | O_CLOEXEC);
    struct stat status {};
    if (!file.is_open() || ::fstat(file.get(), &status) != 0) {
      throw_unreadable();
    }
    written = std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
    const off_t begin = std::max<off_t>(0, status.st_size - kTail);
    std::string text(static_cast<std::size_t>(status.st_size - begin), '\0');
    const ssize_t size = read_at(file.get(), std::as_writable_bytes(std::span(text)),
                                 static_cast<std::uint64_t>(begin));
    if (size < 0) {
      throw_unreadable();
    }
    text.resize(static_cast<std::size_t>(size));
    text.resize(text.rfind('\n') == std::string::npos ? 0 : text.rfind('\n') + 1);
    std::vector<nlohmann::json> steps;
    std::istringstream lines(text);
    std::string line;
    for (bool is_first = begin > 0; std::getline(lines, line); is_first = false) {
      if (is_first) {
        continue;  // perhaps the end of a line
      }
      auto object = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (!object.is_object() || !object.contains("step") || !object.contains("loss")) {
        throw UserError(fmt::format(
            "{}: is no log of train --log-jsonl; watch takes such a log, a run file, or the "
            "directory of a sweep",
            path_.string()));
      }
      steps.push_back(std::move(object));
    }
    if (steps.size() > kAveragedSteps) {
      steps.erase(steps.begin(), steps.end() - static_cast<std::ptrdiff_t>(kAveragedSteps));
    }
    return steps;
  }

  fs::path path_;
};

class SweepView final : public WatchView {
 public:
  explicit SweepView(const fs::path& directory)
      : directory_(directory),
        plan_version_(version_of(plan_path(directory))),
        plan_(read_stored_plan(directory).plan),
        names_(plan_.cells),
        monitor_(directory, plan_, reading_only()) {
    place_cells();
  }

  Picture look(std::size_t rows) override {
    follow_plan();
    status_ = monitor_.look();
    states_.clear();
    for (RunReader& reader : readers_) {
      const RunState* state = reader.read();
      states_.push_back(state == nullptr ? std::nullopt : std::optional(*state));
    }
    const std::vector<std::string> claims = live_claims();
    Picture picture;
    picture.is_final = std::all_of(status_.begin(), status_.end(), [](CellStatus status) {
      return status == CellStatus::kComplete || status == CellStatus::kFailed;
    });
    picture.lines.push_back({heading(claims.size())});
    const std::size_t used = picture.lines.size() + claims.size() + 2;
    add_table(picture.lines, rows > used ? rows - used : 1);
    for (const std::string& claim : claims) {
      picture.lines.push_back({claim});
    }
    return picture;
  }

 private:
  // Another job may have added cells.
  void follow_plan() {
    const std::optional<FileVersion> present = version_of(plan_path(directory_));
    if (!present || present == plan_version_) {
      return;
    }
    plan_version_ = present;
    plan_ = read_stored_plan(directory_).plan;
    names_ = ShortNames(plan_.cells);
    monitor_ = SweepMonitor(directory_, plan_, reading_only());
    place_cells();
  }

  void place_cells() {
    place_.clear();
    readers_.clear();
    for (std::size_t i = 0; i < plan_.cells.size(); ++i) {
      place_[plan_.cells[i].name] = i;
      readers_.emplace_back(run_file_path(directory_, plan_.cells[i]));
    }
  }

  std::size_t count(CellStatus wanted) const {
    return static_cast<std::size_t>(std::count(status_.begin(), status_.end(), wanted));
  }

  std::string heading(std::size_t jobs) const {
    const std::string eta = eta_text(jobs > 0 ? seconds_of_all(jobs) : kUnknownTime);
    const auto weak = std::count_if(states_.begin(), states_.end(),
                                    [](const auto& state) { return state && state->is_weak; });
    return fmt::format("{}: {} of {} cells done, {} running, {} failed{}{}{}", directory_.string(),
                       count(CellStatus::kComplete), status_.size(), count(CellStatus::kRunning),
                       count(CellStatus::kFailed), weak > 0 ? fmt::format(", {} weak", weak) : "",
                       eta.empty() ? "" : ", ", eta);
  }

  std::string status_text(std::size_t cell) const {
    return to_string(status_[cell]) + (states_[cell] ? weak_mark(*states_[cell]) : "");
  }

  // Returns a line for each pack that a live process works on.
  std::vector<std::string> live_claims() const {
    std::vector<std::string> lines;
    for (const Pack& pack : plan_.packs) {
      const bool runs = std::any_of(
          pack.members.begin(), pack.members.end(),
          [&](const Cell& cell) { return status_[place_.at(cell.name)] == CellStatus::kRunning; });
      if (!runs) {
        continue;
      }
      const ClaimSign claim = read_claim(directory_, pack.name, reading_only());
      if (claim.state == ClaimState::kLive) {
        lines.push_back(fmt::format("{}: {}", claim.owner, names_.of(pack.members)));
      }
    }
    return lines;
  }

  // Returns the mean over the cells that say something, of what `value` gives; negative: none does.
  template <typename Value>
  double mean(const Value& value) const {
    double sum = 0;
    std::size_t known = 0;
    for (const std::optional<RunState>& state : states_) {
      if (state && value(*state) > 0) {
        sum += value(*state);
        ++known;
      }
    }
    return known == 0 ? kUnknownTime : sum / static_cast<double>(known);
  }

  // Takes packs that have not begun for as long and as fast as the others are on average.
  double seconds_of_all(std::size_t jobs) const {
    const double pace = mean([](const RunState& state) { return state.seconds_per_step; });
    const double length =
        mean([](const RunState& state) { return static_cast<double>(state.step.total); });
    if (pace < 0 || length < 0) {
      return kUnknownTime;
    }
    double seconds = 0;
    for (const Pack& pack : plan_.packs) {
      double left = 0;
      for (const Cell& cell : pack.members) {
        const std::size_t i = place_.at(cell.name);
        if (status_[i] == CellStatus::kComplete || status_[i] == CellStatus::kFailed) {
          continue;
        }
        const double known = states_[i] ? seconds_left(*states_[i]) : kUnknownTime;
        left = std::max(left, known >= 0 ? known : pace * length);
      }
      seconds += left;
    }
    return seconds / static_cast<double>(jobs);
  }

  void add_table(std::vector<BoardLine>& lines, std::size_t rows) const {
    const std::vector<std::size_t> shown = most_urgent(status_, rows);
    std::size_t status_width = kStatusWidth;
    for (const std::size_t i : shown) {
      status_width = std::max(status_width, status_text(i).size());
    }
    const std::size_t most = kLineWidth - kOtherWidth - status_width;
    std::size_t width = std::string("cell").size();
    for (const std::size_t i : shown) {
      width = std::max(width, std::min(most, names_.of(plan_.cells[i]).size()));
    }
    lines.push_back({fmt::format("  {:<{}}  {:<{}}  {:>11}  {:>8}  {:>8}  {}", "cell", width,
                                 "status", status_width, "step", "loss", "margin", "ETA")});
    for (const std::size_t i : shown) {
      std::string text = fmt::format("  {:<{}}  {:<{}}", cut_to(names_.of(plan_.cells[i]), most),
                                     width, status_text(i), status_width);
      if (states_[i]) {
        text += numbers(*states_[i], status_[i]);
      }
      lines.push_back({text, colour_of(status_[i])});
    }
    if (shown.size() < status_.size()) {
      lines.push_back({fmt::format("  and {} more", status_.size() - shown.size())});
    }
  }

  static std::string numbers(const RunState& state, CellStatus status) {
    if (!state.problem.empty()) {
      return "  cannot be read";
    }
    std::string text = fmt::format("  {:>11}", step_count(state.step));
    if (state.step.step > 0) {
      text += fmt::format("  {:>8.4f}  {:>8.3f}", state.step.loss, state.step.margin);
    }
    const double left = status == CellStatus::kRunning ? seconds_left(state) : kUnknownTime;
    return left < 0 ? text : text + fmt::format("  {}", clock_text(left));
  }

  static constexpr std::size_t kStatusWidth = 11;
  static constexpr std::size_t kOtherWidth = 45;  // beside names and status

  fs::path directory_;
  std::optional<FileVersion> plan_version_;
  SweepPlan plan_;
  ShortNames names_;
  SweepMonitor monitor_;
  std::map<std::string, std::size_t> place_;
  std::vector<RunReader> readers_;
  std::vector<CellStatus> status_;
  std::vector<std::optional<RunState>> states_;
};

}  // namespace

std::unique_ptr<WatchView> make_watch_view(const fs::path& path) {
  if (fs::is_directory(path)) {
    return std::make_unique<SweepView>(path);
  }
  if (path.extension() == ".jsonl") {
    return std::make_unique<LogView>(path);
  }
  return std::make_unique<RunView>(path);
}

}  // namespace bipo
