#include "datasets/tokenizer/tokenizer_class.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

namespace bipo {
namespace {

using nlohmann::json;

constexpr std::string_view kBackend = "TokenizersBackend";

// Classes of the models' own kinds in transformers 5.23 (models/auto/tokenization_auto.py), for the
// decoders of text among them.
constexpr std::array kRegistered = std::to_array<std::pair<std::string_view, std::string_view>>({
    {"cohere", "CohereTokenizer"},
    {"cohere2", "CohereTokenizer"},
    {"falcon_mamba", "GPTNeoXTokenizer"},
    {"flex_olmo", kBackend},
    {"gemma", "GemmaTokenizer"},
    {"gemma2", "GemmaTokenizer"},
    {"gemma3", "GemmaTokenizer"},
    {"gemma3_text", "GemmaTokenizer"},
    {"gemma3n", "GemmaTokenizer"},
    {"gemma3n_text", "GemmaTokenizer"},
    {"glm", kBackend},
    {"glm4", kBackend},
    {"gpt2", "GPT2Tokenizer"},
    {"gpt_bigcode", kBackend},
    {"gpt_neo", "GPT2Tokenizer"},
    {"gpt_neox", "GPTNeoXTokenizer"},
    {"gptj", "GPT2Tokenizer"},
    {"granite", kBackend},
    {"hyperclovax", kBackend},
    {"internlm2", kBackend},
    {"internlm3", kBackend},
    {"iquestcoder", kBackend},
    {"jais2", "GPT2Tokenizer"},
    {"ministral", kBackend},
    {"ministral3", kBackend},
    {"mistral", kBackend},
    {"mistral3", kBackend},
    {"mixtral", kBackend},
    {"mpt", "GPTNeoXTokenizer"},
    {"nemotron", kBackend},
    {"olmo", "GPTNeoXTokenizer"},
    {"olmo2", kBackend},
    {"olmo3", kBackend},
    {"opt", "GPT2Tokenizer"},
    {"phi", "GPT2Tokenizer"},
    {"phi3", kBackend},
    {"phimoe", kBackend},
    {"qwen2", "Qwen2Tokenizer"},
    {"qwen2_5_vl", "Qwen2Tokenizer"},
    {"qwen2_moe", "Qwen2Tokenizer"},
    {"qwen2_vl", "Qwen2Tokenizer"},
    {"qwen3", "Qwen2Tokenizer"},
    {"qwen3_5", "Qwen3_5Tokenizer"},
    {"qwen3_5_text", "Qwen3_5Tokenizer"},
    {"qwen3_moe", "Qwen2Tokenizer"},
    {"qwen3_next", "Qwen2Tokenizer"},
    {"qwen3_vl", "Qwen2Tokenizer"},
    {"recurrent_gemma", "GemmaTokenizer"},
    {"stablelm", kBackend},
    {"starcoder2", "GPT2Tokenizer"},
    {"zaya", "GemmaTokenizer"},
});

// Kinds whose published directories name a wrong class, so that the registered one is taken.
constexpr std::array kNamedWrongly = std::to_array<std::string_view>(
    {"hyperclovax", "internlm2", "internlm3", "iquestcoder", "nemotron", "phi3", "phimoe", "qwen2",
     "qwen3_5", "qwen3_5_text"});

// Further classes of transformers 5 that build a tokenizer of their own.
constexpr std::array kNotImplemented = std::to_array<std::string_view>(
    {"AlbertTokenizer",      "BartTokenizer",      "BertTokenizer",    "BlenderbotTokenizer",
     "CLIPTokenizer",        "CamembertTokenizer", "CodeGenTokenizer", "CodeLlamaTokenizer",
     "DebertaTokenizer",     "DebertaV2Tokenizer", "LEDTokenizer",     "LayoutLMv3Tokenizer",
     "MBart50Tokenizer",     "MBartTokenizer",     "MPNetTokenizer",   "MvpTokenizer",
     "NllbTokenizer",        "NougatTokenizer",    "PegasusTokenizer", "RobertaTokenizer",
     "SeamlessM4TTokenizer", "T5Tokenizer",        "WhisperTokenizer", "XGLMTokenizer",
     "XLMRobertaTokenizer",  "XLNetTokenizer"});

// What 4.57.6 takes where no class is named.
constexpr std::array kRegisteredInVersion4 =
    std::to_array<std::pair<std::string_view, std::string_view>>({
        {"llama", "LlamaTokenizer"},
        {"ministral", "LlamaTokenizer"},
        {"mistral", "LlamaTokenizer"},
        {"mixtral", "LlamaTokenizer"},
        {"olmo2", "GPTNeoXTokenizer"},
        {"olmo3", "GPT2Tokenizer"},
        {"phi3", "LlamaTokenizer"},
        {"phimoe", "LlamaTokenizer"},
        {"stablelm", "GPTNeoXTokenizer"},
    });

template <std::size_t N>
std::optional<std::string> registered(
    const std::array<std::pair<std::string_view, std::string_view>, N>& table,
    const std::string& model_type) {
  const auto found = std::find_if(table.begin(), table.end(),
                                  [&](const auto& entry) { return entry.first == model_type; });
  return found == table.end() ? std::nullopt : std::optional(std::string(found->second));
}

template <std::size_t N>
bool contains(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string without_fast(std::string name) {
  constexpr std::string_view kFast = "Fast";
  if (name.ends_with(kFast)) {
    name.resize(name.size() - kFast.size());
  }
  return name;
}

const std::map<std::string, std::string> kLlamaTokens = {
    {"unk_token", "<unk>"}, {"bos_token", "<s>"}, {"eos_token", "</s>"}};
const std::map<std::string, std::string> kGptTokens = {
    {"unk_token", "<|endoftext|>"}, {"bos_token", "<|endoftext|>"}, {"eos_token", "<|endoftext|>"}};
const std::map<std::string, std::string> kQwenTokens = {
    {"unk_token", "<|endoftext|>"}, {"eos_token", "<|endoftext|>"}, {"pad_token", "<|endoftext|>"}};
const std::map<std::string, std::string> kGemmaTokens = {
    {"unk_token", "<unk>"}, {"bos_token", "<bos>"}, {"eos_token", "<eos>"}, {"pad_token", "<pad>"}};
const std::map<std::string, std::string> kCohereTokens = {
    {"unk_token", "<UNK>"}, {"bos_token", "<BOS_TOKEN>"}, {"eos_token", "<|END_OF_TURN_TOKEN|>"}};

std::map<std::string, std::string> joined(std::map<std::string, std::string> tokens,
                                          const std::map<std::string, std::string>& more) {
  tokens.insert(more.begin(), more.end());
  return tokens;
}

TokenizerClass class_by_name(const std::string& name, TransformersVersion version) {
  const bool is_5 = version == TransformersVersion::k5;
  TokenizerClass made;
  made.name = name;
  if (name == "LlamaTokenizer") {
    made.default_tokens = kLlamaTokens;
    made.adds_bos_by_default = true;
  } else if (name == "GemmaTokenizer") {
    made.default_tokens = is_5 ? joined(kGemmaTokens, {{"mask_token", "<mask>"}}) : kGemmaTokens;
    made.adds_bos_by_default = true;
  } else if (name == "CohereTokenizer") {
    made.default_tokens = is_5 ? joined(kCohereTokens, {{"pad_token", "<PAD>"},
                                                        {"cls_token", "<CLS>"},
                                                        {"sep_token", "<SEP>"},
                                                        {"mask_token", "<MASK_TOKEN>"}})
                               : kCohereTokens;
    made.adds_bos_by_default = true;
  } else if (name == "GPTNeoXTokenizer") {
    made.default_tokens = is_5 ? joined(kGptTokens, {{"pad_token", "<|padding|>"}}) : kGptTokens;
    made.adds_bos_by_default = false;
    made.drops_post_processor = is_5;
  } else if (name == "GPT2Tokenizer") {
    made.default_tokens = kGptTokens;
  } else if (name == "Qwen2Tokenizer") {
    made.default_tokens = kQwenTokens;
    made.adds_named_tokens_again = is_5;
  } else if (name == "Qwen3_5Tokenizer" && is_5) {
    made.default_tokens = kQwenTokens;
  } else {
    made.is_implemented = !contains(kNotImplemented, name);
    made.name = made.is_implemented ? std::string(kBackend) : name;
  }
  if (is_5) {
    made.adds_bos_by_default.reset();
  }
  return made;
}

std::string name_in_version_5(const TokenizerClassInputs& inputs) {
  const std::string named = without_fast(inputs.named_class);
  const std::optional<std::string> own = registered(kRegistered, inputs.model_type);
  const bool is_named_wrongly = contains(kNamedWrongly, inputs.model_type);
  constexpr std::array kMistral = std::to_array<std::string_view>(
      {"ministral", "ministral3", "mistral", "mistral3", "mixtral"});
  if (!inputs.has_own_code && named == "LlamaTokenizer" && inputs.mentions_byte_level &&
      !contains(kMistral, inputs.model_type) && !is_named_wrongly) {
    return std::string(kBackend);
  }
  if (named.empty()) {
    return own.value_or(std::string(kBackend));
  }
  if (!inputs.has_own_code && own && *own != named) {
    if (*own == kBackend) {
      return *own;
    }
    return is_named_wrongly ? *own : named;
  }
  return named;
}

// The rules of the text components, as JSON in the form of a tokenizer.json.
json sequence(const char* parts, json components) {
  return {{"type", "Sequence"}, {parts, std::move(components)}};
}

json byte_level(bool add_prefix_space, bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", add_prefix_space},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

json byte_fallback_decoder(bool strips_space) {
  json steps = {{{"type", "Replace"}, {"pattern", {{"String", "\u2581"}}}, {"content", " "}},
                {{"type", "ByteFallback"}},
                {{"type", "Fuse"}}};
  if (strips_space) {
    steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  return sequence("decoders", std::move(steps));
}

json byte_level_model() {
  return {{"type", "BPE"}, {"fuse_unk", false}, {"byte_fallback", false}};
}

// null and absent are `fallback`.
bool flag(const nlohmann::ordered_json& settings, const char* key, bool fallback) {
  const auto found = settings.find(key);
  return found != settings.end() && found->is_boolean() ? found->get<bool>() : fallback;
}

RebuiltComponents llama_components(const nlohmann::ordered_json& settings) {
  const bool prefix = flag(settings, "add_prefix_space", true);
  const char* scheme = !prefix ? "never" : flag(settings, "legacy", false) ? "always" : "first";
  return {{{"normalizer", nullptr},
           {"pre_tokenizer",
            {{"type", "Metaspace"},
             {"replacement", "\u2581"},
             {"prepend_scheme", scheme},
             {"split", false}}},
           {"decoder", byte_fallback_decoder(prefix)}},
          {{"type", "BPE"}, {"fuse_unk", true}, {"byte_fallback", true}}};
}

RebuiltComponents gemma_components(const std::string& unknown) {
  return {
      {{"normalizer", {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}}},
       {"pre_tokenizer",
        {{"type", "Split"},
         {"pattern", {{"String", " "}}},
         {"behavior", "MergedWithPrevious"},
         {"invert", false}}},
       {"decoder", byte_fallback_decoder(false)}},
      {{"type", "BPE"}, {"unk_token", unknown}, {"fuse_unk", true}, {"byte_fallback", true}}};
}

RebuiltComponents qwen_components(const nlohmann::ordered_json& settings,
                                  std::string_view pattern) {
  const json split = {{"type", "Split"},
                      {"pattern", {{"Regex", pattern}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  return {{{"normalizer", {{"type", "NFC"}}},
           {"pre_tokenizer",
            sequence("pretokenizers",
                     {split, byte_level(flag(settings, "add_prefix_space", false), false)})},
           {"decoder", byte_level(true, true)}},
          byte_level_model()};
}

// GPT-2, GPT-NeoX and Cohere differ in what comes before the byte level.
RebuiltComponents gpt_components(const nlohmann::ordered_json& settings, bool composes,
                                 bool cuts_digits) {
  json steps = json::array();
  if (cuts_digits) {
    steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
  }
  steps.push_back(byte_level(flag(settings, "add_prefix_space", false), true));
  return {{{"normalizer", composes ? json::object({{"type", "NFC"}}) : json()},
           {"pre_tokenizer", sequence("pretokenizers", std::move(steps))},
           {"decoder", byte_level(true, true)}},
          byte_level_model()};
}

// Returns the components in order, Sequences resolved, without what changes nothing.
json flattened(const json& root, const char* key, const char* parts) {
  json flat = json::array();
  const auto found = root.find(key);
  if (found == root.end() || !found->is_object()) {
    return flat;
  }
  if (found->value("type", json()) != "Sequence") {
    flat.push_back(*found);
  } else if (found->contains(parts)) {
    for (const json& component : (*found)[parts]) {
      const json wrapped = {{key, component}};
      for (json& inner : flattened(wrapped, key, parts)) {
        flat.push_back(std::move(inner));
      }
    }
  }
  for (json& component : flat) {
    if (!component.is_object()) {
      continue;
    }
    component.erase("trim_offsets");
    if (component.value("type", json()) == "ByteLevel" && !component.contains("use_regex")) {
      component["use_regex"] = true;
    }
  }
  return flat;
}

bool is_set(const json& model, const char* key) {
  const auto found = model.find(key);
  return found != model.end() && *found == json(true);
}

json decoder_of(const json& root) {
  json decoder = flattened(root, "decoder", "decoders");
  for (json& step : decoder) {
    if (step.is_object() && step.value("type", json()) == "ByteLevel") {
      step = {{"type", "ByteLevel"}};  // its settings do not concern decoding
    }
  }
  return decoder;
}

}  // namespace

TokenizerClass choose_tokenizer_class(const TokenizerClassInputs& inputs,
                                      TransformersVersion version) {
  if (version == TransformersVersion::k5) {
    return class_by_name(name_in_version_5(inputs), version);
  }
  std::string name = without_fast(inputs.named_class);
  if (name.empty()) {
    name =
        registered(kRegisteredInVersion4, inputs.model_type)
            .value_or(registered(kRegistered, inputs.model_type).value_or(std::string(kBackend)));
  }
  return class_by_name(name, version);
}

std::optional<RebuiltComponents> rebuilt_components(const TokenizerClass& chosen,
                                                    const nlohmann::ordered_json& settings,
                                                    const std::string& unknown) {
  if (chosen.name == "LlamaTokenizer") {
    return llama_components(settings);
  }
  if (chosen.name == "GemmaTokenizer") {
    return gemma_components(unknown);
  }
  if (chosen.name == "Qwen2Tokenizer") {
    return qwen_components(settings, kQwen2Pattern);
  }
  if (chosen.name == "Qwen3_5Tokenizer") {
    return qwen_components(settings, kQwen35Pattern);
  }
  if (chosen.name == "GPT2Tokenizer") {
    return gpt_components(settings, /*composes=*/false, /*cuts_digits=*/false);
  }
  if (chosen.name == "GPTNeoXTokenizer") {
    return gpt_components(settings, /*composes=*/true, /*cuts_digits=*/false);
  }
  if (chosen.name == "CohereTokenizer") {
    return gpt_components(settings, /*composes=*/true, /*cuts_digits=*/true);
  }
  return std::nullopt;
}

bool same_components(const RebuiltComponents& rebuilt, const json& tokenizer_json) {
  const auto same = [&](const char* key, const char* parts) {
    return flattened(rebuilt.root, key, parts) == flattened(tokenizer_json, key, parts);
  };
  const auto model = tokenizer_json.find("model");
  if (model == tokenizer_json.end() || !model->is_object()) {
    return false;
  }
  const std::initializer_list<const char*> flags = {"fuse_unk", "byte_fallback", "ignore_merges"};
  const bool same_flags = std::all_of(flags.begin(), flags.end(), [&](const char* key) {
    return is_set(rebuilt.model, key) == is_set(*model, key);
  });
  const auto unknown = [](const json& of) { return of.value("unk_token", json()); };
  return same("normalizer", "normalizers") && same("pre_tokenizer", "pretokenizers") &&
         decoder_of(rebuilt.root) == decoder_of(tokenizer_json) && same_flags &&
         unknown(rebuilt.model) == unknown(*model);
}

std::string component_names(const json& root) {
  std::vector<std::string> names;
  for (const auto& [key, parts] :
       {std::pair{"normalizer", "normalizers"}, std::pair{"pre_tokenizer", "pretokenizers"}}) {
    for (const json& component : flattened(root, key, parts)) {
      std::string name = component.is_object() ? component.value("type", "?") : "?";
      if (component.is_object() && component.contains("prepend_scheme")) {
        name += fmt::format(" \"{}\"", component.value("prepend_scheme", ""));
      }
      names.push_back(std::move(name));
    }
  }
  return names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace bipo
