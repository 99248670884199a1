#include "datasets/tokens/tokenization.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <thread>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/worker_threads.hpp"
#include "datasets/rows/preference_pairs.hpp"
#include "datasets/template/chat_template.hpp"
#include "datasets/text/row_collector.hpp"
#include "datasets/tokenizer/tokenizer.hpp"

namespace bipo {
namespace {

using Tokens = std::vector<TokenId>;

// Puts the system text where users of templates without system turns put it by hand.
void fold_system_turn_into_first_user_turn(std::vector<Message>& messages) {
  const std::string text = messages.front().content;
  messages.erase(messages.begin());
  const auto user = std::find_if(messages.begin(), messages.end(),
                                 [](const Message& turn) { return turn.role == "user"; });
  if (user != messages.end() && !text.empty()) {
    user->content = text + "\n\n" + user->content;
  }
}

// Puts the system prompt before a conversation unless it has a system turn of its own.
std::vector<Message> with_system_prompt(std::vector<Message> prompt, const TextTools& text) {
  const std::string& system_prompt = text.options.system_prompt;
  const bool has_system_turn = std::any_of(
      prompt.begin(), prompt.end(), [](const Message& turn) { return turn.role == "system"; });
  if (!has_system_turn && !system_prompt.empty() && !text.chat_template.is_raw()) {
    prompt.insert(prompt.begin(), Message{"system", system_prompt});
  }
  const bool begins_with_system = !prompt.empty() && prompt.front().role == "system";
  if (begins_with_system && !text.chat_template.takes_system_turn()) {
    fold_system_turn_into_first_user_turn(prompt);
  }
  return prompt;
}

std::string render(const std::vector<Message>& prompt, const TextTools& text,
                   const TemplateVariables& variables) {
  return text.chat_template.render_prompt(with_system_prompt(prompt, text), variables);
}

// Cuts what the template puts after the answer's own last character.
std::string cut_open(const std::string& whole, const std::string& prompt,
                     const std::string& answer) {
  const std::size_t at = whole.rfind(answer);
  const auto shared = static_cast<std::size_t>(
      std::mismatch(prompt.begin(), prompt.end(), whole.begin(), whole.end()).second -
      whole.begin());
  if (at == std::string::npos || at + answer.size() <= shared) {
    throw UserError(fmt::format(
        "the chat template renders the answer '{}' otherwise ('...{}'), so that its "
        "end cannot be found; choose another one with --chat-template",
        answer, whole.substr(whole.size() - std::min(whole.size(), answer.size() + 40))));
  }
  return whole.substr(0, at + answer.size());
}

std::ptrdiff_t common_prefix_length(const Tokens& a, const Tokens& b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

// Returns the longest common prefix of the tokenised prompt and all of `wholes`, which are prompts
// with an answer, and what follows it as answers; any of them may be empty.  The prefix can be
// shorter than the prompt by itself: joint tokenisation may merge the prompt's last characters with
// an answer's first ones, and a generation prompt may be missing in the whole.
Continuations split_jointly(const std::string& prompt, const std::vector<std::string>& wholes,
                            const Tokenizer& tokenizer) {
  const Tokens alone = tokenizer.encode(prompt);
  auto shared = static_cast<std::ptrdiff_t>(alone.size());
  Continuations result;
  for (const std::string& whole : wholes) {
    result.answers.push_back(tokenizer.encode(whole));
    shared = std::min(shared, common_prefix_length(alone, result.answers.back()));
  }
  result.prompt.assign(alone.begin(), alone.begin() + shared);
  for (Tokens& answer : result.answers) {
    answer.erase(answer.begin(), answer.begin() + shared);
  }
  return result;
}

Tokens tokens_before(const TextTools& text, bool is_plain) {
  const SpecialTokens& special = text.special;
  switch (text.options.bos) {
    case BosRule::kAuto:
      return is_plain ? special.before_text : Tokens();
    case BosRule::kAlways:
      if (!special.bos) {
        throw UserError(
            "--bos always: the model names no begin-of-sequence token; name bos_token in its "
            "tokenizer_config.json, or use --bos auto");
      }
      return {*special.bos};
    case BosRule::kNever:
    case BosRule::kEarlierNever:
      return {};
    case BosRule::kEarlier:
      return special.earlier_bos ? Tokens{*special.earlier_bos} : Tokens();
  }
  throw BugError(fmt::format("BOS rule {} is not known", static_cast<int>(text.options.bos)));
}

void begin_with(const Tokens& before, Tokens& tokens) {
  const bool is_there =
      before.size() <= tokens.size() && std::equal(before.begin(), before.end(), tokens.begin());
  if (!is_there) {
    tokens.insert(tokens.begin(), before.begin(), before.end());
  }
}

bool is_plain_form(const TextTools& text) {
  return text.chat_template.name() == kPlainForm || text.chat_template.is_raw();
}

// Puts a BOS before a rendered conversation as the options want it.
void begin_prompt(Tokens& tokens, const TextTools& text) {
  begin_with(tokens_before(text, is_plain_form(text)), tokens);
}

void end_with_eos(Tokens& answer, const TextTools& text) {
  if (text.options.add_eos && answer.back() != *text.special.eos) {
    answer.push_back(*text.special.eos);
  }
}

void require_limit(const TokenizeOptions& options) {
  if (options.max_length < 1) {
    throw BugError(fmt::format("text tokenised with a limit of {} tokens", options.max_length));
  }
}

void require_eos(const TextTools& text) {
  if (text.options.add_eos && !text.special.eos) {
    throw UserError(
        "the model names no end-of-sequence token to put after the answers; name eos_token in its "
        "tokenizer_config.json, or use --no-eos");
  }
}

void require_answer_token(const Tokens& answer, const std::string& which) {
  if (answer.empty()) {
    throw UserError(
        fmt::format("the {} has no token of its own after the prompt; change the answer, or leave "
                    "the row out with --skip-bad",
                    which));
  }
}

void require_prompt_token(const Tokens& prompt) {
  if (prompt.empty()) {
    throw UserError(
        "the prompt has no token of its own, so nothing predicts the answer's first token; change "
        "the row, or leave it out with --skip-bad");
  }
}

// The names and lengths of answers.
using AnswerLengths = std::vector<std::pair<const char*, std::size_t>>;

void require_fits(std::size_t prompt, const AnswerLengths& answers, std::int64_t max_length) {
  std::size_t longest = 0;
  for (const auto& [name, length] : answers) {
    longest = std::max(longest, length);
  }
  if (static_cast<std::int64_t>(prompt + longest) <= max_length) {
    return;
  }
  std::string parts = fmt::format("prompt {}", prompt);
  for (const auto& [name, length] : answers) {
    parts += fmt::format(", {} {}", name, length);
  }
  throw UserError(fmt::format(
      "prompt and longest answer have {} tokens ({}), but the limit is {}; shorten the row, raise "
      "--max-length if the model's context allows it, or leave the row out with --skip-bad",
      prompt + longest, parts, max_length));
}

Continuations checked(Continuations tokens, const TextTools& text) {
  require_prompt_token(tokens.prompt);
  require_known_ids(tokens.prompt, text.vocabulary);
  std::size_t longest = 0;
  for (const Tokens& answer : tokens.answers) {
    require_known_ids(answer, text.vocabulary);
    longest = std::max(longest, answer.size());
  }
  require_fits(tokens.prompt.size(), {{"longest answer", longest}}, text.options.max_length);
  return tokens;
}

// `wholes`: the prompt with each of the answers, as rendered.
Continuations join(const std::string& prompt, const std::vector<std::string>& wholes,
                   const std::vector<std::string>& answers, AnswerEnd end, bool is_plain,
                   const TextTools& text, const std::string& where) {
  require_limit(text.options);
  if (end == AnswerEnd::kEos) {
    require_eos(text);
  }
  Continuations tokens = split_jointly(prompt, wholes, text.tokenizer);
  tokens.where = where;
  begin_with(tokens_before(text, is_plain), tokens.prompt);
  for (std::size_t i = 0; i < answers.size(); ++i) {
    require_answer_token(tokens.answers[i], answers.size() == 1
                                                ? std::string("answer")
                                                : fmt::format("answer '{}'", answers[i]));
    if (end == AnswerEnd::kEos) {
      end_with_eos(tokens.answers[i], text);
    }
  }
  return checked(std::move(tokens), text);
}

// Drops the turns after the assistant's last one: nothing scored follows them.
std::vector<Message> up_to_last_assistant_turn(std::vector<Message> answer, const char* which,
                                               TrainTurns train_turns) {
  const auto last = std::find_if(answer.rbegin(), answer.rend(),
                                 [](const Message& turn) { return turn.role == "assistant"; });
  if (last == answer.rend()) {
    throw UserError(
        fmt::format("the {} answer has no assistant turn; change the row, or leave it "
                    "out with --skip-bad",
                    which));
  }
  if (last != answer.rbegin() && train_turns == TrainTurns::kAll) {
    throw UserError(
        fmt::format("--train-turns all: the {} answer ends with a turn of '{}', whose end is not "
                    "known; end it with an assistant turn, or use --train-turns assistant",
                    which, answer.back().role));
  }
  answer.erase(last.base(), answer.end());
  return answer;
}

// Marks the tokens of `tokens`, the tokens of turns.render_answered(), that begin in a span of the
// assistant's.
ScoredTokens scored_tokens(const std::string& whole, const Tokens& tokens,
                           const std::vector<TextSpan>& spans, const TextTools& text) {
  const auto tokens_before = [&](std::size_t byte, bool is_end) {
    const Tokens before = text.tokenizer.encode(whole.substr(0, byte));
    const std::ptrdiff_t shared = common_prefix_length(before, tokens);
    if (is_end && shared != static_cast<std::ptrdiff_t>(before.size())) {
      throw UserError(
          "a token holds the end of an assistant turn and the beginning of the next one, so that "
          "the user's turns in the answer cannot be masked; use --train-turns all, or another "
          "--chat-template");
    }
    return shared;
  };
  ScoredTokens scored(tokens.size(), false);
  for (const TextSpan& span : spans) {
    const std::ptrdiff_t begin = tokens_before(span.begin, /*is_end=*/false);
    const std::ptrdiff_t end = tokens_before(span.end, /*is_end=*/true);
    std::fill(scored.begin() + begin, scored.begin() + std::max(begin, end), true);
  }
  return scored;
}

// What is noticed about the rows of a file.
struct RowFindings {
  std::map<std::string, std::pair<std::size_t, std::string>> unread;  // rows, the first one's place
  std::size_t left_out = 0;    // prompts whose end the conversation with an answer lacks
  std::string first_left_out;  // its end and place

  // Adds what was noticed about later rows.
  void append(const RowFindings& later);
  std::vector<std::string> lines(const TextTools& text) const;
};

void RowFindings::append(const RowFindings& later) {
  for (const auto& [name, rows] : later.unread) {
    const auto [here, is_new] = unread.try_emplace(name, rows);
    here->second.first += is_new ? 0 : rows.first;
  }
  first_left_out = left_out == 0 ? later.first_left_out : first_left_out;
  left_out += later.left_out;
}

std::vector<std::string> RowFindings::lines(const TextTools& text) const {
  std::vector<std::string> lines;
  for (const auto& [name, rows] : unread) {
    lines.push_back(fmt::format(
        "{}: the chat template ({}) never reads {}, which {} row(s) hold: it changes nothing",
        rows.second, text.chat_template.name(), name, rows.first));
  }
  if (left_out > 0) {
    lines.push_back(fmt::format(
        "{}: the end of the prompt is missing in the conversation with the answer, and left out of "
        "the context, in {} row(s) (the rule of TRL 1.16)",
        first_left_out, left_out));
  }
  return lines;
}

// Notes what the template cannot read of a row.  A template that prints all members of messages
// reads them without their names.
void note_unread(const PreferencePair& pair, const TextTools& text, RowFindings& findings) {
  const ChatTemplate& chat_template = text.chat_template;
  std::set<std::string> names;
  for (const auto& [name, value] : pair.template_variables.items()) {
    if (!value.is_null() && !chat_template.mentions(name)) {
      names.insert(fmt::format("the variable '{}'", name));
    }
  }
  const bool prints_all = chat_template.mentions("items") || chat_template.mentions("tojson");
  for (const auto* turns : {&pair.prompt, &pair.chosen, &pair.rejected}) {
    for (const Message& turn : *turns) {
      for (const auto& [name, value] : turn.extra.items()) {
        const bool is_reasoning = name == "thinking" || name == "reasoning";
        const bool is_read = chat_template.mentions(name) || prints_all ||
                             (is_reasoning && chat_template.mentions("reasoning_content")) ||
                             (name == "reasoning_content" && chat_template.mentions("thinking"));
        if (!value.is_null() && !is_read) {
          names.insert(fmt::format("the messages' '{}'", name));
        }
      }
    }
  }
  for (const std::string& name : names) {
    auto& [rows, first] = findings.unread[name];
    first = rows++ == 0 ? pair.where : first;
  }
}

// Notes a prompt whose end is left out, unless that happens to every row or another turn follows
// it.
void note_left_out(const PreferencePair& pair, const std::string& prompt, const std::string& whole,
                   const TextTools& text, RowFindings& findings) {
  const bool is_known = !text.chat_template.left_out_of_context().empty();
  if (is_known || whole.starts_with(prompt) || pair.chosen.front().role != "assistant") {
    return;
  }
  if (findings.left_out++ == 0) {
    findings.first_left_out = pair.where;
  }
}

TokenPair tokenize_pair(const PreferencePair& pair, const TextTools& text, RowFindings& findings) {
  const std::vector<Message> turns = with_system_prompt(pair.prompt, text);
  const std::string prompt = text.chat_template.render_prompt(turns, pair.template_variables);
  const TrainTurns train_turns = text.options.train_turns;
  const AnswerTurns chosen{turns, up_to_last_assistant_turn(pair.chosen, "chosen", train_turns),
                           pair.template_variables};
  const AnswerTurns rejected{turns,
                             up_to_last_assistant_turn(pair.rejected, "rejected", train_turns),
                             pair.template_variables};
  const std::string chosen_text = text.chat_template.render_answered(chosen);
  const std::string rejected_text = text.chat_template.render_answered(rejected);
  Continuations joint = split_jointly(prompt, {chosen_text, rejected_text}, text.tokenizer);
  note_unread(pair, text, findings);
  note_left_out(pair, prompt, chosen_text, text, findings);

  TokenPair tokens{std::move(joint.prompt), std::move(joint.answers[0]),
                   std::move(joint.answers[1]), pair.where};
  require_answer_token(tokens.chosen, "chosen answer");
  require_answer_token(tokens.rejected, "rejected answer");
  const auto mask = [&](const AnswerTurns& answer, const std::string& whole, const Tokens& of) {
    const bool is_one_turn = answer.answer.size() == 1;
    if (is_one_turn || train_turns == TrainTurns::kAll) {
      return ScoredTokens();
    }
    Tokens all = tokens.prompt;
    all.insert(all.end(), of.begin(), of.end());
    ScoredTokens scored =
        scored_tokens(whole, all, text.chat_template.assistant_spans(answer), text);
    scored.erase(scored.begin(),
                 scored.begin() + static_cast<std::ptrdiff_t>(tokens.prompt.size()));
    if (std::find(scored.begin(), scored.end(), true) == scored.end()) {
      throw UserError(
          "no token of the assistant's is left after the prompt; change the row, or "
          "leave it out with --skip-bad");
    }
    return std::find(scored.begin(), scored.end(), false) == scored.end() ? ScoredTokens() : scored;
  };
  tokens.chosen_scored = mask(chosen, chosen_text, tokens.chosen);
  tokens.rejected_scored = mask(rejected, rejected_text, tokens.rejected);
  begin_prompt(tokens.prompt, text);
  require_prompt_token(tokens.prompt);
  const auto end = [&](Tokens& answer, ScoredTokens& scored) {
    end_with_eos(answer, text);
    if (!scored.empty()) {
      scored.resize(answer.size(), true);
    }
  };
  end(tokens.chosen, tokens.chosen_scored);
  end(tokens.rejected, tokens.rejected_scored);
  require_fits(tokens.prompt.size(),
               {{"chosen", tokens.chosen.size()}, {"rejected", tokens.rejected.size()}},
               text.options.max_length);
  // Tokenisation leaves room for the whole conversation in every part.
  for (Tokens* part : {&tokens.prompt, &tokens.chosen, &tokens.rejected}) {
    part->shrink_to_fit();
  }
  return tokens;
}

// Consecutive pairs, which one thread tokenises.
struct Chunk {
  std::span<const PreferencePair> rows;
  std::vector<TokenPair> pairs;
  std::vector<std::string> skipped;
  RowFindings findings;
  std::exception_ptr failure;  // of the first pair that is refused; ends the chunk
};

void tokenize_chunk(Chunk& chunk, const TextTools& text) {
  try {
    RowCollector<TokenPair> collector(text.options.bad_rows, chunk.pairs, chunk.skipped);
    for (const PreferencePair& pair : chunk.rows) {
      collector.add_at(pair.where, [&] { return tokenize_pair(pair, text, chunk.findings); });
    }
  } catch (...) {
    chunk.failure = std::current_exception();
  }
}

std::vector<Chunk> chunks_of(std::span<const PreferencePair> pairs) {
  constexpr std::size_t kPairsOfChunk = 256;
  std::vector<Chunk> chunks;
  while (!pairs.empty()) {
    const std::size_t size = std::min(kPairsOfChunk, pairs.size());
    chunks.push_back({pairs.first(size), {}, {}, {}, nullptr});
    pairs = pairs.subspan(size);
  }
  return chunks;
}

// Threads take the chunks in their order, and none after a failure: every chunk before the first
// one that fails is complete.
void tokenize_chunks(std::vector<Chunk>& chunks, const TextTools& text) {
  std::atomic<std::size_t> next = 0;
  std::atomic<bool> has_failed = false;
  const auto work = [&] {
    while (!has_failed) {
      const std::size_t mine = next++;
      if (mine >= chunks.size()) {
        return;
      }
      tokenize_chunk(chunks[mine], text);
      if (chunks[mine].failure) {
        has_failed = true;
      }
    }
  };
  const auto cores = static_cast<std::int64_t>(std::thread::hardware_concurrency());
  const std::int64_t threads =
      std::min({text.options.threads, cores, static_cast<std::int64_t>(chunks.size())});
  run_in_threads(static_cast<std::size_t>(std::max<std::int64_t>(threads, 1)), work);
}

}  // namespace

TokenPairs tokenize_pairs(const std::vector<PreferencePair>& pairs, const TextTools& text) {
  require_limit(text.options);
  require_eos(text);
  std::vector<Chunk> chunks = chunks_of(pairs);
  tokenize_chunks(chunks, text);
  TokenPairs result;
  result.pairs.reserve(pairs.size());
  RowFindings findings;
  for (Chunk& chunk : chunks) {
    if (chunk.failure) {
      std::rethrow_exception(chunk.failure);
    }
    std::move(chunk.pairs.begin(), chunk.pairs.end(), std::back_inserter(result.pairs));
    std::move(chunk.skipped.begin(), chunk.skipped.end(), std::back_inserter(result.skipped));
    findings.append(chunk.findings);
    chunk.pairs = {};
  }
  RowCollector<TokenPair>(text.options.bad_rows, result.pairs, result.skipped).require_some("pair");
  result.warnings = findings.lines(text);
  return result;
}

Tokens tokenize_prompt(const std::vector<Message>& prompt, const TextTools& text,
                       const nlohmann::ordered_json& variables) {
  require_limit(text.options);
  Continuations tokens{text.tokenizer.encode(render(prompt, text, variables)), {}, ""};
  begin_prompt(tokens.prompt, text);
  return checked(std::move(tokens), text).prompt;
}

Continuations tokenize_answers(const std::vector<Message>& prompt,
                               const std::vector<std::string>& answers, AnswerEnd end,
                               const TextTools& text, const std::string& where) {
  const std::vector<Message> turns = with_system_prompt(prompt, text);
  const std::string rendered = text.chat_template.render_prompt(turns);
  std::vector<std::string> wholes;
  for (const std::string& answer : answers) {
    const std::string whole =
        text.chat_template.render_answered({turns, {Message{"assistant", answer}}});
    wholes.push_back(end == AnswerEnd::kOpen ? cut_open(whole, rendered, answer) : whole);
  }
  return join(rendered, wholes, answers, end, is_plain_form(text), text, where);
}

Continuations tokenize_plain_text(const std::string& prompt,
                                  const std::vector<std::string>& answers, const TextTools& text,
                                  const std::string& where) {
  std::vector<std::string> wholes;
  for (const std::string& answer : answers) {
    wholes.push_back(prompt + answer);
  }
  return join(prompt, wholes, answers, AnswerEnd::kOpen, /*is_plain=*/true, text, where);
}

Continuations continue_with_text(const std::vector<Message>& prompt, const std::string& answer,
                                 const TextTools& text, const std::string& where,
                                 const nlohmann::ordered_json& variables) {
  const std::string rendered = render(prompt, text, variables);
  return join(rendered, {rendered + answer}, {answer}, AnswerEnd::kOpen, is_plain_form(text), text,
              where);
}

Continuations continue_with_tokens(const std::vector<Message>& prompt, const Tokens& answer,
                                   const TextTools& text, const std::string& where,
                                   const nlohmann::ordered_json& variables) {
  require_answer_token(answer, "answer");
  return checked({tokenize_prompt(prompt, text, variables), {answer}, where}, text);
}

Tokens tokens_before_text(const TextTools& text) {
  return tokens_before(text, /*is_plain=*/true);
}

void require_known_ids(const Tokens& tokens, std::int64_t vocabulary) {
  for (const TokenId id : tokens) {
    if (id < 0 || id >= vocabulary) {
      throw UserError(
          fmt::format("token id {} is outside the model's vocabulary of {}; tokenizer and weights "
                      "are not of the same model",
                      id, vocabulary));
    }
  }
}

std::vector<TokenId> stop_tokens(const TextTools& text) {
  std::set<TokenId> stops(text.special.ends.begin(), text.special.ends.end());
  std::erase_if(stops, [&](TokenId id) { return id >= text.vocabulary; });
  if (text.special.eos) {
    stops.insert(*text.special.eos);
  }
  const Tokens end = text.tokenizer.encode(text.chat_template.end_of_answer());
  // A mere line break between turns does not end an answer.
  if (!end.empty() && text.tokenizer.is_special(end.front())) {
    stops.insert(end.front());
  }
  return {stops.begin(), stops.end()};
}

}  // namespace bipo
