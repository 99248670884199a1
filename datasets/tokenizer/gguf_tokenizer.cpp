// Makes a tokenizer of the vocabulary in a GGUF file's metadata.
#include "datasets/tokenizer/gguf_tokenizer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <unordered_set>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/unicode_text.hpp"
#include "datasets/tokenizer/tokenizer_parts.hpp"

namespace bipo {
namespace {

constexpr std::string_view kSpaceReplacement = "\u2581";

constexpr std::string_view kGemma4 = "gemma4";

// Far above any model's; it bounds the work that a hostile file can cause.
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

MergePair parse_merge(std::size_t index, const std::string& line) {
  require_readable("merges", index, line);
  const std::optional<MergePair> merge = split_merge(line);
  if (!merge) {
    fail("merges", fmt::format("\"{}\" must name two tokens with one space between", line));
  }
  return *merge;
}

std::vector<MergePair> parse_merges(const std::vector<std::string>& lines) {
  if (lines.empty()) {
    fail("merges", "is missing or empty, and BPE needs it; convert the model again");
  }
  std::vector<MergePair> merges;
  merges.reserve(lines.size());
  for (std::size_t index = 0; index < lines.size(); ++index) {
    merges.push_back(parse_merge(index, lines[index]));
  }
  return merges;
}

// The exceptions among Phi-3's special tokens.
bool keeps_space_after(std::string_view token) {
  return token == "<unk>" || token == "<s>" || token == "<|endoftext|>";
}

// The texts by which llama.cpp (llama-vocab.cpp) knows the tokens that end a generation.
bool ends_generation(std::string_view token) {
  static const std::unordered_set<std::string_view> kEnds = {
      "<|eot_id|>",
      "<|im_end|>",
      "<|end|>",
      "<|return|>",
      "<|call|>",
      "<|flush|>",
      "<|calls|>",
      "<end_of_turn>",
      "<|endoftext|>",
      "</s>",
      "<|eom_id|>",
      "<EOT>",
      "_<EOT>",
      "[EOT]",
      "[EOS]",
      "<|end_of_text|>",
      "<end_of_utterance>",
      "<eos>",
      "<turn|>",
      "<|tool_response>",
      "<\uff5cend\u2581of\u2581sentence\uff5c>",
      "[e~["};
  return kEnds.contains(token);
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
    // Some converters took an end token for a normal one; llama.cpp corrects it, too.
    const bool is_mistaken = type == kNormal && ends_generation(vocabulary.tokens[id]);
    if (type != kUnknown && type != kControl && type != kUserDefined && !is_mistaken) {
      continue;
    }
    if (vocabulary.tokens[id].empty()) {
      fail("tokens", fmt::format("token {} is a special one without text", id));
    }
    AddedToken token;
    token.id = static_cast<TokenId>(id);
    token.content = vocabulary.tokens[id];
    token.special = type != kUserDefined;
    token.rstrip = vocabulary.special_tokens_strip_right && !keeps_space_after(token.content);
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

// Makes a list of parts that cannot be copied.
template <typename Step, typename... Steps>
std::vector<Step> list_of(Steps... steps) {
  std::vector<Step> list;
  (list.emplace_back(std::move(steps)), ...);
  return list;
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
          PreTokenizer(std::move(named.steps)),
          TextDecoder(list_of<DecoderStep>(ByteLevelDecoding{})), std::move(added)};
}

struct ScoredMerge {
  std::string_view left;
  std::string_view right;
  float score = 0;
  std::size_t left_characters = 0;
  std::size_t right_characters = 0;
  TokenId left_id = 0;
  TokenId right_id = 0;
};

std::size_t count_characters(std::string_view text) {
  std::size_t count = 0;
  for (; !text.empty(); text.remove_prefix(first_character(text).size())) {
    ++count;
  }
  return count;
}

// Returns the cuts of `token` into two others, sorted by their ids.
std::vector<ScoredMerge> merges_into(std::string_view token, float score,
                                     const Vocabulary& vocabulary) {
  std::vector<ScoredMerge> merges;
  const std::size_t characters = count_characters(token);
  std::size_t cut = 0;
  for (std::size_t left = 1; left < characters; ++left) {
    cut += first_character(token.substr(cut)).size();
    const auto first = vocabulary.find(token.substr(0, cut));
    const auto second = vocabulary.find(token.substr(cut));
    if (first != vocabulary.end() && second != vocabulary.end()) {
      merges.push_back({first->first, second->first, score, left, characters - left, first->second,
                        second->second});
    }
  }
  std::sort(merges.begin(), merges.end(), [](const ScoredMerge& a, const ScoredMerge& b) {
    return std::tie(a.left_id, a.right_id) < std::tie(b.left_id, b.right_id);
  });
  return merges;
}

// Lists every way to make a token of two others, the highest score of the token first; among equal
// ones in the order of transformers' generate_merges, which wrote the tokenizer.json of such
// models.
std::vector<MergePair> sentencepiece_merges(const std::vector<std::string>& tokens,
                                            const std::vector<float>& scores,
                                            const Vocabulary& vocabulary) {
  std::vector<ScoredMerge> merges;
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    const std::vector<ScoredMerge> more = merges_into(tokens[id], scores[id], vocabulary);
    merges.insert(merges.end(), more.begin(), more.end());
  }
  std::stable_sort(merges.begin(), merges.end(), [](const ScoredMerge& a, const ScoredMerge& b) {
    return std::tie(a.score, a.left_characters, a.right_characters) >
           std::tie(b.score, b.left_characters, b.right_characters);
  });
  std::vector<MergePair> pairs;
  pairs.reserve(merges.size());
  for (const ScoredMerge& merge : merges) {
    pairs.emplace_back(merge.left, merge.right);
  }
  return pairs;
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
    steps.emplace_back(PrependStep{std::string(kSpaceReplacement)});
  }
  steps.emplace_back(ReplaceStep{Regex::literal(" "), std::string(kSpaceReplacement)});
  return Normalizer(std::move(steps));
}

TextDecoder sentencepiece_decoder(bool add_space_prefix) {
  std::vector<DecoderStep> steps = list_of<DecoderStep>(
      ReplaceStep{Regex::literal(kSpaceReplacement), " "}, ByteFallbackDecoding{}, FuseDecoding{});
  if (add_space_prefix) {
    steps.emplace_back(StripDecoding{.content = " ", .start = 1, .stop = 0});
  }
  return TextDecoder(std::move(steps));
}

// Gemma 4's files hold the merges that others' scores imply.
TokenizerParts sentencepiece_parts(const GgufVocabulary& vocabulary) {
  const bool has_merges = vocabulary.model == kGemma4;
  const bool add_space_prefix = vocabulary.add_space_prefix.value_or(!has_merges);
  BpeSettings settings;
  settings.vocabulary = ids_of(vocabulary.tokens);
  if (has_merges) {
    settings.merges = parse_merges(vocabulary.merges);
  } else {
    require_scores(vocabulary);
    settings.merges =
        sentencepiece_merges(vocabulary.tokens, vocabulary.scores, settings.vocabulary);
  }
  std::vector<AddedToken> added = added_tokens(vocabulary);
  settings.unknown_token = unknown_token(vocabulary);
  settings.fuse_unknown = true;
  settings.byte_fallback = true;
  return {BpeModel(std::move(settings)), sentencepiece_normalizer(add_space_prefix),
          PreTokenizer({}), sentencepiece_decoder(add_space_prefix), std::move(added)};
}

}  // namespace

bool gguf_begins_with_bos(const GgufVocabulary& vocabulary) {
  constexpr std::array kNames = std::to_array<std::string_view>(
      {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
       "jina-v5-nano", "tekken", "chameleon"});
  return vocabulary.model == "llama" ||
         std::find(kNames.begin(), kNames.end(), vocabulary.pre) != kNames.end();
}

std::vector<TokenId> gguf_end_tokens(const GgufVocabulary& vocabulary) {
  std::unordered_map<std::string_view, TokenId> found;
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (ends_generation(vocabulary.tokens[id])) {
      found.emplace(vocabulary.tokens[id], static_cast<TokenId>(id));
    }
  }
  const auto has = [&](std::string_view token) { return found.contains(token); };
  const bool is_harmony = has("<|return|>") && has("<|call|>");
  const bool is_solar = (has("<|call|>") || has("<|calls|>")) && has("<|flush|>");
  if (is_harmony || is_solar) {
    found.erase("<|end|>");  // ends a message there, not the answer
  }
  if (has("<|tool_response>")) {
    found.erase("</s>");  // a text of Gemma 4's vocabulary
  }
  std::vector<TokenId> ends;
  for (const auto& entry : found) {
    ends.push_back(entry.second);
  }
  std::sort(ends.begin(), ends.end());
  return ends;
}

TokenizerParts gguf_tokenizer_parts(const GgufVocabulary& vocabulary) {
  if (vocabulary.model == "gpt2") {
    return byte_level_parts(vocabulary);
  }
  if (vocabulary.model == "llama" || vocabulary.model == kGemma4) {
    return sentencepiece_parts(vocabulary);
  }
  fail("model",
       fmt::format("\"{}\" is not implemented (only: gpt2, llama, gemma4); use the model's "
                   "Hugging Face directory with its tokenizer.json",
                   vocabulary.model));
}

}  // namespace bipo
