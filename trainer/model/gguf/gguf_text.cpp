#include "trainer/model/gguf/gguf_model.hpp"

#include <fmt/format.h>

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

GgufVocabulary read_vocabulary(const TokenizerKeys& keys) {
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

// Whether texts begin with a BOS, by llama.cpp's rule if the file does not say.
bool begins_with_bos(const TokenizerKeys& keys, const GgufVocabulary& vocabulary) {
  return keys.truth("add_bos_token")
      .value_or(vocabulary.model == "llama" || vocabulary.pre == "llama-bpe");
}

ChatTemplateSource read_chat_template(const GgufFile& file, const GgufVocabulary& vocabulary,
                                      const TokenizerKeys& keys) {
  ChatTemplateSource source;
  source.where = fmt::format("{} ({})", file.path().string(), kChatTemplate);
  if (const GgufValue* value = file.find_value(kChatTemplate)) {
    const auto text = value->text();
    if (!text) {
      throw UserError(fmt::format("{}: must be a string", source.where));
    }
    source.text = *text;
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
  const GgufVocabulary vocabulary = read_vocabulary(keys);
  SpecialTokens special;
  if (begins_with_bos(keys, vocabulary)) {
    special.bos = token_id(keys, "bos_token_id", vocabulary.tokens.size());
  }
  special.eos = token_id(keys, "eos_token_id", vocabulary.tokens.size());
  for (const char* name : {"eot_token_id", "eom_token_id"}) {  // end of turn, end of message
    if (const auto id = token_id(keys, name, vocabulary.tokens.size())) {
      special.ends.push_back(*id);
    }
  }
  return {
      make_tokenizer(file, vocabulary), special, read_chat_template(file, vocabulary, keys), {}};
}

}  // namespace bipo
