// The command `data`: prints what the pairs of a file are to a model.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "datasets/template/chat_template.hpp"
#include "datasets/tokenizer/tokenizer.hpp"
#include "datasets/tokens/pair_text.hpp"
#include "datasets/tokens/pair_tokenizer.hpp"
#include "experiments/files/process_identity.hpp"
#include "experiments/job/text_options.hpp"
#include "experiments/settings/template_dates.hpp"
#include "launcher/commands/commands.hpp"
#include "launcher/light/json_output.hpp"
#include "trainer/model/model_files.hpp"

namespace bipo {
namespace {

using Json = nlohmann::ordered_json;
using Tokens = std::vector<TokenId>;

// All that is printed.
struct Shown {
  const ShowDataOptions& options;
  const TextTools& text;
  std::string template_name;
  std::string template_place;
  std::int64_t max_length = 0;
  std::vector<TokenPair> pairs;
  std::string understood;
  std::vector<std::string> notes;  // warnings, rows left out

  const TokenPair& longest() const {
    return *std::max_element(
        pairs.begin(), pairs.end(),
        [](const TokenPair& a, const TokenPair& b) { return length_of(a) < length_of(b); });
  }

  std::int64_t too_long() const {
    return std::count_if(pairs.begin(), pairs.end(),
                         [&](const TokenPair& pair) { return length_of(pair) > max_length; });
  }

  std::int64_t masked() const {
    return std::count_if(pairs.begin(), pairs.end(), [](const TokenPair& pair) {
      return !pair.chosen_scored.empty() || !pair.rejected_scored.empty();
    });
  }

  bool begins_with_bos() const {
    return text.special.bos && pairs.front().prompt.front() == *text.special.bos;
  }

  bool ends_with_eos() const {
    return text.special.eos && pairs.front().chosen.back() == *text.special.eos;
  }
};

// Where the template comes from.
std::string place_of(const ShowDataOptions& options, const std::string& own) {
  if (options.chat_template == "auto") {
    return own;
  }
  const std::vector<std::string> names = ChatTemplate::names();
  const bool is_named = std::find(names.begin(), names.end(), options.chat_template) != names.end();
  return is_named ? "--chat-template" : options.chat_template;
}

std::string token_row(const char* name, bool there, const std::optional<TokenId>& id,
                      const char* place, const TokenText& tokens) {
  return there ? fmt::format("{}: {} {}, {}\n", name, tokens.quoted({*id}), *id, place)
               : fmt::format("{}: none\n", name);
}

std::string part_text(const char* name, const Tokens& tokens, const ScoredTokens& scored,
                      const TokenText& text) {
  const std::int64_t counted = scored_count(scored, tokens.size());
  const std::string of_scored =
      scored.empty() ? "" : fmt::format(", of which {} are scored, those in [[ ]] not", counted);
  return fmt::format("--- {} ({} tokens{})\n{}\n", name, tokens.size(), of_scored,
                     text.marked(tokens, scored));
}

std::string text_of(const Shown& shown) {
  const TokenText tokens(shown.text.tokenizer);
  const TokenPair& first = shown.pairs.front();
  std::string out =
      fmt::format("{}\npairs for this model: {}\n", shown.understood, shown.pairs.size());
  out += fmt::format("model: {}\n", shown.options.model.string());
  out += fmt::format("chat template: {}, from {}\n", shown.template_name, shown.template_place);
  out += token_row("BOS", shown.begins_with_bos(), shown.text.special.bos, "before the prompt",
                   tokens);
  out +=
      token_row("EOS", shown.ends_with_eos(), shown.text.special.eos, "after each answer", tokens);
  out += fmt::format("\n{:<26}{:>8}{:>9}{:>8}\n", "tokens", "least", "median", "most");
  for (const auto& [name, lengths] : part_lengths(shown.pairs)) {
    out +=
        fmt::format("{:<26}{:>8}{:>9}{:>8}\n", name, lengths.least, lengths.median, lengths.most);
  }
  out += fmt::format("longest: {}; longer than the limit of {}: {} pairs\n", shown.longest().where,
                     shown.max_length, shown.too_long());
  if (shown.masked() > 0) {
    out += fmt::format("answers with turns that are not scored (--train-turns): {} pairs\n",
                       shown.masked());
  }
  for (const std::string& note : shown.notes) {
    out += fmt::format("note: {}\n", note);
  }
  out += fmt::format("\nfirst pair, {}\n", first.where);
  out += part_text("prompt", first.prompt, {}, tokens);
  out += part_text("chosen", first.chosen, first.chosen_scored, tokens);
  out += part_text("rejected", first.rejected, first.rejected_scored, tokens);
  out += fmt::format("--- first tokens\nchosen:   {}\nrejected: {}\n", tokens.first(first.chosen),
                     tokens.first(first.rejected));
  return out;
}

Json part_json(const Tokens& tokens, const ScoredTokens& scored, const TokenText& text) {
  Json json = {{"text", text.whole(tokens)}, {"ids", tokens}};
  if (!scored.empty()) {
    json["scored"] = std::vector<bool>(scored);
  }
  return json;
}

Json json_of(const Shown& shown) {
  const TokenText tokens(shown.text.tokenizer);
  const auto id = [](bool there, const std::optional<TokenId>& token) {
    return there ? Json(*token) : Json();
  };
  Json json;
  json["file"] = shown.options.file.string();
  json["understood"] = shown.understood;
  json["pairs"] = shown.pairs.size();
  json["model"] = shown.options.model.string();
  json["chat_template"] = {{"name", shown.template_name}, {"from", shown.template_place}};
  json["bos"] = id(shown.begins_with_bos(), shown.text.special.bos);
  json["eos"] = id(shown.ends_with_eos(), shown.text.special.eos);
  for (const auto& [name, lengths] : part_lengths(shown.pairs)) {
    json["tokens"][name] = {
        {"least", lengths.least}, {"median", lengths.median}, {"most", lengths.most}};
  }
  json["longest"] = shown.longest().where;
  json["max_length"] = shown.max_length;
  json["longer_than_max_length"] = shown.too_long();
  json["with_unscored_turns"] = shown.masked();
  json["notes"] = shown.notes;
  const TokenPair& first = shown.pairs.front();
  json["first_pair"] = {{"where", first.where},
                        {"prompt", part_json(first.prompt, {}, tokens)},
                        {"chosen", part_json(first.chosen, first.chosen_scored, tokens)},
                        {"rejected", part_json(first.rejected, first.rejected_scored, tokens)}};
  return json;
}

}  // namespace

int run_data_command(const ShowDataOptions& given) {
  ShowDataOptions options = given;
  options.template_date = choose_template_date(given.template_date, std::nullopt, utc_text());
  const ModelConfig config = read_config(options.model);
  TokenizeOptions tokenize = tokenize_options(options, config.context);
  const std::int64_t max_length =
      std::exchange(tokenize.max_length, std::numeric_limits<std::int64_t>::max());
  tokenize.bad_rows = BadRows::kSkip;
  tokenize.threads = std::thread::hardware_concurrency();
  ModelText model = read_text(options.model);
  const std::string place = place_of(options, model.chat_template.where);
  const PairTokenizer tokenizer(std::move(model), template_settings(options), config.vocabulary,
                                tokenize);
  RowOptions rows = row_options(options, options.max_pairs);
  rows.bad_rows = BadRows::kSkip;
  TokenizedFile file = tokenizer.read(options.file, rows);
  std::vector<std::string> notes = tokenizer.warnings();
  notes.insert(notes.end(), file.warnings.begin(), file.warnings.end());
  const TextTools text = tokenizer.text();
  const Shown shown{options,
                    text,
                    tokenizer.template_name(),
                    place,
                    max_length,
                    std::move(file.pairs),
                    file.understood,
                    std::move(notes)};
  if (options.json) {
    print_json(json_of(shown));
  } else {
    fmt::print("{}", text_of(shown));
  }
  return kExitDone;
}

}  // namespace bipo
