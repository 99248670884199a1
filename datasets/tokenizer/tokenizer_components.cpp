#include "datasets/tokenizer/tokenizer_components.hpp"

#include <fmt/format.h>

#include <unordered_map>

#include "datasets/text/pcre2_regex.hpp"
#include "datasets/text/unicode_text.hpp"

namespace bipo {
namespace {

// Real tokenizers nest far less; this bounds the work of a hostile file.
constexpr int kDeepestSequence = 16;

// Returns the components under `key`, in order, with those of Sequences in their place.  `parts` is
// the key of a Sequence's components.
std::vector<JsonNode> components_of(const JsonNode& root, std::string_view key,
                                    std::string_view parts) {
  std::vector<JsonNode> components;
  std::vector<std::pair<JsonNode, int>> pending;  // the next one last
  if (const std::optional<JsonNode> node = root.find(key)) {
    pending.emplace_back(*node, 0);
  }
  while (!pending.empty()) {
    const auto [node, depth] = pending.back();
    pending.pop_back();
    if (type_of(node) != "Sequence") {
      components.push_back(node);
      continue;
    }
    if (depth == kDeepestSequence) {
      node.fail(fmt::format("Sequences are nested more than {} deep", kDeepestSequence));
    }
    node.allow_only({"type", parts});
    const std::vector<JsonNode> inner = node.require(parts).elements();
    for (auto part = inner.rbegin(); part != inner.rend(); ++part) {
      pending.emplace_back(*part, depth + 1);
    }
  }
  return components;
}

Regex read_pattern(const JsonNode& node) {
  node.allow_only({"Regex", "String"});
  if (const std::optional<JsonNode> literal = node.find("String")) {
    return Regex::literal(literal->as_string());
  }
  return Regex(oniguruma_to_pcre2(node.require("Regex").as_string()));
}

std::string read_character(const JsonNode& node) {
  const std::string text = node.as_string();
  if (text.empty() || first_character(text).size() != text.size()) {
    node.fail(fmt::format("\"{}\" must be one character", text));
  }
  return text;
}

ReplaceStep read_replace(const JsonNode& node) {
  node.allow_only({"type", "pattern", "content"});
  return {read_pattern(node.require("pattern")), node.require("content").as_string()};
}

template <typename Value>
using Names = std::unordered_map<std::string, Value>;

template <typename Value>
std::optional<Value> find_name(const Names<Value>& names, const std::string& name) {
  const auto found = names.find(name);
  return found == names.end() ? std::nullopt : std::optional(found->second);
}

NormalizerStep read_normalizer_step(const JsonNode& node) {
  static const Names<UnicodeForm> forms = {{"NFC", UnicodeForm::kNfc},
                                           {"NFD", UnicodeForm::kNfd},
                                           {"NFKC", UnicodeForm::kNfkc},
                                           {"NFKD", UnicodeForm::kNfkd}};
  const std::string type = type_of(node);
  if (const auto form = find_name(forms, type)) {
    node.allow_only({"type"});
    return *form;
  }
  if (type == "Prepend") {
    node.allow_only({"type", "prepend"});
    return PrependStep{node.require("prepend").as_string()};
  }
  if (type == "Replace") {
    return read_replace(node);
  }
  if (type == "Strip") {
    node.allow_only({"type", "strip_left", "strip_right"});
    return StripSpaceStep{node.require("strip_left").as_bool(),
                          node.require("strip_right").as_bool()};
  }
  if (type == "Lowercase") {
    node.allow_only({"type"});
    return LowercaseStep{};
  }
  refuse_component(node, type,
                   "Sequence, NFC, NFD, NFKC, NFKD, Prepend, Replace, Strip, Lowercase");
}

DelimiterBehavior read_behavior(const JsonNode& node) {
  static const Names<DelimiterBehavior> behaviors = {
      {"Removed", DelimiterBehavior::kRemoved},
      {"Isolated", DelimiterBehavior::kIsolated},
      {"MergedWithPrevious", DelimiterBehavior::kMergedWithPrevious},
      {"MergedWithNext", DelimiterBehavior::kMergedWithNext},
      {"Contiguous", DelimiterBehavior::kContiguous}};
  const auto behavior = find_name(behaviors, node.as_string());
  if (!behavior) {
    node.fail(fmt::format("\"{}\" is no behavior of Split", node.as_string()));
  }
  return *behavior;
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
  return {node.require("add_prefix_space").as_bool(), node.flag_or("use_regex", true)};
}

std::optional<PrependScheme> read_named_prepend_scheme(const JsonNode& node) {
  static const Names<PrependScheme> schemes = {{"always", PrependScheme::kAlways},
                                               {"first", PrependScheme::kFirst},
                                               {"never", PrependScheme::kNever}};
  const std::optional<JsonNode> name = node.find("prepend_scheme");
  if (!name) {
    return std::nullopt;
  }
  const auto scheme = find_name(schemes, name->as_string());
  if (!scheme) {
    name->fail(fmt::format("\"{}\" is none of always, first and never", name->as_string()));
  }
  return scheme;
}

// Older files have add_prefix_space only.  Beside a scheme, false must agree with it, and true has
// no effect.
PrependScheme read_prepend_scheme(const JsonNode& node) {
  const std::optional<PrependScheme> named = read_named_prepend_scheme(node);
  if (node.flag_or("add_prefix_space", true)) {
    return named.value_or(PrependScheme::kAlways);
  }
  if (named.value_or(PrependScheme::kNever) != PrependScheme::kNever) {
    node.fail("add_prefix_space is false, but prepend_scheme is not \"never\"; make them agree");
  }
  return PrependScheme::kNever;
}

MetaspaceStep read_metaspace(const JsonNode& node) {
  node.allow_only(
      {"type", "replacement", "str_rep", "add_prefix_space", "prepend_scheme", "split"});
  return {read_character(node.require("replacement")), read_prepend_scheme(node),
          node.flag_or("split", true)};
}

PreTokenizerStep read_pre_tokenizer_step(const JsonNode& node) {
  const std::string type = type_of(node);
  if (type == "Split") {
    return read_split(node);
  }
  if (type == "Digits") {
    return read_digits(node);
  }
  if (type == "ByteLevel") {
    return read_byte_level(node);
  }
  if (type == "Metaspace") {
    return read_metaspace(node);
  }
  refuse_component(node, type, "Sequence, Split, Digits, ByteLevel, Metaspace");
}

// A piece's place in the original text is known only before anything changes or cuts the text.
void require_known_beginning(const JsonNode& node, const PreTokenizerStep& step, bool is_first_step,
                             const Normalizer& normalizer) {
  const auto* metaspace = std::get_if<MetaspaceStep>(&step);
  if (metaspace == nullptr || metaspace->prepend_scheme != PrependScheme::kFirst) {
    return;
  }
  if (!is_first_step || !normalizer.changes_nothing()) {
    node.fail(
        "the prepend_scheme \"first\" is implemented only without a normalizer and as the first "
        "pre-tokenizer; use a tokenizer with \"always\" or \"never\"");
  }
}

DecoderStep read_decoder_step(const JsonNode& node) {
  const std::string type = type_of(node);
  if (type == "Replace") {
    return read_replace(node);
  }
  if (type == "ByteFallback") {
    node.allow_only({"type"});
    return ByteFallbackDecoding{};
  }
  if (type == "Fuse") {
    node.allow_only({"type"});
    return FuseDecoding{};
  }
  if (type == "Strip") {
    node.allow_only({"type", "content", "start", "stop"});
    return StripDecoding{read_character(node.require("content")), node.require("start").as_count(),
                         node.require("stop").as_count()};
  }
  if (type == "Metaspace") {
    const MetaspaceStep step = read_metaspace(node);
    return MetaspaceDecoding{step.replacement, step.prepend_scheme != PrependScheme::kNever};
  }
  if (type == "ByteLevel") {
    node.allow_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    return ByteLevelDecoding{};
  }
  refuse_component(node, type,
                   "Sequence, Replace, ByteFallback, Fuse, Strip, Metaspace, ByteLevel");
}

}  // namespace

Normalizer read_normalizer(const JsonNode& root) {
  std::vector<NormalizerStep> steps;
  for (const JsonNode& component : components_of(root, "normalizer", "normalizers")) {
    steps.push_back(read_normalizer_step(component));
  }
  return Normalizer(std::move(steps));
}

PreTokenizer read_pre_tokenizer(const JsonNode& root, const Normalizer& normalizer) {
  std::vector<PreTokenizerStep> steps;
  for (const JsonNode& component : components_of(root, "pre_tokenizer", "pretokenizers")) {
    PreTokenizerStep step = read_pre_tokenizer_step(component);
    require_known_beginning(component, step, steps.empty(), normalizer);
    steps.push_back(std::move(step));
  }
  return PreTokenizer(std::move(steps));
}

TextDecoder read_decoder(const JsonNode& root) {
  if (!root.find("decoder")) {
    return TextDecoder(std::nullopt);
  }
  std::vector<DecoderStep> steps;
  for (const JsonNode& component : components_of(root, "decoder", "decoders")) {
    steps.push_back(read_decoder_step(component));
  }
  return TextDecoder(std::move(steps));
}

std::string type_of(const JsonNode& component) {
  return component.require("type").as_string();
}

void refuse_component(const JsonNode& node, std::string_view type, std::string_view implemented) {
  node.fail(fmt::format(
      "the component \"{}\" is not implemented ({} {}); use a model whose "
      "tokenizer is byte-level BPE or BPE with byte fallback",
      type, implemented.find(',') == std::string_view::npos ? "only" : "only:", implemented));
}

}  // namespace bipo
