#include "trainer/model/gguf/gguf_model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "datasets/tokenizer/gguf_tokenizer.hpp"
#include "datasets/tokens/model_text.hpp"
#include "trainer/model/gguf/gguf_file.hpp"

namespace bipo {
namespace {

constexpr const char* kChatTemplate = "tokenizer.chat_template";
constexpr const char* kChatTemplates = "tokenizer.chat_templates";  // names of further ones

class TokenizerKeys {
 public:
  explicit TokenizerKeys(const GgufFile& file) : file_(file) {}

  static std::string full(const char* key) { return fmt::format("tokenizer.ggml.{}", key); }

  [[noreturn]] void refuse(const char* key, std::string_view what) const {
    throw UserError(fmt::format("{}: metadata {}: {}", file_.path().string(), full(key), what));
  }

  const GgufValue* find(const char* key) const { return file_.find_value(full(key)); }

  // Returns what `read` makes of the value; nothing if the key is absent.
  template <class Read>
  auto optional(const char* key, const char* kind, const Read& read) const
      -> decltype(read(std::declval<const GgufValue&>())) {
    const GgufValue* value = find(key);
    if (value == nullptr) {
      return std::nullopt;
    }
    auto result = read(*value);
    if (!result) {
      refuse(key, fmt::format("must be {}", kind));
    }
    return result;
  }

  std::optional<bool> truth(const char* key) const {
    return optional(key, "true or false", [](const GgufValue& value) { return value.boolean(); });
  }
  std::optional<std::int64_t> integer(const char* key) const {
    return optional(key, "an integer", [](const GgufValue& value) { return value.integer(); });
  }
  std::string text(const char* key) const {
    return std::string(optional(key, "a string", [](const GgufValue& value) {
                         return value.text();
                       }).value_or(""));
  }
  std::vector<std::string> texts(const char* key) const {
    const auto views =
        optional(key, "a list of strings", [](const GgufValue& value) { return value.texts(); });
    return views ? std::vector<std::string>(views->begin(), views->end())
                 : std::vector<std::string>();
  }

 private:
  const GgufFile& file_;
};

// Refuses SentencePiece's own rewriting of texts, which the supported models do not use.
void check_rewriting(const TokenizerKeys& keys) {
  if (keys.truth("remove_extra_whitespaces").value_or(false)) {
    keys.refuse("remove_extra_whitespaces", "true is not implemented");
  }
  const GgufValue* map = keys.find("precompiled_charsmap");
  if (map != nullptr && map->count() != 0) {
    keys.refuse("precompiled_charsmap", "normalisation by such a table is not implemented");
  }
}

// llama.cpp's rule for Phi-3, whose files lack the flags of its added tokens.
bool is_phi3(const GgufFile& file) {
  const GgufValue* value = file.find_value("general.name");
  std::string name(value == nullptr ? "" : value->text().value_or(""));
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  return name.find("phi-3") != std::string::npos || name.find("phi3") != std::string::npos;
}

GgufVocabulary read_vocabulary(const GgufFile& file, const TokenizerKeys& keys) {
  if (keys.find("tokens") == nullptr) {
    keys.refuse("tokens",
                "is missing: the file holds no tokenizer; use the model's Hugging Face directory");
  }
  check_rewriting(keys);
  GgufVocabulary vocabulary;
  vocabulary.model = keys.text("model");
  vocabulary.pre = keys.text("pre");
  vocabulary.tokens = keys.texts("tokens");
  vocabulary.merges = keys.texts("merges");
  vocabulary.scores = keys.optional("scores", "a list of float32 numbers",
                                    [](const GgufValue& value) { return value.floats(); })
                          .value_or(std::vector<float>());
  vocabulary.token_type = keys.optional("token_type", "a list of integers",
                                        [](const GgufValue& value) { return value.integers(); })
                              .value_or(std::vector<std::int64_t>());
  vocabulary.add_space_prefix = keys.truth("add_space_prefix");
  vocabulary.unknown_token_id = keys.integer("unknown_token_id");
  vocabulary.special_tokens_strip_right = vocabulary.model == "llama" && is_phi3(file);
  return vocabulary;
}

std::optional<TokenId> token_id(const TokenizerKeys& keys, const char* key, std::size_t tokens) {
  const std::optional<std::int64_t> id = keys.integer(key);
  if (!id) {
    return std::nullopt;
  }
  if (*id < 0 || static_cast<std::uint64_t>(*id) >= tokens) {
    keys.refuse(key, fmt::format("{} is outside the vocabulary of {} tokens", *id, tokens));
  }
  return static_cast<TokenId>(*id);
}

// Returns "" where the file has no such key.
std::string template_text(const GgufFile& file, const std::string& key) {
  const GgufValue* value = file.find_value(key);
  if (value == nullptr) {
    return "";
  }
  const auto text = value->text();
  if (!text) {
    throw UserError(fmt::format("{} ({}): must be a string", file.path().string(), key));
  }
  return std::string(*text);
}

ChatTemplateSource read_chat_template(const GgufFile& file, const GgufVocabulary& vocabulary,
                                      const TokenizerKeys& keys) {
  ChatTemplateSource source;
  source.where = fmt::format("{} ({})", file.path().string(), kChatTemplate);
  source.text = template_text(file, kChatTemplate);
  if (const GgufValue* names = file.find_value(kChatTemplates)) {
    for (const std::string_view name : names->texts().value_or(std::vector<std::string_view>())) {
      source.named[std::string(name)] =
          template_text(file, fmt::format("{}.{}", kChatTemplate, name));
    }
  }
  const auto add = [&](const char* variable, const char* key) {
    if (const auto id = token_id(keys, key, vocabulary.tokens.size())) {
      source.special_tokens[variable] = vocabulary.tokens[static_cast<std::size_t>(*id)];
    }
  };
  add("bos_token", "bos_token_id");
  add("eos_token", "eos_token_id");
  add("unk_token", "unknown_token_id");
  add("sep_token", "seperator_token_id");  // the format's own spelling
  add("pad_token", "padding_token_id");
  return source;
}

SpecialTokens read_special_tokens(const TokenizerKeys& keys, const GgufVocabulary& vocabulary) {
  const auto find = [&](const char* key) { return token_id(keys, key, vocabulary.tokens.size()); };
  const std::optional<bool> add_bos = keys.truth("add_bos_token");
  SpecialTokens special;
  special.bos = find("bos_token_id");
  special.eos = find("eos_token_id");
  if (special.bos && add_bos.value_or(gguf_begins_with_bos(vocabulary))) {
    special.before_text = {*special.bos};
  }
  if (special.eos && keys.truth("add_eos_token").value_or(false)) {
    special.after_text = {*special.eos};
  }
  if (add_bos.value_or(vocabulary.model == "llama" || vocabulary.pre == "llama-bpe")) {
    special.earlier_bos = special.bos;
  }
  for (const char* name : {"eot_token_id", "eom_token_id"}) {  // end of turn, end of message
    if (const auto id = find(name)) {
      special.ends.push_back(*id);
    }
  }
  const std::vector<TokenId> by_text = gguf_end_tokens(vocabulary);
  special.ends.insert(special.ends.end(), by_text.begin(), by_text.end());
  return special;
}

std::vector<std::string> warnings_of(const GgufFile& file, const GgufVocabulary& vocabulary) {
  if (vocabulary.model != "gpt2" || !(vocabulary.pre.empty() || vocabulary.pre == "default")) {
    return {};
  }
  return {fmt::format(
      "{}: metadata {} is {}: the converter did not know how the model cuts its texts; followed "
      "here: llama.cpp's rule for such files, which may differ from the model's own (the Hugging "
      "Face directory has that)",
      file.path().string(), TokenizerKeys::full("pre"),
      vocabulary.pre.empty() ? "missing" : "\"default\"")};
}

Tokenizer make_tokenizer(const GgufFile& file, const GgufVocabulary& vocabulary) {
  try {
    return Tokenizer::from_gguf(vocabulary);
  } catch (const UserError& error) {
    throw UserError(fmt::format("{}: {}", file.path().string(), error.what()));
  }
}

}  // namespace

ModelText read_gguf_text(const GgufFile& file) {
  const TokenizerKeys keys(file);
  const GgufVocabulary vocabulary = read_vocabulary(file, keys);
  return {make_tokenizer(file, vocabulary), read_special_tokens(keys, vocabulary),
          read_chat_template(file, vocabulary, keys), warnings_of(file, vocabulary)};
}

}  // namespace bipo
