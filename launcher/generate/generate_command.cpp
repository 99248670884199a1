#include "launcher/generate/generate_command.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <limits>
#include <optional>
#include <utility>

#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "collectives/number_reduction.hpp"
#include "datasets/rows/prompt_list.hpp"
#include "datasets/tokens/pair_tokenizer.hpp"
#include "experiments/files/utc_time.hpp"
#include "experiments/generation/generation.hpp"
#include "launcher/generate/generated_rows.hpp"
#include "launcher/job/new_file.hpp"
#include "launcher/job/template_dates.hpp"
#include "launcher/job/text_options.hpp"
#include "launcher/job/vectors_in_use.hpp"
#include "launcher/job/whole_model.hpp"
#include "launcher/terminal/gib_text.hpp"
#include "launcher/terminal/progress.hpp"
#include "launcher/terminal/side_by_side.hpp"
#include "launcher/terminal/stop_signals.hpp"

namespace bipo {
namespace {

// Answers that grow together where --batch-size leaves it open: enough for efficient products, few
// enough for their keys and values not to crowd out the weights.
constexpr std::int64_t kAnswersAtOnce = 64;

struct GenerationJob {
  GenerateOptions options;
  WholeModel model;
  std::vector<VectorInUse> vectors;
  std::vector<Prompt> prompts;
  std::vector<NumberedPrompt> tokens;
  GenerationSettings settings;
  std::int64_t batch = 1;             // prompts
  std::optional<PairTokenizer> text;  // always set
  std::vector<std::string> warnings;

  std::int64_t prompt_count() const { return static_cast<std::int64_t>(prompts.size()); }
  std::int64_t batches() const { return (prompt_count() + batch - 1) / batch; }
};

GenerationSettings generation_settings(const GenerationJob& job) {
  const GenerateOptions& options = job.options;
  GenerationSettings settings;
  for (const double multiplier : options.multipliers) {
    std::vector<double>& row = settings.multipliers.emplace_back();
    for (const VectorInUse& vector : job.vectors) {
      row.push_back(multiplier * vector.choice.weight);
    }
  }
  settings.positions =
      options.positions == "all" ? SteeredPositions::kAll : SteeredPositions::kAnswer;
  settings.max_new_tokens = std::min(options.max_new_tokens, job.model.files.config.context);
  if (!options.ignore_eos) {
    settings.stop_tokens = stop_tokens(job.text->text());
  }
  settings.sampling = {options.temperature, options.top_k, options.top_p, options.seed};
  return settings;
}

void check_out(const GenerateOptions& options) {
  if (options.out.empty()) {
    return;
  }
  std::vector<std::filesystem::path> inputs = {options.model, options.adapter, options.prompts};
  for (const VectorChoice& vector : options.vectors) {
    inputs.push_back(vector.file);
  }
  check_new_file("--out", options.out, options.overwrite, inputs);
}

// The largest that a batch of consecutive prompts can take.
void check_cache_fits(const GenerationJob& job, const Session& session) {
  std::int64_t longest = 0;
  for (const NumberedPrompt& prompt : job.tokens) {
    longest = std::max(longest, static_cast<std::int64_t>(prompt.tokens.size()));
  }
  const std::int64_t prompts = std::min(job.batch, job.prompt_count());
  const std::uint64_t needed = generation_cache_bytes(job.model.files.config, *job.model.topology,
                                                      prompts, prompts * longest, job.settings);
  const std::uint64_t available = memory_beside_weights(job.model, session);
  if (needed > available) {
    throw UserError(fmt::format(
        "keys and values of {} prompts at {} multipliers take up to {} per rank, but {} are free "
        "beside the weights; lower --batch-size or --max-new-tokens, or raise --tp",
        prompts, job.settings.multipliers.size(), gib_text(static_cast<double>(needed)),
        gib_text(static_cast<double>(available))));
  }
}

void read_prompts_of(GenerationJob& job) {
  const GenerateOptions& options = job.options;
  job.prompts = options.prompts.empty() ? std::vector{prompt_from_text(options.prompt, "--prompt")}
                                        : read_prompts(options.prompts);
  const std::int64_t context = job.model.files.config.context;
  for (const Prompt& prompt : job.prompts) {
    std::vector<TokenId> tokens;
    try {
      tokens = tokenize_prompt(prompt.messages, job.text->text());
    } catch (const UserError& error) {
      throw UserError(fmt::format("{}: {}", prompt.where, error.what()));
    }
    const auto length = static_cast<std::int64_t>(tokens.size());
    if (length >= context) {
      throw UserError(fmt::format(
          "{}: the prompt has {} tokens, but the model's context of {} must hold it and "
          "at least one token of the answer; shorten the prompt",
          prompt.where, length, context));
    }
    job.tokens.push_back({static_cast<std::int64_t>(job.tokens.size()), std::move(tokens)});
  }
}

GenerationJob prepare(const GenerateOptions& given, const std::string& now,
                      const Session& session) {
  GenerationJob job;
  job.options = given;
  job.options.template_date = choose_template_date(given.template_date, std::nullopt, now);
  if (session.rank() == 0) {
    check_out(given);
  }
  job.model = open_whole_model(given.model, given.adapter, given, session);
  const ModelConfig& config = job.model.files.config;
  job.vectors = read_vectors(given.vectors, config);
  TokenizeOptions tokenize = tokenize_options(job.options, config.context);
  tokenize.max_length = std::numeric_limits<std::int64_t>::max();  // see read_prompts_of()
  job.text.emplace(job.model.files.read_text(), template_settings(job.options), config.vocabulary,
                   tokenize);
  read_prompts_of(job);
  job.settings = generation_settings(job);
  job.batch = given.batch_size.value_or(std::max<std::int64_t>(
      1, kAnswersAtOnce / static_cast<std::int64_t>(given.multipliers.size())));
  check_cache_fits(job, session);
  job.warnings = job.model.files.weights->warnings();
  for (auto& warnings : {job.text->warnings(), transfer_warnings(job.vectors, job.model.files)}) {
    job.warnings.insert(job.warnings.end(), warnings.begin(), warnings.end());
  }
  if (job.batches() < job.model.topology->dp()) {
    job.warnings.push_back(
        fmt::format("{} prompts in batches of {} keep {} of {} replicas busy; lower --batch-size, "
                    "or start fewer ranks",
                    job.prompt_count(), job.batch, job.batches(), job.model.topology->dp()));
  }
  return job;
}

std::uint64_t agreement(const GenerationJob& job) {
  ContentHash hash;
  hash.add(job.model.files.fingerprint);
  for (const VectorInUse& vector : job.vectors) {
    hash.add(fmt::format("{} {}", vector.stored.layer, vector.choice.weight));
    hash.add_bytes(vector.stored.value.data(), vector.stored.value.size() * sizeof(float));
  }
  for (const NumberedPrompt& prompt : job.tokens) {
    hash.add(std::uint64_t{prompt.tokens.size()});
    hash.add_bytes(prompt.tokens.data(), prompt.tokens.size() * sizeof(TokenId));
  }
  const GenerationSettings& settings = job.settings;
  hash.add(fmt::format("{} {} {} {} {} {} {} {} {} {} {}", job.batch, settings.max_new_tokens,
                       job.model.computation.dtype, fmt::join(job.options.multipliers, ","),
                       job.options.positions, job.options.ignore_eos, job.options.stream,
                       settings.sampling.temperature, settings.sampling.top_k,
                       settings.sampling.top_p, settings.sampling.seed));
  return hash.value();
}

std::string title(double multiplier) {
  return fmt::format("multiplier {:+g}", multiplier);
}

// Where texts go: a file of rows, or a person.
class TextSink {
 public:
  TextSink(const GenerationJob& job, ProgressDisplay& display) : job_(job), display_(display) {
    if (!job.options.out.empty()) {
      file_.emplace(job.options.out);
    }
  }

  // The next texts, in order.
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
      std::cout << rows << std::flush;
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

// Shows texts while they grow; where stdout is no terminal, once they are whole.
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

int generate(const GenerationJob& job, Session& session) {
  using Clock = std::chrono::steady_clock;
  if (!job.options.stream) {  // a person's Ctrl-C just ends it
    install_stop_signals();
  }
  const bool speaks = session.rank() == 0;
  ProgressDisplay display(std::cerr, stderr_environment());
  if (speaks) {
    for (const std::string& warning : job.warnings) {
      display.message("warning: " + warning);
    }
  }
  const Ranks ranks =
      session.make_ranks(*job.model.topology, job.model.computation.device.is_cuda());
  std::unique_ptr<Decoder> decoder;
  std::optional<TextSink> sink;
  session.together([&] {
    decoder = load_whole_model(job.model, ranks);
    if (speaks) {
      sink.emplace(job, display);
    }
  });
  const SteeringVectors vectors(placed(job.vectors), *decoder);
  std::optional<LiveTexts> live;
  if (speaks && job.options.stream) {
    live.emplace(job);
  }
  GenerationHooks hooks;
  hooks.on_token = [&](std::int64_t, std::int64_t setting, TokenId token) {
    if (live) {
      live->add(setting, token);
    }
  };
  hooks.stops = [&] {
    const at::Tensor asked =
        at::tensor({std::int64_t{stop_signal_received() ? 1 : 0}}, at::kLong).to(decoder->device());
    ranks.tp->all_reduce(asked, ReduceOp::kMax);
    return asked.item<std::int64_t>() == 1;
  };

  const Clock::time_point begin = Clock::now();
  const std::int64_t replicas = ranks.topology.dp();
  std::int64_t done = 0;  // batches
  bool stops = false;
  while (done < job.batches() && !stops) {
    const std::vector<NumberedPrompt> prompts = batch_of(job, done + ranks.topology.dp_rank());
    const auto mine = prompts.empty()
                          ? std::vector<GeneratedText>{}
                          : generate_batch(*decoder, vectors, prompts, job.settings, hooks);
    // A round that any replica could not finish is dropped on all of them.
    stops = !holds_on_all(mine.has_value(), *ranks.world);
    if (stops) {
      break;
    }
    const std::vector<GeneratedText> texts =
        gather_texts(*mine, job.settings.max_new_tokens, decoder->device(), *ranks.dp);
    session.together([&] {
      if (sink) {
        sink->add(texts);
      }
    });
    done = std::min(done + replicas, job.batches());
    if (speaks && !live) {
      display.phase("prompt", std::min(done * job.batch, job.prompt_count()), job.prompt_count());
    }
    stops = !holds_on_all(!stop_signal_received(), *ranks.world);
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  if (speaks) {
    display.finish();
    if (live) {
      live->finish();
    }
    const std::int64_t prompts = std::min(done * job.batch, job.prompt_count());
    std::cerr << fmt::format("{} answers, {} tokens in {:.1f} s, {:.1f} tokens/s\n",
                             prompts * static_cast<std::int64_t>(job.options.multipliers.size()),
                             sink->tokens(), seconds,
                             static_cast<double>(sink->tokens()) / seconds);
    if (!job.options.out.empty()) {
      fmt::print("{}: {}\n", done < job.batches() ? "interrupted; answers so far" : "answers",
                 job.options.out.string());
      std::fflush(stdout);
    }
  }
  return done < job.batches() ? kExitInterrupted : kExitDone;
}

}  // namespace

int run_generate_command(const GenerateOptions& options, Session& session) {
  const std::string now = session.from_first(utc_text());
  std::optional<GenerationJob> job;
  session.together([&] { job = prepare(options, now, session); });
  session.expect_same(agreement(*job), "the answers to make");
  return generate(*job, session);
}

}  // namespace bipo
