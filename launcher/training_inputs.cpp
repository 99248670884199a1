#include "launcher/training_inputs.hpp"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

#include "collectives/content_hash.hpp"
#include "collectives/errors.hpp"
#include "datasets/chat_template.hpp"
#include "datasets/preference_pairs.hpp"
#include "datasets/tokenizer.hpp"

namespace bipo {
namespace {

constexpr std::size_t kShownWarnings = 5;

void add_warnings(std::vector<std::string>& warnings, const std::vector<std::string>& skipped) {
  for (std::size_t i = 0; i < skipped.size() && i < kShownWarnings; ++i) {
    warnings.push_back(fmt::format("left out: {}", skipped[i]));
  }
  if (skipped.size() > kShownWarnings) {
    warnings.push_back(fmt::format("left out: {} rows more", skipped.size() - kShownWarnings));
  }
}

void check_ids(const std::vector<TokenPair>& pairs, std::int64_t vocabulary) {
  for (const TokenPair& pair : pairs) {
    for (const auto* part : {&pair.prompt, &pair.chosen, &pair.rejected}) {
      for (const TokenId id : *part) {
        if (id < 0 || id >= vocabulary) {
          throw UserError(fmt::format(
              "{}: token id {} is outside the model's vocabulary of {}; tokenizer.json and "
              "config.json do not belong together",
              pair.where, id, vocabulary));
        }
      }
    }
  }
}

void add_file(ContentHash& hash, const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  hash.add(content);
}

std::uint64_t hash_of(const std::vector<TokenPair>& pairs) {
  ContentHash hash;
  hash.add(std::uint64_t{pairs.size()});
  for (const TokenPair& pair : pairs) {
    for (const auto* part : {&pair.prompt, &pair.chosen, &pair.rejected}) {
      hash.add(std::uint64_t{part->size()});
      hash.add_bytes(part->data(), part->size() * sizeof(TokenId));
    }
  }
  return hash.value();
}

}  // namespace

TrainingInputs read_training_inputs(const TrainingOptions& options) {
  TrainingInputs inputs;
  std::error_code unreachable;
  if (!std::filesystem::is_directory(options.model, unreachable)) {
    throw UserError(fmt::format(
        "--model {}: no such directory; it takes a Hugging Face model directory (config.json, "
        "tokenizer.json, *.safetensors)",
        options.model.string()));
  }
  inputs.config = read_model_config(options.model);
  if (options.max_length > inputs.config.context) {
    throw UserError(fmt::format("--max-length {}: the model's context is {} tokens",
                                options.max_length, inputs.config.context));
  }
  inputs.max_length = options.max_length == 0 ? inputs.config.context : options.max_length;
  inputs.weights = open_safetensors(options.model, inputs.config);
  ContentHash model_hash;
  model_hash.add(inputs.weights->fingerprint());
  add_file(model_hash, options.model / "config.json");
  inputs.model_fingerprint = model_hash.value();

  const Tokenizer tokenizer = Tokenizer::from_file(options.model / "tokenizer.json");
  const SpecialTokens special = read_special_tokens(options.model, tokenizer);
  const ChatTemplate chat_template =
      ChatTemplate::from_model_directory(options.model, options.chat_template);
  inputs.chat_template = chat_template.name();
  if (options.system_prompt.empty()) {
    inputs.implied_system_text = chat_template.implied_system_text();
  } else if (!chat_template.takes_system_turn()) {
    inputs.warnings.push_back(
        fmt::format("the chat template ({}) takes no system turn: the system prompt stands before "
                    "the first user turn",
                    inputs.chat_template));
  }

  const BadRows bad_rows = options.skip_bad ? BadRows::kSkip : BadRows::kRefuse;
  const TokenizeOptions tokenize{options.system_prompt, !options.no_bos, !options.no_eos,
                                 inputs.max_length, bad_rows};
  const auto read = [&](const std::filesystem::path& path) {
    const PairFile file = read_preference_pairs(path, bad_rows);
    add_warnings(inputs.warnings, file.skipped);
    TokenPairs tokens = tokenize_pairs(file.pairs, chat_template, tokenizer, special, tokenize);
    add_warnings(inputs.warnings, tokens.skipped);
    check_ids(tokens.pairs, inputs.config.vocabulary);
    return std::move(tokens.pairs);
  };
  inputs.train = read(options.train);
  if (!options.test.empty()) {
    inputs.test = read(options.test);
  }
  inputs.train_hash = hash_of(inputs.train);
  inputs.test_hash = hash_of(inputs.test);
  return inputs;
}

}  // namespace bipo
