// Finds the begin- and end-of-sequence tokens of a model directory.
#include <fmt/format.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "datasets/text/untrusted_json.hpp"
#include "datasets/tokenizer/tokenizer.hpp"

namespace bipo {
namespace {

// Returns the token named by its content: a string, or an object as written for added tokens.
std::optional<TokenId> named_token(const JsonNode& config, std::string_view key,
                                   const Tokenizer& tokenizer) {
  const std::optional<JsonNode> entry = config.find(key);
  if (!entry) {
    return std::nullopt;
  }
  const std::string content =
      entry->value().is_object() ? entry->require("content").as_string() : entry->as_string();
  const std::optional<TokenId> id = tokenizer.token_id(content);
  if (!id) {
    entry->fail(fmt::format(
        "\"{}\" is not a token of tokenizer.json; name one that is, or null for none", content));
  }
  return id;
}

// Returns the tokens given by their ids: one, or a list if several may end a text.
std::vector<TokenId> numbered_tokens(const JsonNode& config, std::string_view key) {
  const std::optional<JsonNode> entry = config.find(key);
  if (!entry) {
    return {};
  }
  std::vector<TokenId> ids;
  for (const JsonNode& node : entry->value().is_array() ? entry->elements() : std::vector{*entry}) {
    ids.push_back(node.as_token_id());
  }
  return ids;
}

// Returns the first of numbered_tokens().
std::optional<TokenId> numbered_token(const JsonNode& config, std::string_view key,
                                      const Tokenizer& tokenizer) {
  const std::vector<TokenId> ids = numbered_tokens(config, key);
  if (ids.empty()) {
    return std::nullopt;
  }
  if (ids.front() >= tokenizer.vocabulary_size()) {
    config.find(key)->fail(fmt::format("id {} is outside the vocabulary of {} tokens", ids.front(),
                                       tokenizer.vocabulary_size()));
  }
  return ids.front();
}

}  // namespace

SpecialTokens read_special_tokens(const std::filesystem::path& model_directory,
                                  const Tokenizer& tokenizer) {
  SpecialTokens special;
  const std::filesystem::path generation_config = model_directory / "generation_config.json";
  if (std::filesystem::exists(generation_config)) {
    special.ends = read_json_file(generation_config, [&](const JsonNode& config) {
      std::vector<TokenId> ends = numbered_tokens(config, "eos_token_id");
      std::erase_if(ends, [&](TokenId id) { return id >= tokenizer.vocabulary_size(); });
      return ends;
    });
  }
  const std::filesystem::path tokenizer_config = model_directory / "tokenizer_config.json";
  if (std::filesystem::exists(tokenizer_config)) {
    read_json_file(tokenizer_config, [&](const JsonNode& config) {
      special.bos = named_token(config, "bos_token", tokenizer);
      special.eos = named_token(config, "eos_token", tokenizer);
      return special;
    });
    return special;
  }
  for (const char* name : {"generation_config.json", "config.json"}) {
    const std::filesystem::path path = model_directory / name;
    if (!std::filesystem::exists(path)) {
      continue;
    }
    const auto [bos, eos] = read_json_file(path, [&](const JsonNode& config) {
      return std::pair{numbered_token(config, "bos_token_id", tokenizer),
                       numbered_token(config, "eos_token_id", tokenizer)};
    });
    special.bos = special.bos ? special.bos : bos;
    special.eos = special.eos ? special.eos : eos;
  }
  return special;
}

}  // namespace bipo
