// Reads and checks the content of a tokenizer.json.
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "datasets/text/untrusted_json.hpp"
#include "datasets/tokenizer/tokenizer_components.hpp"
#include "datasets/tokenizer/tokenizer_parts.hpp"

namespace bipo {
namespace {

// Post-processors add special tokens, which are never used here, so that knowing them is enough.
void require_known_post_processor(const JsonNode& root) {
  static const std::unordered_set<std::string> known = {
      "ByteLevel", "TemplateProcessing", "Sequence", "BertProcessing", "RobertaProcessing"};
  const std::optional<JsonNode> node = root.find("post_processor");
  if (!node) {
    return;
  }
  const bool is_sequence = type_of(*node) == "Sequence";
  for (const JsonNode& component :
       is_sequence ? node->require("processors").elements() : std::vector{*node}) {
    if (!known.contains(type_of(component))) {
      component.fail(fmt::format("the post-processor \"{}\" is not known", type_of(component)));
    }
  }
}

Vocabulary read_vocabulary(const JsonNode& node) {
  if (!node.value().is_object() || node.value().empty()) {
    node.fail("must be an object of tokens and their ids, not empty");
  }
  Vocabulary vocabulary;
  vocabulary.reserve(node.value().size());
  std::unordered_map<TokenId, std::string> owner;
  for (const auto& [token, value] : node.value().items()) {
    const TokenId id =
        JsonNode(value, fmt::format("{}[\"{}\"]", node.place(), token)).as_token_id();
    const auto [holder, is_new] = owner.emplace(id, token);
    if (!is_new) {
      node.fail(fmt::format("id {} is given to both \"{}\" and \"{}\"", id, holder->second, token));
    }
    vocabulary.emplace(token, id);
  }
  return vocabulary;
}

// Merges are written "left right" or, since tokens may hold spaces, ["left", "right"].
MergePair read_merge(const JsonNode& node) {
  if (node.value().is_array()) {
    const std::vector<JsonNode> sides = node.elements();
    if (sides.size() != 2) {
      node.fail("a merge must name two tokens");
    }
    return {sides[0].as_string(), sides[1].as_string()};
  }
  const std::optional<MergePair> merge = split_merge(node.as_string());
  if (!merge) {
    node.fail(fmt::format("the merge \"{}\" must name two tokens with one space between",
                          node.as_string()));
  }
  return *merge;
}

std::vector<MergePair> read_merges(const JsonNode& node) {
  std::vector<MergePair> merges;
  for (const JsonNode& merge : node.elements()) {
    const bool version_line =
        merge.value().is_string() && merge.as_string().starts_with("#version");
    if (!version_line) {
      merges.push_back(read_merge(merge));
    }
  }
  return merges;
}

void require_empty_affix(const JsonNode& model, std::string_view key) {
  const std::optional<JsonNode> affix = model.find(key);
  if (affix && !affix->as_string().empty()) {
    affix->fail(
        fmt::format("\"{}\" is not implemented; only null or an empty string", affix->as_string()));
  }
}

void require_no_dropout(const JsonNode& model) {
  const std::optional<JsonNode> dropout = model.find("dropout");
  if (dropout && dropout->value() != 0) {
    dropout->fail("random tokenisation is not implemented; set it to null");
  }
}

BpeModel read_model(const JsonNode& model) {
  // The first files had no "type"; a model without one that is no BPE fails on its vocabulary or
  // merges.
  if (model.find("type") && type_of(model) != "BPE") {
    refuse_component(model, type_of(model), "BPE");
  }
  model.allow_only({"type", "dropout", "unk_token", "continuing_subword_prefix",
                    "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges", "vocab",
                    "merges"});
  require_no_dropout(model);
  require_empty_affix(model, "continuing_subword_prefix");
  require_empty_affix(model, "end_of_word_suffix");

  BpeSettings settings;
  settings.vocabulary = read_vocabulary(model.require("vocab"));
  settings.merges = read_merges(model.require("merges"));
  if (const std::optional<JsonNode> unknown = model.find("unk_token")) {
    settings.unknown_token = unknown->as_string();
  }
  settings.fuse_unknown = model.flag_or("fuse_unk", false);
  settings.byte_fallback = model.flag_or("byte_fallback", false);
  settings.ignore_merges = model.flag_or("ignore_merges", false);
  return BpeModel(std::move(settings));
}

AddedToken read_added_token(const JsonNode& node) {
  node.allow_only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
  AddedToken token;
  token.id = node.require("id").as_token_id();
  token.content = node.require("content").as_string();
  token.special = node.require("special").as_bool();
  token.single_word = node.require("single_word").as_bool();
  token.lstrip = node.require("lstrip").as_bool();
  token.rstrip = node.require("rstrip").as_bool();
  token.normalized = node.require("normalized").as_bool();
  if (token.content.empty()) {
    node.fail("\"content\" must not be empty");
  }
  return token;
}

// Hugging Face takes an added token's id from the vocabulary, or else counts on from its size, and
// only warns if the file has another id.  Two programs would tokenise by such a file differently,
// so it is refused.
void require_expected_id(const JsonNode& node, const AddedToken& token,
                         const Vocabulary& vocabulary, TokenId next_id) {
  const auto known = vocabulary.find(token.content);
  const TokenId expected = known != vocabulary.end() ? known->second : next_id;
  if (token.id != expected) {
    node.fail(fmt::format(
        "\"{}\" has id {}, but must have {}: the id that model.vocab gives it, or else the next "
        "one after the vocabulary and the added tokens before it",
        token.content, token.id, expected));
  }
}

std::vector<AddedToken> read_added_tokens(const JsonNode& root, const Vocabulary& vocabulary) {
  std::vector<AddedToken> tokens;
  const std::optional<JsonNode> list = root.find("added_tokens");
  if (!list) {
    return tokens;
  }
  std::unordered_set<std::string> contents;
  std::unordered_set<TokenId> ids;
  auto next_id = static_cast<TokenId>(vocabulary.size());
  for (const JsonNode& node : list->elements()) {
    AddedToken token = read_added_token(node);
    if (!contents.insert(token.content).second || !ids.insert(token.id).second) {
      node.fail(fmt::format("\"{}\" with id {} repeats a token or an id listed before it",
                            token.content, token.id));
    }
    require_expected_id(node, token, vocabulary, next_id);
    next_id = std::max(next_id, token.id + 1);
    tokens.push_back(std::move(token));
  }
  return tokens;
}

void require_added_ids_free(const JsonNode& root, const std::vector<AddedToken>& tokens,
                            const Vocabulary& vocabulary) {
  std::unordered_map<TokenId, std::string_view> owner;
  for (const auto& [token, id] : vocabulary) {
    owner.emplace(id, token);
  }
  for (const AddedToken& token : tokens) {
    const auto found = owner.find(token.id);
    if (found != owner.end() && found->second != token.content) {
      root.fail(fmt::format("added_tokens: id {} of \"{}\" is the vocabulary's id of \"{}\"",
                            token.id, token.content, found->second));
    }
  }
}

TokenizerParts read_parts(const JsonNode& root) {
  root.allow_only({"version", "truncation", "padding", "added_tokens", "normalizer",
                   "pre_tokenizer", "post_processor", "decoder", "model"});
  if (const auto version = root.find("version"); version && version->as_string() != "1.0") {
    version->fail(fmt::format("\"{}\" is not known; only \"1.0\" is", version->as_string()));
  }
  require_known_post_processor(root);
  Normalizer normalizer = read_normalizer(root);
  PreTokenizer pre_tokenizer = read_pre_tokenizer(root, normalizer);
  TextDecoder decoder = read_decoder(root);
  BpeModel model = read_model(root.require("model"));
  std::vector<AddedToken> added_tokens = read_added_tokens(root, model.vocabulary());
  require_added_ids_free(root, added_tokens, model.vocabulary());
  return {std::move(model), std::move(normalizer), std::move(pre_tokenizer), std::move(decoder),
          std::move(added_tokens)};
}

}  // namespace

TokenizerParts read_tokenizer_json(const std::filesystem::path& path) {
  return read_json_file(path, read_parts);
}

}  // namespace bipo
