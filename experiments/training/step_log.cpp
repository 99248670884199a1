#include "experiments/training/step_log.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <span>
#include <system_error>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

std::string reason_of(int code) {
  return std::generic_category().message(code);
}

// Returns whether the line is that of the row, or, without a row, of any step `number`.
bool is_line_of(const std::string& line, std::int64_t number, const StepRow* row) {
  const auto object = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) {
    return false;
  }
  const auto step = object.find("step");
  const auto loss = object.find("loss");
  if (step == object.end() || *step != number || loss == object.end()) {
    return false;
  }
  if (row == nullptr) {
    return true;
  }
  return loss->is_number() ? loss->get<double>() == row->loss
                           : loss->is_null() && !std::isfinite(row->loss);
}

}  // namespace

std::string step_object(const StepProgress& progress, const StepRow& row) {
  const nlohmann::ordered_json object = {
      {"step", progress.step},
      {"total_steps", progress.total},
      {"epoch", progress.epoch + 1},
      {"epochs", progress.epochs},
      {"lr", row.lr},
      {"loss", row.loss},
      {"margin", row.margin},
      {"accuracy", row.accuracy},
      {"sign", row.sign},
      {"grad_norm", row.grad_norm},
      {"vector_norm", row.vector_norm},
      {"vector_share", progress.residual_share},
      {"tokens", row.tokens},
      {"seconds", row.seconds},
      {"pairs_per_second", progress.pairs_per_second},
  };
  return object.dump();
}

StepLog::StepLog(const std::filesystem::path& path, ExistingLog existing,
                 const std::vector<StepRow>& known)
    : path_(path) {
  struct stat status {};
  const bool is_there = ::stat(path.c_str(), &status) == 0;
  is_regular_ = !is_there || S_ISREG(status.st_mode);
  if (existing == ExistingLog::kRefuse && is_regular_ && is_there && status.st_size > 0) {
    throw UserError(fmt::format(
        "--log-jsonl {}: exists; --resume continues it with its run, --overwrite replaces it, or "
        "name another file",
        path.string()));
  }
  // A pipe without a reader would make open() wait.
  const int flags = is_regular_ ? O_WRONLY | O_CREAT : O_WRONLY | O_NONBLOCK | O_NOCTTY;
  file_ = open_file(path, flags | O_CLOEXEC, 0666);
  if (!file_.is_open()) {
    throw UserError(
        fmt::format("--log-jsonl {}: cannot be written: {}", path.string(), reason_of(errno)));
  }
  if (!is_regular_) {
    ::fcntl(file_.get(), F_SETFL, ::fcntl(file_.get(), F_GETFL) & ~O_NONBLOCK);
    return;
  }
  if (existing == ExistingLog::kContinue) {
    bytes_ = keep_lines_of(known);
  }
  if (::ftruncate(file_.get(), bytes_) != 0 || ::lseek(file_.get(), bytes_, SEEK_SET) != bytes_) {
    throw UserError(
        fmt::format("--log-jsonl {}: cannot be written: {}", path.string(), reason_of(errno)));
  }
}

// Returns the bytes of the lines to keep.
std::int64_t StepLog::keep_lines_of(const std::vector<StepRow>& known) {
  std::ifstream text(path_, std::ios::binary);
  std::int64_t kept = 0;
  std::string line;
  while (std::getline(text, line)) {
    const bool is_whole = !text.eof();  // a line end follows
    const bool is_known = steps_ < static_cast<std::int64_t>(known.size());
    const StepRow* row = is_known ? &known[static_cast<std::size_t>(steps_)] : nullptr;
    const bool fits = is_line_of(line, steps_ + 1, row);
    if (steps_ == 0 && is_whole && !fits) {
      throw UserError(fmt::format(
          "--log-jsonl {}: is no log of this run; name another file, which gets all its steps",
          path_.string()));
    }
    if (!is_whole || !fits || !is_known) {
      break;
    }
    ++steps_;
    kept += static_cast<std::int64_t>(line.size()) + 1;
  }
  return kept;
}

std::string StepLog::add(const StepProgress& progress, const StepRow& row) {
  if (!file_.is_open()) {
    return "";
  }
  const std::string line = step_object(progress, row) + '\n';
  if (!write_all(file_, std::as_bytes(std::span(line)))) {
    const int code = errno;
    if (is_regular_) {
      [[maybe_unused]] const int ignored = ::ftruncate(file_.get(), bytes_);  // whole lines remain
    }
    file_.close();
    return fmt::format(
        "--log-jsonl {}: cannot be written: {}; it ends at step {}, and the run "
        "goes on without it",
        path_.string(), reason_of(code), steps_);
  }
  bytes_ += static_cast<std::int64_t>(line.size());
  ++steps_;
  return "";
}

}  // namespace bipo
