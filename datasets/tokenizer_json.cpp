// The content of a tokenizer.json, checked and in the terms of this folder.
#include "datasets/tokenizer_json.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "collectives/errors.hpp"
#include "datasets/json_file.hpp"
#include "datasets/json_node.hpp"
#include "datasets/oniguruma_pattern.hpp"

namespace bipo {
namespace {

[[noreturn]] void refuse_component(const JsonNode& node, std::string_view type,
                                   std::string_view implemented) {
  node.fail(fmt::format(
      "the component \"{}\" is not implemented ({} {}); use a model whose "
      "tokenizer is byte-level BPE",
      type, implemented.find(',') == std::string_view::npos ? "only" : "only:", implemented));
}

std::string type_of(const JsonNode& node) {
  return node.require("type").as_string();
}

bool flag_or(const JsonNode& node, std::string_view key, bool fallback) {
  const std::optional<JsonNode> child = node.find(key);
  return child ? child->as_bool() : fallback;
}

// Whether the text is brought into normalisation form C.
bool read_normalizer(const JsonNode& node) {
  const std::string type = type_of(node);
  if (type == "NFC") {
    node.allow_only({"type"});
    return true;
  }
  if (type == "Sequence") {
    node.allow_only({"type", "normalizers"});
    bool normalize_nfc = false;
    for (const JsonNode& part : node.require("normalizers").elements()) {
      normalize_nfc = read_normalizer(part) || normalize_nfc;
    }
    return normalize_nfc;
  }
  refuse_component(node, type, "NFC, Sequence");
}

DelimiterBehavior read_behavior(const JsonNode& node) {
  static const std::unordered_map<std::string, DelimiterBehavior> behaviors = {
      {"Removed", DelimiterBehavior::kRemoved},
      {"Isolated", DelimiterBehavior::kIsolated},
      {"MergedWithPrevious", DelimiterBehavior::kMergedWithPrevious},
      {"MergedWithNext", DelimiterBehavior::kMergedWithNext},
      {"Contiguous", DelimiterBehavior::kContiguous}};
  const auto found = behaviors.find(node.as_string());
  if (found == behaviors.end()) {
    node.fail(fmt::format("\"{}\" is no behavior of Split", node.as_string()));
  }
  return found->second;
}

Regex read_pattern(const JsonNode& node) {
  node.allow_only({"Regex", "String"});
  if (const std::optional<JsonNode> literal = node.find("String")) {
    return Regex::literal(literal->as_string());
  }
  return Regex(oniguruma_to_pcre2(node.require("Regex").as_string()));
}

SplitStep read_split(const JsonNode& node) {
  node.allow_only({"type", "pattern", "behavior", "invert"});
  return {read_pattern(node.require("pattern")), read_behavior(node.require("behavior")),
          node.require("invert").as_bool()};
}

SplitStep read_digits(const JsonNode& node) {
  node.allow_only({"type", "individual_digits"});
  const bool individual = node.require("individual_digits").as_bool();
  return {Regex("\\p{N}"),
          individual ? DelimiterBehavior::kIsolated : DelimiterBehavior::kContiguous, false};
}

ByteLevelStep read_byte_level(const JsonNode& node) {
  node.allow_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
  return {node.require("add_prefix_space").as_bool(), flag_or(node, "use_regex", true)};
}

struct PreTokenizerSteps {
  std::vector<SplitStep> splits;
  std::optional<ByteLevelStep> byte_level;
};

void read_pre_tokenizer(const JsonNode& node, PreTokenizerSteps& steps) {
  const std::string type = type_of(node);
  if (type == "Sequence") {
    node.allow_only({"type", "pretokenizers"});
    for (const JsonNode& part : node.require("pretokenizers").elements()) {
      read_pre_tokenizer(part, steps);
    }
    return;
  }
  if (steps.byte_level) {
    node.fail(
        fmt::format("\"{}\" stands after ByteLevel, which is implemented only as the last "
                    "pre-tokenizer",
                    type));
  }
  if (type == "Split") {
    steps.splits.push_back(read_split(node));
  } else if (type == "Digits") {
    steps.splits.push_back(read_digits(node));
  } else if (type == "ByteLevel") {
    steps.byte_level = read_byte_level(node);
  } else {
    refuse_component(node, type, "Sequence, Split, Digits, ByteLevel");
  }
}

PreTokenizer read_pre_tokenizer(const JsonNode& root) {
  PreTokenizerSteps steps;
  if (const std::optional<JsonNode> node = root.find("pre_tokenizer")) {
    read_pre_tokenizer(*node, steps);
  }
  if (!steps.byte_level) {
    root.fail(
        "the pre_tokenizer has no ByteLevel; only byte-level BPE is implemented: use a model whose "
        "tokenizer is");
  }
  return {std::move(steps.splits), *steps.byte_level};
}

void require_known(const JsonNode& root, std::string_view key,
                   std::initializer_list<std::string_view> known, std::string_view parts_key) {
  const std::optional<JsonNode> node = root.find(key);
  if (!node) {
    return;
  }
  const std::string type = type_of(*node);
  if (std::find(known.begin(), known.end(), type) == known.end()) {
    refuse_component(*node, type, fmt::format("{}", fmt::join(known, ", ")));
  }
  if (type != "Sequence") {
    return;
  }
  for (const JsonNode& part : node->require(parts_key).elements()) {
    const std::string part_type = type_of(part);
    if (std::find(known.begin(), known.end(), part_type) == known.end()) {
      refuse_component(part, part_type, fmt::format("{}", fmt::join(known, ", ")));
    }
  }
}

void require_known_output_components(const JsonNode& root) {
  require_known(
      root, "post_processor",
      {"ByteLevel", "TemplateProcessing", "Sequence", "BertProcessing", "RobertaProcessing"},
      "processors");
  require_known(root, "decoder",
                {"ByteLevel", "Sequence", "BPEDecoder", "ByteFallback", "Fuse", "Replace", "Strip",
                 "WordPiece", "Metaspace", "CTC"},
                "decoders");
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
std::pair<std::string, std::string> read_merge(const JsonNode& node) {
  if (node.value().is_array()) {
    const std::vector<JsonNode> sides = node.elements();
    if (sides.size() != 2) {
      node.fail("a merge must name two tokens");
    }
    return {sides[0].as_string(), sides[1].as_string()};
  }
  const std::string line = node.as_string();
  const std::size_t space = line.find(' ');
  if (space == std::string::npos || line.find(' ', space + 1) != std::string::npos) {
    node.fail(fmt::format("the merge \"{}\" must name two tokens with one space between", line));
  }
  return {line.substr(0, space), line.substr(space + 1)};
}

std::vector<std::pair<std::string, std::string>> read_merges(const JsonNode& node) {
  std::vector<std::pair<std::string, std::string>> merges;
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
  // The first files had no "type": whatever lacks one and is no BPE fails on its vocabulary or
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
  settings.fuse_unknown = flag_or(model, "fuse_unk", false);
  settings.byte_fallback = flag_or(model, "byte_fallback", false);
  settings.ignore_merges = flag_or(model, "ignore_merges", false);
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

// Hugging Face takes an added token's id from the vocabulary, else counts on from its size, and
// only warns when the file says otherwise.  A file that says otherwise would give two programs two
// tokenisations, so it is refused.
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
  require_known_output_components(root);
  const std::optional<JsonNode> normalizer = root.find("normalizer");
  const bool normalize_nfc = normalizer && read_normalizer(*normalizer);
  BpeModel model = read_model(root.require("model"));
  PreTokenizer pre_tokenizer = read_pre_tokenizer(root);
  std::vector<AddedToken> added_tokens = read_added_tokens(root, model.vocabulary());
  require_added_ids_free(root, added_tokens, model.vocabulary());
  return {std::move(model), normalize_nfc, std::move(pre_tokenizer), std::move(added_tokens)};
}

}  // namespace

TokenizerParts read_tokenizer_json(const std::filesystem::path& path) {
  const nlohmann::json document = read_json_file(path);
  try {
    return read_parts(JsonNode(document, ""));
  } catch (const UserError& error) {
    throw UserError(fmt::format("{}: {}", path.string(), error.what()));
  }
}

}  // namespace bipo
