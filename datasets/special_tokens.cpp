// Finds the begin- and end-of-sequence tokens of a model directory.
#include <fmt/format.h>

#include <optional>
#include <string>

#include "collectives/errors.hpp"
#include "datasets/json_file.hpp"
#include "datasets/json_node.hpp"
#include "datasets/tokenizer.hpp"

namespace bipo {
namespace {

// Runs `read` on the file's content, so that every complaint begins with the file's name.
template <typename Read>
auto read_config(const std::filesystem::path& path, Read read) {
  const nlohmann::json document = read_json_file(path);
  try {
    return read(JsonNode(document, ""));
  } catch (const UserError& error) {
    throw UserError(fmt::format("{}: {}", path.string(), error.what()));
  }
}

// A token named by its content: a string, or an object as written for added tokens.
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

// A token given by its id or, where several may end a text, by a list of ids.
std::optional<TokenId> numbered_token(const JsonNode& config, std::string_view key,
                                      const Tokenizer& tokenizer) {
  std::optional<JsonNode> entry = config.find(key);
  if (entry && entry->value().is_array()) {
    const std::vector<JsonNode> ids = entry->elements();
    entry = ids.empty() ? std::nullopt : std::optional(ids.front());
  }
  if (!entry) {
    return std::nullopt;
  }
  const TokenId id = entry->as_token_id();
  if (id >= tokenizer.vocabulary_size()) {
    entry->fail(fmt::format("id {} is outside the vocabulary of {} tokens", id,
                            tokenizer.vocabulary_size()));
  }
  return id;
}

}  // namespace

SpecialTokens read_special_tokens(const std::filesystem::path& model_directory,
                                  const Tokenizer& tokenizer) {
  const std::filesystem::path tokenizer_config = model_directory / "tokenizer_config.json";
  if (std::filesystem::exists(tokenizer_config)) {
    return read_config(tokenizer_config, [&](const JsonNode& config) {
      return SpecialTokens{named_token(config, "bos_token", tokenizer),
                           named_token(config, "eos_token", tokenizer)};
    });
  }
  SpecialTokens special;
  for (const char* name : {"generation_config.json", "config.json"}) {
    const std::filesystem::path path = model_directory / name;
    if (!std::filesystem::exists(path)) {
      continue;
    }
    const SpecialTokens found = read_config(path, [&](const JsonNode& config) {
      return SpecialTokens{numbered_token(config, "bos_token_id", tokenizer),
                           numbered_token(config, "eos_token_id", tokenizer)};
    });
    special.bos = special.bos ? special.bos : found.bos;
    special.eos = special.eos ? special.eos : found.eos;
  }
  return special;
}

}  // namespace bipo
