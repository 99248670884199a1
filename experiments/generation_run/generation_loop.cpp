#include "experiments/generation_run/generation_loop.hpp"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "collectives/communicator.hpp"
#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/file_descriptor.hpp"
#include "collectives/foundation/standard_streams.hpp"
#include "experiments/files/atomic_file.hpp"
#include "experiments/progress/side_by_side.hpp"
#include "experiments/progress/stop_signals.hpp"

namespace bipo {
namespace {

using Json = nlohmann::ordered_json;

// Returns a single user turn as its text, a conversation as its messages with all their members.
Json prompt_json(const Prompt& prompt) {
  const Message& first = prompt.messages.front();
  if (prompt.messages.size() == 1 && first.role == "user" && first.extra.empty()) {
    return first.content;
  }
  Json messages = Json::array();
  for (const Message& message : prompt.messages) {
    Json members = {{"role", message.role}, {"content", message.content}};
    members.update(message.extra);
    messages.push_back(std::move(members));
  }
  return messages;
}

struct GeneratedRow {
  std::int64_t prompt_index = 0;
  const Prompt& prompt;
  double multiplier = 0;
  std::vector<double> multipliers;  // one for each vector; written if there are several
  std::string text;
  const GeneratedText& generated;
};

// Returns one line with its line break; see `generate --help`.
std::string json_row(const GeneratedRow& row) {
  Json json;
  json["prompt_index"] = row.prompt_index;
  json["prompt"] = prompt_json(row.prompt);
  if (!row.prompt.template_variables.empty()) {
    json["template_variables"] = row.prompt.template_variables;
  }
  json["multiplier"] = row.multiplier;
  if (row.multipliers.size() > 1) {
    json["multipliers"] = row.multipliers;
  }
  json["text"] = row.text;
  json["tokens"] = row.generated.tokens;
  const auto count = static_cast<double>(row.generated.tokens.size());
  json["mean_logprob"] = count == 0 ? Json() : Json(row.generated.log_prob / count);
  json["finish_reason"] = row.generated.stopped ? "stop" : "length";
  return json.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace) + "\n";
}

// A file of whole rows.  An earlier file of this name stays until the first rows are on disk.
class RowFile {
 public:
  // Throws UserError if the file cannot be written.
  explicit RowFile(std::filesystem::path path);

  // Returns when the rows are on disk; the first replace an existing file.  Throws
  // EnvironmentError, for instance if the disk is full; the file then holds the former rows, whole.
  void append(const std::string& rows);

 private:
  std::filesystem::path path_;
  std::optional<FileVersion> found_;  // what was there at the start
  std::unique_ptr<TempFile> first_;   // takes the first rows, beside a file or where none is yet
  FileDescriptor file_;               // open from the start where the path names a pipe or device
};

RowFile::RowFile(std::filesystem::path path) : path_(std::move(path)), found_(version_of(path_)) {
  if (std::filesystem::exists(path_) && !std::filesystem::is_regular_file(path_)) {
    file_ = open_file(path_, O_WRONLY | O_CLOEXEC);
  } else {
    first_ = std::make_unique<TempFile>(new_temp_path(written_path(path_)));
  }
  if (!(first_ ? first_->file() : file_).is_open()) {
    throw UserError(
        fmt::format("--out {}: cannot be written: {}", path_.string(), std::strerror(errno)));
  }
}

void RowFile::append(const std::string& rows) {
  FileDescriptor& file = first_ ? first_->file() : file_;
  const off_t before = ::lseek(file.get(), 0, SEEK_CUR);  // -1: a pipe or terminal
  const auto require = [&](bool succeeded, const char* call) {
    if (!succeeded) {
      const int code = errno;
      [[maybe_unused]] const int ignored = before >= 0 ? ::ftruncate(file.get(), before) : 0;
      throw EnvironmentError(
          fmt::format("{}: {} failed: {}", path_.string(), call, std::strerror(code)));
    }
  };
  require(write_all(file, std::as_bytes(std::span(rows))), "write");
  // Pipes and terminals cannot be synced.
  require(sync_file(file) == 0 || errno == EINVAL || errno == EROFS, "fsync");
  if (first_) {
    if (version_of(path_) != found_) {
      throw EnvironmentError(fmt::format(
          "{}: another process wrote this file since this job began; it is left as it is",
          path_.string()));
    }
    require(first_->rename_to(written_path(path_)) == 0, "rename");
    file_ = std::move(first_->file());
    first_.reset();
  }
}

std::string title(double multiplier) {
  return fmt::format("multiplier {:+g}", multiplier);
}

// Writes texts to a file of rows, or prints them for a person.
class TextSink {
 public:
  TextSink(const GenerationJob& job, ProgressDisplay& display) : job_(job), display_(display) {
    if (!job.options.out.empty()) {
      file_.emplace(job.options.out);
    }
  }

  // Adds the next texts, in order.
  void add(const std::vector<GeneratedText>& texts) {
    std::string rows;
    for (const GeneratedText& text : texts) {
      const std::size_t settings = job_.options.multipliers.size();
      const std::size_t prompt = next_ / settings;
      const std::size_t setting = next_ % settings;
      const GeneratedRow row{
          static_cast<std::int64_t>(prompt),
          job_.prompts[prompt],
          job_.options.multipliers[setting],
          job_.settings.multipliers[setting],
          job_.text->text().tokenizer.decode(text.tokens, SpecialTokenText::kSkipped),
          text};
      rows += file_ ? json_row(row) : shown(row, setting == 0);
      tokens_ += static_cast<std::int64_t>(text.tokens.size());
      ++next_;
    }
    if (file_) {
      file_->append(rows);
    } else if (!job_.options.stream) {
      display_.finish();
      std::cout << rows;
      flush_standard_output();  // nobody is to wait for texts that nobody gets
    }
  }

  std::int64_t tokens() const { return tokens_; }

 private:
  std::string shown(const GeneratedRow& row, bool is_first) const {
    const std::string head =
        is_first ? fmt::format("=== {}\n", row.prompt.messages.back().content) : "";
    return fmt::format("{}--- {}\n{}\n", head, title(row.multiplier), row.text);
  }

  const GenerationJob& job_;
  ProgressDisplay& display_;
  std::optional<RowFile> file_;
  std::size_t next_ = 0;
  std::int64_t tokens_ = 0;
};

// Shows texts while they grow, or, if stdout is not a terminal, once they are complete.
class LiveTexts {
 public:
  explicit LiveTexts(const GenerationJob& job) : texts_(job.options.multipliers.size()) {
    std::vector<std::string> titles;
    for (const double multiplier : job.options.multipliers) {
      titles.push_back(title(multiplier));
      streams_.push_back(job.text->text().tokenizer.decode_stream(SpecialTokenText::kSkipped));
    }
    winsize size{};
    is_terminal_ = isatty(STDOUT_FILENO) == 1 && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0;
    constexpr std::size_t kPageWidth = 100;
    display_.emplace(std::cout, titles, is_terminal_ && size.ws_col > 0 ? size.ws_col : kPageWidth,
                     is_terminal_ ? size.ws_row : 0);
  }

  void add(std::int64_t setting, TokenId token) {
    const auto s = static_cast<std::size_t>(setting);
    texts_[s] += streams_[s].push(token);
    if (is_terminal_ && std::chrono::steady_clock::now() - last_shown_ > kInterval) {
      display_->show(texts_);
      last_shown_ = std::chrono::steady_clock::now();
    }
  }

  void finish() {
    for (std::size_t s = 0; s < texts_.size(); ++s) {
      texts_[s] += streams_[s].finish();
    }
    display_->finish(texts_);
  }

 private:
  static constexpr std::chrono::milliseconds kInterval{50};

  std::vector<Tokenizer::DecodeStream> streams_;
  std::vector<std::string> texts_;
  std::optional<ColumnDisplay> display_;
  bool is_terminal_ = false;
  std::chrono::steady_clock::time_point last_shown_;
};

std::vector<NumberedPrompt> batch_of(const GenerationJob& job, std::int64_t batch) {
  const auto begin = job.tokens.begin() + std::min(batch * job.batch, job.prompt_count());
  const auto end = job.tokens.begin() + std::min((batch + 1) * job.batch, job.prompt_count());
  return {begin, end};
}

// Returns whether any rank of the replica got a request to stop.  Collective over: tp
bool stop_requested(const Decoder& decoder, const Ranks& ranks) {
  const at::Tensor requested =
      at::tensor({std::int64_t{stop_signal_received() ? 1 : 0}}, at::kLong).to(decoder.device());
  ranks.tp->all_reduce(requested, ReduceOp::kMax);
  return requested.item<std::int64_t>() == 1;
}

}  // namespace

GenerationOutcome generate(const GenerationJob& prepared, const Decoder& decoder,
                           const Ranks& ranks, Job& job) {
  using Clock = std::chrono::steady_clock;
  std::optional<TextSink> sink;  // on the root only
  job.session().together([&] {
    if (job.is_root()) {
      sink.emplace(prepared, job.display());
    }
  });
  std::optional<LiveTexts> live;
  if (job.is_root() && prepared.options.stream) {
    live.emplace(prepared);
  }
  const SteeringVectors vectors(placed(prepared.vectors), decoder);
  GenerationHooks hooks;
  hooks.on_token = [&](std::int64_t, std::int64_t setting, TokenId token) {
    if (live) {
      live->add(setting, token);
    }
  };
  hooks.stops = [&] { return stop_requested(decoder, ranks); };

  const Clock::time_point begin = Clock::now();
  const auto prompts_in = [&](std::int64_t batches) {
    return std::min(batches * prepared.batch, prepared.prompt_count());
  };
  std::int64_t done = 0;  // batches
  bool stops = false;
  while (done < prepared.batches() && !stops) {
    const std::vector<NumberedPrompt> prompts = batch_of(prepared, done + ranks.topology.dp_rank());
    const auto mine = prompts.empty()
                          ? std::vector<GeneratedText>{}
                          : generate_batch(decoder, vectors, prompts, prepared.settings, hooks);
    if (!holds_on_all(mine.has_value(), *ranks.world)) {
      break;
    }
    const std::vector<GeneratedText> texts =
        gather_texts(*mine, prepared.settings.max_new_tokens, decoder.device(), *ranks.dp);
    job.session().together([&] {
      if (sink) {
        sink->add(texts);
      }
    });
    done = std::min(done + ranks.topology.dp(), prepared.batches());
    if (!live) {
      job.display().phase("prompt", prompts_in(done), prepared.prompt_count());
    }
    stops = !holds_on_all(!stop_signal_received(), *ranks.world);
  }
  job.display().finish();
  if (live) {
    live->finish();
  }
  return {prompts_in(done), sink ? sink->tokens() : 0,
          std::chrono::duration<double>(Clock::now() - begin).count()};
}

}  // namespace bipo
