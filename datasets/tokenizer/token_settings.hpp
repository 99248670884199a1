// The special and added tokens that the files beside a tokenizer.json name.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "datasets/tokenizer/added_tokens.hpp"
#include "datasets/tokenizer/tokenizer_class.hpp"

namespace bipo {

// The JSON files of a model directory that describe its text; an object each, in the file's order,
// and an empty one for a file that is absent.
struct TextFiles {
  std::filesystem::path directory;
  nlohmann::ordered_json tokenizer_config;
  nlohmann::ordered_json special_tokens_map;
  nlohmann::ordered_json added_tokens;
  nlohmann::ordered_json config;
  nlohmann::ordered_json generation_config;

  bool has_tokenizer_config = false;
};

// Throws UserError for a file that is not a JSON object.
TextFiles read_text_files(const std::filesystem::path& directory);

// A token as a setting gives it: a mere text, or with flags.
struct TokenSetting {
  AddedToken token;  // of a text: special and not normalized
  bool has_flags = false;
};

// What one version of transformers makes of the settings.
struct TokenSettings {
  // By attribute: bos_token, eos_token, unk_token, sep_token, pad_token, cls_token, mask_token in
  // this order, then the model's own, as image_token.
  std::vector<std::pair<std::string, TokenSetting>> named;
  std::vector<TokenSetting> others;           // without a name
  std::map<std::int64_t, AddedToken> listed;  // added_tokens_decoder, or what stands for it
  bool splits_special_tokens = false;

  const TokenSetting* find(const std::string& attribute) const;
};

// Reads the settings as the version's from_pretrained does: `chosen` gives the tokens that the
// files do not name, and `in_tokenizer_json` is that file's list.  Throws UserError naming file and
// key for values of another kind.
TokenSettings read_token_settings(const TextFiles& files, const TokenizerClass& chosen,
                                  const std::vector<AddedToken>& in_tokenizer_json,
                                  TransformersVersion version);

// Adds all the tokens of the settings to those of tokenizer.json, in the version's order.
void add_tokens(const TokenSettings& settings, const TokenizerClass& chosen,
                TransformersVersion version, AddedVocabulary& vocabulary);

}  // namespace bipo
