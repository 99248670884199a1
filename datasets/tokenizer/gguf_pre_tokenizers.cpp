// The pre-tokenizers that GGUF files know by name (tokenizer.ggml.pre).
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

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
constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})"
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

struct Description {
  std::string_view name;
  std::string_view pattern;  // "" for GPT-2's
  bool digits_one_by_one = false;
  bool normalize_nfc = false;
  bool ignore_merges = false;
};

constexpr std::array kDescriptions = {
    Description{.name = "gpt-2", .pattern = ""},
    Description{.name = "smollm", .pattern = "", .digits_one_by_one = true},
    Description{.name = "llama-bpe", .pattern = kLlama3Pattern, .ignore_merges = true},
    Description{.name = "dbrx", .pattern = kLlama3Pattern},  // Phi-4's too
    Description{.name = "qwen2", .pattern = kQwen2Pattern, .normalize_nfc = true},
    Description{.name = "tekken", .pattern = kTekkenPattern, .ignore_merges = true},
    Description{.name = "gpt-4o", .pattern = kGpt4oPattern},
};

const Description& find_description(std::string_view name) {
  const auto found =
      std::find_if(kDescriptions.begin(), kDescriptions.end(),
                   [&](const Description& description) { return description.name == name; });
  if (found == kDescriptions.end()) {
    std::string known;
    for (const Description& description : kDescriptions) {
      known += fmt::format("{}{}", known.empty() ? "" : ", ", description.name);
    }
    throw UserError(fmt::format(
        "tokenizer.ggml.pre: the pre-tokenizer \"{}\" is not implemented (only: {}); use the "
        "model's Hugging Face directory with its tokenizer.json",
        name, known));
  }
  return *found;
}

}  // namespace

NamedPreTokenizer gguf_pre_tokenizer(std::string_view name) {
  const Description& description = find_description(name);
  NamedPreTokenizer result;
  result.ignore_merges = description.ignore_merges;
  if (description.normalize_nfc) {
    result.normalizer.emplace_back(UnicodeForm::kNfc);
  }
  if (description.digits_one_by_one) {
    result.steps.emplace_back(SplitStep{Regex("\\p{N}"), DelimiterBehavior::kIsolated, false});
  }
  const bool has_pattern = !description.pattern.empty();
  if (has_pattern) {
    result.steps.emplace_back(SplitStep{Regex(oniguruma_to_pcre2(description.pattern)),
                                        DelimiterBehavior::kIsolated, false});
  }
  result.steps.emplace_back(ByteLevelStep{.add_prefix_space = false, .use_regex = !has_pattern});
  return result;
}

}  // namespace bipo
