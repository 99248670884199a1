// Makes a tokenizer of the vocabulary in a GGUF file's metadata.
#include "datasets/tokenizer/gguf_tokenizer.hpp"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/unicode_text.hpp"
#include "datasets/tokenizer/gguf_pre_tokenizers.hpp"
#include "datasets/tokenizer/sentencepiece_merges.hpp"

namespace bipo {
namespace {

constexpr std::string_view kSpaceStandIn = "\u2581";

// Far above any model's; it bounds the work that a hostile file can ask for.
constexpr std::size_t kLongestToken = 8192;

// enum llama_token_type in llama.h
enum TokenType : std::int64_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

[[noreturn]] void fail(std::string_view key, std::string_view rule) {
  throw UserError(fmt::format("tokenizer.ggml.{}: {}", key, rule));
}

void require_one_per_token(std::string_view key, std::size_t count, std::size_t tokens) {
  if (count != tokens) {
    fail(key, fmt::format("has {} elements for {} tokens; convert the model again", count, tokens));
  }
}

void require_readable(std::string_view key, std::size_t index, const std::string& text) {
  if (text.size() > kLongestToken) {
    fail(key, fmt::format("element {} has {} bytes; at most {} are allowed", index, text.size(),
                          kLongestToken));
  }
  if (!is_utf8(text)) {
    fail(key, fmt::format("element {} is not valid UTF-8; convert the model again", index));
  }
}

Vocabulary ids_of(const std::vector<std::string>& tokens) {
  if (tokens.empty() || tokens.size() > std::numeric_limits<TokenId>::max() - 1) {
    fail("tokens", fmt::format("must hold from 1 to 2^31 - 2 tokens, not {}", tokens.size()));
  }
  Vocabulary vocabulary;
  vocabulary.reserve(tokens.size());
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    require_readable("tokens", id, tokens[id]);
    const auto [other, is_new] = vocabulary.emplace(tokens[id], static_cast<TokenId>(id));
    if (!is_new) {
      fail("tokens", fmt::format("ids {} and {} are both \"{}\"", other->second, id, tokens[id]));
    }
  }
  return vocabulary;
}

std::pair<std::string, std::string> parse_merge(std::size_t index, const std::string& line) {
  require_readable("merges", index, line);
  const std::size_t space = line.find(' ');
  if (space == std::string::npos || line.find(' ', space + 1) != std::string::npos) {
    fail("merges", fmt::format("\"{}\" must name two tokens with one space between", line));
  }
  return {line.substr(0, space), line.substr(space + 1)};
}

std::vector<std::pair<std::string, std::string>> parse_merges(
    const std::vector<std::string>& lines) {
  if (lines.empty()) {
    fail("merges", "is missing or empty, and byte-level BPE needs it; convert the model again");
  }
  std::vector<std::pair<std::string, std::string>> merges;
  merges.reserve(lines.size());
  for (std::size_t index = 0; index < lines.size(); ++index) {
    merges.push_back(parse_merge(index, lines[index]));
  }
  return merges;
}

bool is_added(std::int64_t type) {
  return type == kUnknown || type == kControl || type == kUserDefined;
}

std::vector<AddedToken> added_tokens(const GgufVocabulary& vocabulary) {
  if (vocabulary.token_type.empty()) {
    return {};
  }
  require_one_per_token("token_type", vocabulary.token_type.size(), vocabulary.tokens.size());
  std::vector<AddedToken> added;
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::int64_t type = vocabulary.token_type[id];
    if (type < kNormal || type > kByte) {
      fail("token_type", fmt::format("{} of token {} is no type from 1 to 6", type, id));
    }
    if (!is_added(type)) {
      continue;
    }
    if (vocabulary.tokens[id].empty()) {
      fail("tokens", fmt::format("token {} is a special one without text", id));
    }
    AddedToken token;
    token.id = static_cast<TokenId>(id);
    token.content = vocabulary.tokens[id];
    token.special = type != kUserDefined;
    added.push_back(std::move(token));
  }
  return added;
}

std::optional<std::string> unknown_token(const GgufVocabulary& vocabulary) {
  if (const std::optional<std::int64_t> id = vocabulary.unknown_token_id) {
    if (*id < 0 || static_cast<std::uint64_t>(*id) >= vocabulary.tokens.size()) {
      fail("unknown_token_id",
           fmt::format("{} is outside the vocabulary of {} tokens", *id, vocabulary.tokens.size()));
    }
    return vocabulary.tokens[static_cast<std::size_t>(*id)];
  }
  for (std::size_t id = 0; id < vocabulary.token_type.size(); ++id) {
    if (vocabulary.token_type[id] == kUnknown) {
      return vocabulary.tokens[id];
    }
  }
  return std::nullopt;
}

TextDecoder byte_level_decoder() {
  std::vector<DecoderStep> steps;
  steps.emplace_back(ByteLevelDecoding{});
  return TextDecoder(std::move(steps));
}

TokenizerParts byte_level_parts(const GgufVocabulary& vocabulary) {
  if (vocabulary.add_space_prefix.value_or(false)) {
    fail("add_space_prefix", "true is not implemented for the model \"gpt2\"");
  }
  NamedPreTokenizer named = gguf_pre_tokenizer(vocabulary.pre);
  BpeSettings settings;
  settings.vocabulary = ids_of(vocabulary.tokens);
  settings.merges = parse_merges(vocabulary.merges);
  settings.ignore_merges = named.ignore_merges;
  std::vector<AddedToken> added = added_tokens(vocabulary);
  return {BpeModel(std::move(settings)), Normalizer(std::move(named.normalizer)),
          PreTokenizer(std::move(named.steps)), byte_level_decoder(), std::move(added)};
}

void require_scores(const GgufVocabulary& vocabulary) {
  require_one_per_token("scores", vocabulary.scores.size(), vocabulary.tokens.size());
  for (std::size_t id = 0; id < vocabulary.scores.size(); ++id) {
    if (std::isnan(vocabulary.scores[id])) {
      fail("scores", fmt::format("the score of token {} is not a number", id));
    }
  }
}

Normalizer sentencepiece_normalizer(bool add_space_prefix) {
  std::vector<NormalizerStep> steps;
  if (add_space_prefix) {
    steps.emplace_back(PrependStep{std::string(kSpaceStandIn)});
  }
  steps.emplace_back(ReplaceStep{Regex::literal(" "), std::string(kSpaceStandIn)});
  return Normalizer(std::move(steps));
}

TextDecoder sentencepiece_decoder(bool add_space_prefix) {
  std::vector<DecoderStep> steps;
  steps.emplace_back(ReplaceStep{Regex::literal(kSpaceStandIn), " "});
  steps.emplace_back(ByteFallbackDecoding{});
  steps.emplace_back(FuseDecoding{});
  if (add_space_prefix) {
    steps.emplace_back(StripDecoding{.content = " ", .start = 1, .stop = 0});
  }
  return TextDecoder(std::move(steps));
}

TokenizerParts sentencepiece_parts(const GgufVocabulary& vocabulary) {
  const bool add_space_prefix = vocabulary.add_space_prefix.value_or(true);
  BpeSettings settings;
  settings.vocabulary = ids_of(vocabulary.tokens);
  require_scores(vocabulary);
  settings.merges = sentencepiece_merges(vocabulary.tokens, vocabulary.scores, settings.vocabulary);
  std::vector<AddedToken> added = added_tokens(vocabulary);
  settings.unknown_token = unknown_token(vocabulary);
  settings.fuse_unknown = true;
  settings.byte_fallback = true;
  return {BpeModel(std::move(settings)), sentencepiece_normalizer(add_space_prefix),
          PreTokenizer({}), sentencepiece_decoder(add_space_prefix), std::move(added)};
}

}  // namespace

TokenizerParts gguf_tokenizer_parts(const GgufVocabulary& vocabulary) {
  if (vocabulary.model == "gpt2") {
    return byte_level_parts(vocabulary);
  }
  if (vocabulary.model == "llama") {
    return sentencepiece_parts(vocabulary);
  }
  fail("model", fmt::format("\"{}\" is not implemented (only: gpt2, llama); use the model's "
                            "Hugging Face directory with its tokenizer.json",
                            vocabulary.model));
}

}  // namespace bipo
