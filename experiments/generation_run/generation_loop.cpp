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
#include <map>
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
#include "experiments/job/machine.hpp"
#include "experiments/progress/side_by_side.hpp"
#include "experiments/progress/stop_signals.hpp"
#include "experiments/settings/field.hpp"

namespace bipo {
namespace {

using Json = nlohmann::ordered_json;

// Steps after which replicas tell each other what they have answered: few enough that rows reach
// the file soon, enough that replicas seldom wait for each other.
constexpr std::int64_t kStepsAlone = 32;

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

// Returns for each vector its name on the command line, layer, the site unless it is the block's
// output, and, where a training made it, the epoch, from 1.
Json named_vectors(const std::vector<VectorInUse>& vectors) {
  Json list = Json::array();
  for (const VectorInUse& vector : vectors) {
    Json entry = {{"vector", choice_text(vector.choice, vector.choice.file.string())},
                  {"layer", vector.stored.layer}};
    if (vector.stored.site != Site::kBlock) {
      entry["site"] = to_string(vector.stored.site);
    }
    if (vector.stored.step > 0) {
      entry["epoch"] = vector.stored.epoch + 1;
    }
    list.push_back(std::move(entry));
  }
  return list;
}

struct GeneratedRow {
  std::int64_t prompt_index = 0;
  const Prompt& prompt;
  const Json& vectors;  // see named_vectors(); empty: none is in use
  double multiplier = 0;
  std::vector<double> multipliers;  // one for each vector; written if there are several
  std::string text;
  const GeneratedText& generated;
  std::optional<bool> gate_open;  // none without --gate
};

// Returns one line with its line break; see `generate --help`.
std::string json_row(const GeneratedRow& row) {
  Json json;
  json["prompt_index"] = row.prompt_index;
  json["prompt"] = prompt_json(row.prompt);
  if (!row.prompt.template_variables.empty()) {
    json["template_variables"] = row.prompt.template_variables;
  }
  if (!row.vectors.empty()) {
    json["vectors"] = row.vectors;
  }
  json["multiplier"] = row.multiplier;
  if (row.multipliers.size() > 1) {
    json["multipliers"] = row.multipliers;
  }
  if (row.gate_open) {
    json["gate_open"] = *row.gate_open;
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
  TextSink(const GenerationJob& job, const std::vector<NumberedPrompt>& prompts,
           ProgressDisplay& display)
      : job_(job), prompts_(prompts), vectors_(named_vectors(job.vectors)), display_(display) {
    if (!job.options.out.empty()) {
      file_.emplace(job.options.out);
    }
  }

  // Adds the answers to the next prompts, in order.
  void add(const std::vector<PromptAnswers>& answers) {
    std::string rows;
    for (const auto& [number, texts] : answers) {
      for (std::size_t setting = 0; setting < texts.size(); ++setting) {
        rows += line(static_cast<std::size_t>(number), setting, texts[setting]);
        tokens_ += static_cast<std::int64_t>(texts[setting].tokens.size());
      }
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
  std::string line(std::size_t prompt, std::size_t setting, const GeneratedText& text) const {
    const GeneratedRow row{
        static_cast<std::int64_t>(prompt),
        job_.prompts[prompt],
        vectors_,
        job_.options.multipliers[setting],
        job_.settings.multipliers[setting],
        job_.text->text().tokenizer.decode(text.tokens, SpecialTokenText::kSkipped),
        text,
        job_.gate ? std::optional(prompts_[prompt].is_open) : std::nullopt};
    return file_ ? json_row(row) : shown(row, setting == 0);
  }

  std::string shown(const GeneratedRow& row, bool is_first) const {
    const std::string head =
        is_first ? fmt::format("=== {}\n", row.prompt.messages.back().content) : "";
    const bool is_closed = row.gate_open && !*row.gate_open;
    return fmt::format("{}--- {}{}\n{}\n", head, title(row.multiplier),
                       is_closed ? ", gate closed" : "", row.text);
  }

  const GenerationJob& job_;
  const std::vector<NumberedPrompt>& prompts_;
  Json vectors_;
  ProgressDisplay& display_;
  std::optional<RowFile> file_;
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

// Deals prompts to replicas, so that every replica always has enough that wait.  Every rank deals
// alike.
class Dealer {
 public:
  // Prompts are dealt in groups of `group` consecutive ones.
  Dealer(const GenerationJob& job, const std::vector<NumberedPrompt>& tokens, std::int64_t group,
         int replicas)
      : job_(job),
        tokens_(tokens),
        group_(group),
        most_(job.batch + std::max(group, (job.batch + 1) / 2)),
        unfinished_(static_cast<std::size_t>(replicas), 0) {}

  // Gives each group to the replica with the fewest unfinished prompts, as long as one has few;
  // calls add(prompts) for those of replica `mine`.
  template <class Add>
  void deal(int mine, const Add& add) {
    while (next_ < job_.prompt_count()) {
      const auto fewest = std::min_element(unfinished_.begin(), unfinished_.end());
      const std::int64_t end = std::min(next_ + group_, job_.prompt_count());
      if (*fewest + (end - next_) > most_) {
        return;
      }
      if (fewest - unfinished_.begin() == mine) {
        add(std::vector<NumberedPrompt>(tokens_.begin() + next_, tokens_.begin() + end));
      }
      *fewest += end - next_;
      next_ = end;
    }
  }

  void set_unfinished(std::vector<std::int64_t> of_replica) { unfinished_ = std::move(of_replica); }

  // Whether all prompts are answered, as far as replicas have said.
  bool is_done() const {
    return next_ == job_.prompt_count() && std::all_of(unfinished_.begin(), unfinished_.end(),
                                                       [](auto count) { return count == 0; });
  }

 private:
  const GenerationJob& job_;
  const std::vector<NumberedPrompt>& tokens_;
  std::int64_t group_;
  std::int64_t most_;  // unfinished prompts of a replica
  std::int64_t next_ = 0;
  std::vector<std::int64_t> unfinished_;
};

// Answers of all replicas, which are complete in any order.
class OrderedAnswers {
 public:
  // Adds answers; returns those to the next prompts, as far as all before them are there.
  std::vector<PromptAnswers> add(std::vector<PromptAnswers> answers) {
    for (PromptAnswers& each : answers) {
      const std::int64_t number = each.number;
      waiting_.emplace(number, std::move(each));
    }
    std::vector<PromptAnswers> next;
    while (!waiting_.empty() && waiting_.begin()->first == done_) {
      next.push_back(std::move(waiting_.extract(waiting_.begin()).mapped()));
      ++done_;
    }
    return next;
  }

  std::int64_t done() const { return done_; }  // prompts that add() has returned

 private:
  std::map<std::int64_t, PromptAnswers> waiting_;  // by number of the prompt
  std::int64_t done_ = 0;
};

// What replicas tell each other between steps.
struct ReplicaState {
  std::vector<std::int64_t> unfinished;  // prompts of each replica
  bool stops = false;                    // any of them was asked to stop
};

// Collective over: dp
ReplicaState exchange_state(std::int64_t unfinished, bool stops, at::Device device,
                            Communicator& dp) {
  const at::Tensor mine = at::tensor({unfinished, std::int64_t{stops ? 1 : 0}}, at::kLong);
  const at::Tensor all = dp.all_gather(mine.to(device)).cpu().view({-1, 2});
  ReplicaState state;
  for (std::int64_t replica = 0; replica < all.size(0); ++replica) {
    state.unfinished.push_back(all[replica][0].item<std::int64_t>());
    state.stops = state.stops || all[replica][1].item<std::int64_t>() == 1;
  }
  return state;
}

void warn_of_idle_replicas(const GenerationJob& job, std::int64_t group, std::int64_t replicas,
                           ProgressDisplay& display) {
  const std::int64_t busy = (job.prompt_count() + group - 1) / group;
  if (busy < replicas) {
    display.warn(fmt::format("{} prompts{} keep {} of {} replicas busy; {}start fewer ranks",
                             job.prompt_count(),
                             group > 1 ? fmt::format(" in batches of {}", group) : "", busy,
                             replicas, group > 1 ? "lower --batch-size, or " : ""));
  }
}

// Collective over: dp x tp
void decide_gates(const GenerationJob& job, const Decoder& decoder, const Ranks& ranks,
                  std::vector<NumberedPrompt>& prompts) {
  std::vector<PromptTokens> tokens;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    tokens.push_back({prompts[i].tokens, job.prompts[i].where});
  }
  const std::vector<bool> open = open_gates({decoder, ranks, job.batch, {}}, tokens, *job.gate);
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    prompts[i].is_open = open[i];
  }
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
  std::vector<NumberedPrompt> prompts = prepared.tokens;
  std::optional<TextSink> sink;  // on the root only
  job.session().together([&] {
    if (job.is_root()) {
      sink.emplace(prepared, prompts, job.display());
    }
  });
  std::optional<LiveTexts> live;
  if (job.is_root() && prepared.options.stream) {
    live.emplace(prepared);
  }
  keep_freed_memory();
  const SteeringVectors vectors(placed(prepared.vectors, prepared.options.intervention), decoder);
  if (prepared.gate) {
    decide_gates(prepared, decoder, ranks, prompts);
  }
  GenerationSettings settings = prepared.settings;
  settings.has_independent_rows = holds_on_all(decoder.has_independent_cached_rows(), *ranks.world);
  TextGenerator generator(decoder, vectors, settings, prepared.room,
                          [&](std::int64_t, std::int64_t setting, TokenId token) {
                            if (live) {
                              live->add(setting, token);
                            }
                          });
  const int replicas = ranks.topology.dp();
  const std::int64_t group = settings.has_independent_rows ? 1 : prepared.batch;
  warn_of_idle_replicas(prepared, group, replicas, job.display());
  Dealer dealer(prepared, prompts, group, replicas);
  const auto deal = [&] {
    dealer.deal(ranks.topology.dp_rank(),
                [&](std::vector<NumberedPrompt> dealt) { generator.add(std::move(dealt)); });
  };

  const Clock::time_point begin = Clock::now();
  std::vector<PromptAnswers> answered;  // by this replica, since it last told others
  OrderedAnswers ordered;
  std::int64_t steps_alone = 0;
  deal();
  for (bool ends = false; !ends;) {
    const bool asked = stop_requested(decoder, ranks);
    if (!asked && generator.unfinished() > 0) {
      for (PromptAnswers& answers : generator.step()) {
        answered.push_back(std::move(answers));
      }
    }
    const bool is_idle = generator.unfinished() == 0;
    const bool tells = replicas == 1 ? !answered.empty() : ++steps_alone == kStepsAlone;
    if (!asked && !is_idle && !tells) {
      continue;
    }
    steps_alone = 0;
    const ReplicaState state =
        exchange_state(generator.unfinished(), asked, decoder.device(), *ranks.dp);
    const std::vector<PromptAnswers> next =
        ordered.add(gather_answers(answered, settings, decoder.device(), *ranks.dp));
    answered.clear();
    if (!next.empty()) {
      job.session().together([&] {
        if (sink) {
          sink->add(next);
        }
      });
      if (!live) {
        job.display().phase("prompt", ordered.done(), prepared.prompt_count());
      }
    }
    dealer.set_unfinished(state.unfinished);
    deal();
    ends = state.stops || dealer.is_done();
  }
  job.display().finish();
  if (live) {
    live->finish();
  }
  return {ordered.done(), sink ? sink->tokens() : 0,
          std::chrono::duration<double>(Clock::now() - begin).count()};
}

}  // namespace bipo
