// Reads files of generations, and tokenises the answers for a model to score.
#include "experiments/evaluation/generations_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <type_traits>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/data_text.hpp"
#include "datasets/text/json_lines.hpp"
#include "datasets/tokenizer/tokenizer.hpp"
#include "datasets/tokens/tokenization.hpp"

namespace bipo {
namespace {

using OrderedJson = nlohmann::ordered_json;

const OrderedJson* find(const OrderedJson& row, const char* key) {
  const auto found = row.find(key);
  return found == row.end() || found->is_null() ? nullptr : &*found;
}

const OrderedJson& require(const OrderedJson& row, const char* key, const std::string& where) {
  const OrderedJson* value = find(row, key);
  if (value == nullptr) {
    throw UserError(fmt::format(
        "{}: the key '{}' is missing; a generation has prompt_index, prompt, multiplier and text",
        where, key));
  }
  return *value;
}

[[noreturn]] void refuse(const std::string& where, const char* key, const char* rule,
                         const OrderedJson& value) {
  throw UserError(fmt::format("{}: '{}' must be {}, not {}", where, key, rule,
                              value.is_structured() ? value.type_name() : value.dump()));
}

std::int64_t read_prompt_index(const OrderedJson& row, const std::string& where) {
  const OrderedJson& value = require(row, "prompt_index", where);
  if (!value.is_number_integer() || value < 0 || value > std::int64_t{1} << 53) {
    refuse(where, "prompt_index", "an integer from 0", value);
  }
  return value.get<std::int64_t>();
}

template <typename T>
T read_value(const OrderedJson& value, const char* key, const std::string& where) {
  constexpr bool kIsNumber = std::is_same_v<T, double>;
  if (kIsNumber ? !value.is_number() : !value.is_string()) {
    refuse(where, key, kIsNumber ? "a number" : "a string", value);
  }
  return value.get<T>();
}

std::vector<Message> read_prompt(const OrderedJson& row, const std::string& where) {
  const OrderedJson& value = require(row, "prompt", where);
  if (!value.is_string() && !value.is_array()) {
    refuse(where, "prompt", "a string or an array of messages", value);
  }
  std::vector<Message> prompt = prompt_from_json(value, "prompt", where);
  require_user_turn_last(prompt, "prompt", where);
  return prompt;
}

std::vector<TokenId> read_tokens(const OrderedJson& value, const std::string& where) {
  if (!value.is_array()) {
    refuse(where, "tokens", "an array of token ids", value);
  }
  std::vector<TokenId> tokens;
  for (const OrderedJson& id : value) {
    if (!id.is_number_integer() || id < 0 || id >= std::int64_t{1} << 31) {
      refuse(where, "tokens", "an array of token ids", id);
    }
    tokens.push_back(id.get<TokenId>());
  }
  return tokens;
}

Generation generation_from_json(const OrderedJson& row, const std::string& where) {
  Generation generation;
  generation.where = where;
  generation.prompt_index = read_prompt_index(row, where);
  generation.prompt = read_prompt(row, where);
  generation.multiplier =
      read_value<double>(require(row, "multiplier", where), "multiplier", where);
  generation.text = read_value<std::string>(require(row, "text", where), "text", where);
  if (const OrderedJson* variables = find(row, "template_variables")) {
    if (!variables->is_object()) {
      refuse(where, "template_variables", "an object", *variables);
    }
    generation.template_variables = *variables;
  }
  if (const OrderedJson* tokens = find(row, "tokens")) {
    generation.tokens = read_tokens(*tokens, where);
  }
  if (const OrderedJson* mean_logprob = find(row, "mean_logprob")) {
    generation.mean_logprob = read_value<double>(*mean_logprob, "mean_logprob", where);
  }
  if (const OrderedJson* reason = find(row, "finish_reason")) {
    generation.finish_reason = read_value<std::string>(*reason, "finish_reason", where);
    if (generation.finish_reason != "stop" && generation.finish_reason != "length") {
      refuse(where, "finish_reason", "\"stop\" or \"length\"", *reason);
    }
  }
  return generation;
}

bool same_prompt(const std::vector<Message>& a, const std::vector<Message>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Message& x, const Message& y) {
    return x.role == y.role && x.content == y.content;
  });
}

// Finds repeated answers, and different prompts with one index.
class PromptCheck {
 public:
  // `generation` must outlive the check.
  void add(const Generation& generation) {
    const auto [first, is_new] = first_.try_emplace(generation.prompt_index, &generation);
    if (!is_new && !same_prompt(first->second->prompt, generation.prompt)) {
      throw UserError(
          fmt::format("{}: prompt_index {} had another prompt at {}; number the prompts from 0",
                      generation.where, generation.prompt_index, first->second->where));
    }
    const auto key = std::make_pair(generation.prompt_index, generation.multiplier);
    if (const auto seen = answers_.find(key); seen != answers_.end()) {
      throw UserError(fmt::format(
          "{}: a second answer to prompt_index {} at multiplier {}; the first is at {}",
          generation.where, generation.prompt_index, generation.multiplier, seen->second));
    }
    answers_[key] = generation.where;
  }

 private:
  std::map<std::int64_t, const Generation*> first_;
  std::map<std::pair<std::int64_t, double>, std::string> answers_;
};

// Returns the row's own tokens without the stop tokens at their end; nothing where this tokenizer
// does not decode them to the row's text.
std::optional<std::vector<TokenId>> tokens_of_text(const Generation& row,
                                                   const std::vector<TokenId>& stops,
                                                   const Tokenizer& tokenizer) {
  if (!row.tokens) {
    return std::nullopt;
  }
  const auto is_stop = [&](TokenId id) {
    return std::find(stops.begin(), stops.end(), id) != stops.end();
  };
  std::vector<TokenId> tokens = *row.tokens;
  while (!tokens.empty() && is_stop(tokens.back())) {
    tokens.pop_back();
  }
  const bool are_text = std::none_of(tokens.begin(), tokens.end(), is_stop) &&
                        tokenizer.decode(tokens, SpecialTokenText::kSkipped) == row.text;
  return are_text ? std::optional(std::move(tokens)) : std::nullopt;
}

}  // namespace

std::vector<Generation> read_generations(const std::filesystem::path& path) {
  const std::string text = read_data_text(path);
  std::vector<Generation> generations;
  for_each_line(text, path.string(), [&](std::string_view line, const std::string& where) {
    generations.push_back(generation_from_json(parse_json_row(line, where), where));
  });
  PromptCheck check;
  for (const Generation& generation : generations) {
    check.add(generation);
  }
  return generations;
}

GenerationTokens tokenize_generations(const std::vector<Generation>& generations,
                                      const TextTools& text) {
  const std::vector<TokenId> stops = stop_tokens(text);
  GenerationTokens result;
  for (std::size_t i = 0; i < generations.size(); ++i) {
    const Generation& row = generations[i];
    if (row.text.empty()) {
      result.skipped.push_back(fmt::format("{}: the answer is empty", row.where));
      continue;
    }
    try {
      const auto tokens = tokens_of_text(row, stops, text.tokenizer);
      result.items.push_back(
          tokens
              ? continue_with_tokens(row.prompt, *tokens, text, row.where, row.template_variables)
              : continue_with_text(row.prompt, row.text, text, row.where, row.template_variables));
      result.rows.push_back(i);
    } catch (const UserError& error) {
      const std::string message = fmt::format("{}: {}", row.where, error.what());
      if (text.options.bad_rows == BadRows::kRefuse) {
        throw UserError(message);
      }
      result.skipped.push_back(message);
    }
  }
  if (result.items.empty()) {
    throw UserError(fmt::format(
        "the generations have no answer with text{}",
        result.skipped.empty() ? std::string() : "; the first reason: " + result.skipped.front()));
  }
  return result;
}

}  // namespace bipo
