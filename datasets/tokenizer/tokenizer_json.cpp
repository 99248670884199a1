// Reads and checks the content of a tokenizer.json.
#include <fmt/format.h>

#include <string>
#include <unordered_map>
#include <unordered_set>

#include "datasets/text/untrusted_json.hpp"
#include "datasets/tokenizer/tokenizer_components.hpp"
#include "datasets/tokenizer/tokenizer_parts.hpp"

namespace bipo {
namespace {

// TemplateProcessing: the pieces of `single` are special tokens and the text itself, A.
SurroundingTokens read_template_processing(const JsonNode& node) {
  SurroundingTokens tokens;
  bool seen_text = false;
  for (const JsonNode& piece : node.require("single").elements()) {
    const std::optional<JsonNode> special = piece.find("SpecialToken");
    if (!special) {
      piece.require("Sequence");
      seen_text = true;
      continue;
    }
    const std::string name = special->require("id").as_string();
    const JsonNode ids = node.require("special_tokens").require(name).require("ids");
    for (const JsonNode& id : ids.elements()) {
      (seen_text ? tokens.after : tokens.before).push_back(id.as_token_id());
    }
  }
  return tokens;
}

// BERT's and RoBERTa's: ["[CLS]", id] before and ["[SEP]", id] after a text.
SurroundingTokens read_class_and_separator(const JsonNode& node) {
  const auto id_of = [&](const char* key) {
    const std::vector<JsonNode> pair = node.require(key).elements();
    if (pair.size() != 2) {
      node.require(key).fail("must be a token and its id");
    }
    return pair[1].as_token_id();
  };
  return {{id_of("cls")}, {id_of("sep")}};
}

SurroundingTokens read_processor(const JsonNode& node) {
  const std::string type = type_of(node);
  if (type == "TemplateProcessing") {
    return read_template_processing(node);
  }
  if (type == "BertProcessing" || type == "RobertaProcessing") {
    return read_class_and_separator(node);
  }
  if (type != "ByteLevel") {
    node.fail(fmt::format("the post-processor \"{}\" is not known", type));
  }
  return {};
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

BpeSettings read_settings(const JsonNode& model) {
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
  if (const std::optional<JsonNode> unknown = model.find("unk_token")) {
    settings.unknown_token = unknown->as_string();
  }
  settings.fuse_unknown = model.flag_or("fuse_unk", false);
  settings.byte_fallback = model.flag_or("byte_fallback", false);
  settings.ignore_merges = model.flag_or("ignore_merges", false);
  return settings;
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

// The settings of the model, with vocabulary and merges out of the file.
BpeModel read_model(const JsonNode& file, const std::optional<RebuiltComponents>& rebuilt) {
  BpeSettings settings =
      rebuilt ? read_settings(JsonNode(rebuilt->model, "model")) : read_settings(file);
  settings.vocabulary = read_vocabulary(file.require("vocab"));
  settings.merges = read_merges(file.require("merges"));
  return BpeModel(std::move(settings));
}

std::vector<AddedToken> with_ids(const std::vector<AddedToken>& listed,
                                 const Vocabulary& vocabulary) {
  AddedVocabulary added(vocabulary);
  for (const AddedToken& token : listed) {
    added.add(token);
  }
  return added.tokens();
}

}  // namespace

TokenizerParts tokenizer_parts(const JsonNode& root,
                               const std::optional<RebuiltComponents>& rebuilt) {
  root.allow_only({"version", "truncation", "padding", "added_tokens", "normalizer",
                   "pre_tokenizer", "post_processor", "decoder", "model"});
  if (const auto version = root.find("version"); version && version->as_string() != "1.0") {
    version->fail(fmt::format("\"{}\" is not known; only \"1.0\" is", version->as_string()));
  }
  read_post_processor(root);
  const JsonNode components = rebuilt ? JsonNode(rebuilt->root, "") : root;
  Normalizer normalizer = read_normalizer(components);
  PreTokenizer pre_tokenizer = read_pre_tokenizer(components, normalizer);
  TextDecoder decoder = read_decoder(components);
  BpeModel model = read_model(root.require("model"), rebuilt);
  std::vector<AddedToken> added = with_ids(listed_added_tokens(root), model.vocabulary());
  return {std::move(model), std::move(normalizer), std::move(pre_tokenizer), std::move(decoder),
          std::move(added)};
}

std::vector<AddedToken> listed_added_tokens(const JsonNode& root) {
  std::vector<AddedToken> tokens;
  if (const std::optional<JsonNode> list = root.find("added_tokens")) {
    for (const JsonNode& node : list->elements()) {
      tokens.push_back(read_added_token(node));
    }
  }
  return tokens;
}

SurroundingTokens read_post_processor(const JsonNode& root) {
  SurroundingTokens tokens;
  const std::optional<JsonNode> node = root.find("post_processor");
  if (!node) {
    return tokens;
  }
  const bool is_sequence = type_of(*node) == "Sequence";
  for (const JsonNode& component :
       is_sequence ? node->require("processors").elements() : std::vector{*node}) {
    const SurroundingTokens outer = read_processor(component);
    tokens.before.insert(tokens.before.begin(), outer.before.begin(), outer.before.end());
    tokens.after.insert(tokens.after.end(), outer.after.begin(), outer.after.end());
  }
  return tokens;
}

}  // namespace bipo
