// Reads the normalizer, the pre-tokenizer and the decoder of a tokenizer.json.
#include "datasets/tokenizer/tokenizer_components.hpp"

#include <fmt/format.h>

#include <unordered_map>

#include "datasets/text/oniguruma_pattern.hpp"
#include "datasets/text/unicode_text.hpp"

namespace bipo {
namespace {

// More is no tokenizer, and a hostile file must not make it costly.
constexpr int kDeepestSequence = 16;

// The components of `root`, in order, with those in Sequences in their place.  `parts` is the key
// of a Sequence's components.
std::vector<JsonNode> flattened(const JsonNode& root, std::string_view parts) {
  std::vector<JsonNode> components;
  std::vector<std::pair<JsonNode, int>> pending = {{root, 0}};  // the next one last
  while (!pending.empty()) {
    const auto [node, depth] = pending.back();
    pending.pop_back();
    if (type_of(node) != "Sequence") {
      components.push_back(node);
      continue;
    }
    if (depth == kDeepestSequence) {
      node.fail(fmt::format("Sequences stand more than {} deep in one another", kDeepestSequence));
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

std::optional<UnicodeForm> unicode_form(const std::string& type) {
  static const std::unordered_map<std::string, UnicodeForm> forms = {{"NFC", UnicodeForm::kNfc},
                                                                     {"NFD", UnicodeForm::kNfd},
                                                                     {"NFKC", UnicodeForm::kNfkc},
                                                                     {"NFKD", UnicodeForm::kNfkd}};
  const auto found = forms.find(type);
  return found == forms.end() ? std::nullopt : std::optional(found->second);
}

NormalizerStep read_normalizer_step(const JsonNode& node) {
  const std::string type = type_of(node);
  if (const std::optional<UnicodeForm> form = unicode_form(type)) {
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

std::optional<PrependScheme> read_named_prepend_scheme(const JsonNode& node) {
  static const std::unordered_map<std::string, PrependScheme> schemes = {
      {"always", PrependScheme::kAlways},
      {"first", PrependScheme::kFirst},
      {"never", PrependScheme::kNever}};
  const std::optional<JsonNode> name = node.find("prepend_scheme");
  if (!name) {
    return std::nullopt;
  }
  const auto found = schemes.find(name->as_string());
  if (found == schemes.end()) {
    name->fail(fmt::format("\"{}\" is none of always, first and never", name->as_string()));
  }
  return found->second;
}

// Older files know add_prefix_space only.  Beside a scheme, false must mean the same, and true
// means nothing.
PrependScheme read_prepend_scheme(const JsonNode& node) {
  const std::optional<PrependScheme> named = read_named_prepend_scheme(node);
  if (flag_or(node, "add_prefix_space", true)) {
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
          flag_or(node, "split", true)};
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

// Where a piece began in the text as it was is known only as long as nothing has changed or cut it.
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
  if (const std::optional<JsonNode> node = root.find("normalizer")) {
    for (const JsonNode& component : flattened(*node, "normalizers")) {
      steps.push_back(read_normalizer_step(component));
    }
  }
  return Normalizer(std::move(steps));
}

PreTokenizer read_pre_tokenizer(const JsonNode& root, const Normalizer& normalizer) {
  std::vector<PreTokenizerStep> steps;
  if (const std::optional<JsonNode> node = root.find("pre_tokenizer")) {
    for (const JsonNode& component : flattened(*node, "pretokenizers")) {
      PreTokenizerStep step = read_pre_tokenizer_step(component);
      require_known_beginning(component, step, steps.empty(), normalizer);
      steps.push_back(std::move(step));
    }
  }
  return PreTokenizer(std::move(steps));
}

TextDecoder read_decoder(const JsonNode& root) {
  const std::optional<JsonNode> node = root.find("decoder");
  if (!node) {
    return TextDecoder(std::nullopt);
  }
  std::vector<DecoderStep> steps;
  for (const JsonNode& component : flattened(*node, "decoders")) {
    steps.push_back(read_decoder_step(component));
  }
  return TextDecoder(std::move(steps));
}

std::string type_of(const JsonNode& component) {
  return component.require("type").as_string();
}

bool flag_or(const JsonNode& node, std::string_view key, bool fallback) {
  const std::optional<JsonNode> child = node.find(key);
  return child ? child->as_bool() : fallback;
}

void refuse_component(const JsonNode& node, std::string_view type, std::string_view implemented) {
  node.fail(fmt::format(
      "the component \"{}\" is not implemented ({} {}); use a model whose "
      "tokenizer is byte-level BPE or BPE with byte fallback",
      type, implemented.find(',') == std::string_view::npos ? "only" : "only:", implemented));
}

}  // namespace bipo
