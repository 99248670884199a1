// The pre-tokenizers that GGUF files know by name (tokenizer.ggml.pre).
#include <fmt/format.h>

#include <string>
#include <string_view>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/pcre2_regex.hpp"
#include "datasets/text/unicode_text.hpp"
#include "datasets/tokenizer/tokenizer_parts.hpp"

namespace bipo {
namespace {

// The expressions of the models' own tokenizer.json.
constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kTekkenPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"(|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt4oPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr std::string_view kSeedCoderPattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1})"
    R"(| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kBailingPattern =
    R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N})"
    R"(| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)";
constexpr std::string_view kMiniCpm5Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+)"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kDeepSeek3Pattern =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)"
    R"(| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kDigit = "\\p{N}";
constexpr std::string_view kThreeDigits = "\\p{N}{1,3}";
// Chinese and, of the second, Japanese syllables.
constexpr std::string_view kHan = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+";
constexpr std::string_view kHanAndKana = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+";

// Cuts by one expression after the other, then maps bytes; without any, as GPT-2 does.
struct Description {
  std::vector<std::string_view> names;
  std::vector<std::string_view> patterns = {};
  bool cuts_as_gpt2 = false;  // after the patterns
  bool normalize_nfc = false;
  bool ignore_merges = false;
};

// The first name of each is that of the model whose tokenizer.json it is; the others are the same
// in llama.cpp (llama-vocab.cpp).
const std::vector<Description>& descriptions() {
  static const std::vector<Description> all = {
      {.names = {"gpt-2", "phi-2", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "jina-v1-en",
                 "jina-v2-code", "roberta-bpe", "gigachat", "a.x-4.0", "mellum", "modern-bert",
                 "exaone4", "jais", "trillion", "granite-docling"},
       .cuts_as_gpt2 = true},
      {.names = {"olmo", "mpt"}, .cuts_as_gpt2 = true, .normalize_nfc = true},
      {.names = {"smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"},
       .patterns = {kDigit},
       .cuts_as_gpt2 = true},
      {.names = {"command-r"}, .patterns = {kDigit}, .cuts_as_gpt2 = true, .normalize_nfc = true},
      {.names = {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0",
                 "lfm2", "jina-v5-nano"},
       .patterns = {kLlama3Pattern},
       .ignore_merges = true},
      // dbrx is Phi-4's too, smaug-bpe SmolLM3's and that of many tunes of Llama 3.
      {.names = {"dbrx", "smaug-bpe", "glm4", "chatglm-bpe"}, .patterns = {kLlama3Pattern}},
      {.names = {"qwen2", "deepseek-r1-qwen", "megrez", "kormo", "f2llmv2"},
       .patterns = {kQwen2Pattern},
       .normalize_nfc = true},
      {.names = {"stablelm2", "hunyuan", "solar-open", "grok-2"}, .patterns = {kQwen2Pattern}},
      {.names = {"qwen35"}, .patterns = {kQwen35Pattern}, .normalize_nfc = true},
      {.names = {"tekken"}, .patterns = {kTekkenPattern}, .ignore_merges = true},
      {.names = {"gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"},
       .patterns = {kGpt4oPattern}},
      {.names = {"deepseek-v3", "hunyuan-dense", "joyai-llm"},
       .patterns = {kThreeDigits, kHanAndKana, kDeepSeek3Pattern}},
      {.names = {"deepseek-coder"},
       .patterns = {"[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", kHan, kDigit}},
      {.names = {"seed-coder"}, .patterns = {kSeedCoderPattern}},
      {.names = {"bailingmoe", "bailingmoe2", "llada-moe"}, .patterns = {kBailingPattern}},
      {.names = {"minicpm5"}, .patterns = {kThreeDigits, kMiniCpm5Pattern}, .ignore_merges = true},
      {.names = {"falcon"},
       .patterns = {"[\\p{P}\\$\\+<=>\\^~\\|`]+", kGpt2Pattern, "[0-9][0-9][0-9]"}},
      {.names = {"default", ""},
       .patterns = {"[\\p{P}\\$\\+<=>\\^~\\|]+", kGpt2Pattern, "\\p{N}+", "[0-9][0-9][0-9]"}},
  };
  return all;
}

const Description& find_description(std::string_view name) {
  std::string known;
  for (const Description& description : descriptions()) {
    for (const std::string_view candidate : description.names) {
      if (candidate == name) {
        return description;
      }
      known += fmt::format("{}{}", known.empty() || candidate.empty() ? "" : ", ", candidate);
    }
  }
  throw UserError(fmt::format(
      "tokenizer.ggml.pre: the pre-tokenizer \"{}\" is not implemented (only: {}); use the model's "
      "Hugging Face directory with its tokenizer.json",
      name, known));
}

}  // namespace

NamedPreTokenizer gguf_pre_tokenizer(std::string_view name) {
  const Description& description = find_description(name);
  NamedPreTokenizer result;
  result.ignore_merges = description.ignore_merges;
  if (description.normalize_nfc) {
    result.normalizer.emplace_back(UnicodeForm::kNfc);
  }
  for (const std::string_view pattern : description.patterns) {
    result.steps.emplace_back(
        SplitStep{Regex(oniguruma_to_pcre2(pattern)), DelimiterBehavior::kIsolated, false});
  }
  result.steps.emplace_back(
      ByteLevelStep{.add_prefix_space = false, .use_regex = description.cuts_as_gpt2});
  return result;
}

}  // namespace bipo
