#include "datasets/tokenizer/token_settings.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <set>
#include <string_view>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/untrusted_json.hpp"

namespace bipo {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array kAttributes = std::to_array<const char*>(
    {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"});
constexpr const char* kExtra = "extra_special_tokens";
constexpr const char* kAdditional = "additional_special_tokens";
constexpr const char* kDecoder = "added_tokens_decoder";

bool is_attribute(const std::string& key) {
  return std::find(kAttributes.begin(), kAttributes.end(), key) != kAttributes.end();
}

bool names_token(const std::string& key) {
  return key.ends_with("_token");
}

[[noreturn]] void fail(const std::string& where, std::string_view rule) {
  throw UserError(fmt::format("{}: {}", where, rule));
}

bool read_flag(const Json& object, const char* key, bool fallback, const std::string& where) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) {
    return fallback;
  }
  if (!found->is_boolean()) {
    fail(where, fmt::format("\"{}\" must be true or false", key));
  }
  return found->get<bool>();
}

// Reads an added token as transformers writes it.
AddedToken token_with_flags(const Json& object, bool is_special, const std::string& where) {
  const auto content = object.find("content");
  if (content == object.end() || !content->is_string()) {
    fail(where, "an added token must have the text \"content\"");
  }
  AddedToken token;
  token.content = content->get<std::string>();
  token.special = is_special || read_flag(object, "special", false, where);
  token.single_word = read_flag(object, "single_word", false, where);
  token.lstrip = read_flag(object, "lstrip", false, where);
  token.rstrip = read_flag(object, "rstrip", false, where);
  token.normalized = read_flag(object, "normalized", !token.special, where);
  return token;
}

AddedToken plain_special(std::string content) {
  AddedToken token;
  token.content = std::move(content);
  token.special = true;
  return token;
}

// Reads a token that is named or stands in a list: its text, or an object with flags.
TokenSetting read_setting(const Json& value, bool is_special, const std::string& where) {
  if (value.is_string()) {
    return {plain_special(value.get<std::string>()), false};
  }
  if (!value.is_object()) {
    fail(where, "must be the text of a token, or an object with \"content\"");
  }
  return {token_with_flags(value, is_special, where), true};
}

// Collects the settings of one directory; members are in the order in which transformers sees them.
class Collector {
 public:
  Collector(const TextFiles& files, TransformersVersion version)
      : files_(files), is_5_(version == TransformersVersion::k5) {}

  TokenSettings collect(const TokenizerClass& chosen,
                        const std::vector<AddedToken>& in_tokenizer_json) {
    read_config();
    const bool has_list =
        files_.tokenizer_config.contains(kDecoder) && !files_.tokenizer_config[kDecoder].is_null();
    if (has_list) {
      read_decoder();
    } else {
      read_special_tokens_map();
      read_added_tokens_file();
      for (const AddedToken& token : in_tokenizer_json) {
        settings_.listed[token.id] = token;
      }
    }
    finish(chosen);
    return std::move(settings_);
  }

 private:
  using Named = std::vector<std::pair<std::string, TokenSetting>>;

  std::string in_config(const std::string& key) const {
    return (files_.directory / "tokenizer_config.json").string() + ": " + key;
  }
  std::string in_map(const std::string& key) const {
    return (files_.directory / "special_tokens_map.json").string() + ": " + key;
  }

  void set(Named& list, const std::string& key, TokenSetting value) {
    for (auto& [name, setting] : list) {
      if (name == key) {
        setting = std::move(value);
        return;
      }
    }
    list.emplace_back(key, std::move(value));
  }

  // A table of the model's own tokens: {"image_token": "<image>"}.
  void read_table(const Json& table, Named& target, const std::string& where) {
    for (const auto& [name, value] : table.items()) {
      if (!value.is_null()) {
        set(target, name, read_setting(value, false, fmt::format("{}.{}", where, name)));
      }
    }
  }

  void read_list(const Json& list, bool is_special, const std::string& where) {
    for (const Json& value : list) {
      TokenSetting setting = read_setting(value, is_special, where);
      const bool is_known = std::any_of(settings_.others.begin(), settings_.others.end(),
                                        [&](const TokenSetting& other) {
                                          return other.token.content == setting.token.content &&
                                                 other.has_flags == setting.has_flags;
                                        });
      if (!is_known) {
        settings_.others.push_back(std::move(setting));
      }
    }
  }

  void read_others(const Json& value, Named& named_ones, bool is_special,
                   const std::string& where) {
    if (value.is_object()) {
      read_table(value, named_ones, where);
    } else if (value.is_array()) {
      read_list(value, is_special, where);
    } else if (!value.is_null()) {
      fail(where, "must be a list of tokens or a table of names and tokens");
    }
  }

  void read_config() {
    const Json& config = files_.tokenizer_config;
    const auto is_empty = [&](const char* key) {
      return !config.contains(key) || config[key].is_null() || config[key].empty();
    };
    for (const auto& [key, value] : config.items()) {
      if (is_attribute(key)) {
        is_given_.insert(key);
        if (!value.is_null()) {
          set(attributes_, key, read_setting(value, false, in_config(key)));
        }
      } else if (is_5_ && names_token(key) && value.is_string()) {
        set(own_, key, read_setting(value, false, in_config(key)));
      } else if (is_5_ && names_token(key) && value.is_object() && value.contains("__type")) {
        set(recognised_later_, key, read_setting(value, false, in_config(key)));
      }
    }
    if (!is_empty(kExtra)) {
      read_others(config[kExtra], own_, false, in_config(kExtra));
    }
    if (!is_empty(kAdditional) && (!is_5_ || is_empty(kExtra))) {
      read_others(config[kAdditional], own_, false, in_config(kAdditional));
    }
    settings_.splits_special_tokens =
        read_flag(config, "split_special_tokens", false,
                  (files_.directory / "tokenizer_config.json").string());
  }

  void read_decoder() {
    const Json& list = files_.tokenizer_config[kDecoder];
    if (!list.is_object()) {
      fail(in_config(kDecoder), "must be a table of ids and tokens");
    }
    for (const auto& [key, value] : list.items()) {
      const std::string where = fmt::format("{}[\"{}\"]", in_config(kDecoder), key);
      std::int64_t id = 0;
      const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
      if (error != std::errc() || end != key.data() + key.size() || !value.is_object()) {
        fail(where, "must be a token, under its id");
      }
      settings_.listed[id] = token_with_flags(value, false, where);
    }
  }

  // Version 5 passes over the list where another one is already there.
  bool takes_additional_of_map() const {
    const auto has = [](const Json& file, const char* key) {
      return file.contains(key) && !file[key].is_object();
    };
    return !is_5_ ||
           !(has(files_.tokenizer_config, kExtra) || has(files_.tokenizer_config, kAdditional) ||
             has(files_.special_tokens_map, kExtra));
  }

  void read_special_tokens_map() {
    for (const auto& [key, value] : files_.special_tokens_map.items()) {
      if (key == kExtra || (key == kAdditional && takes_additional_of_map())) {
        read_others(value, own_, true, in_map(key));
      } else if (is_attribute(key)) {
        is_given_.insert(key);
        std::erase_if(attributes_, [&key = key](const auto& entry) { return entry.first == key; });
        if (!value.is_null()) {
          attributes_.emplace_back(key, read_setting(value, true, in_map(key)));
        }
      } else if (is_5_ && names_token(key) && (value.is_string() || value.is_object())) {
        set(recognised_later_, key, read_setting(value, true, in_map(key)));
      }
    }
  }

  void read_added_tokens_file() {
    std::set<std::string> special;
    for (const auto& entry : attributes_) {
      special.insert(entry.second.token.content);
    }
    for (const TokenSetting& other : settings_.others) {
      special.insert(other.token.content);
    }
    for (const auto& [content, id] : files_.added_tokens.items()) {
      if (!id.is_number_integer()) {
        fail((files_.directory / "added_tokens.json").string(),
             fmt::format("\"{}\" must have an integer id", content));
      }
      AddedToken token;
      token.content = content;
      token.special = special.contains(content);
      token.normalized = !token.special;
      settings_.listed[id.get<std::int64_t>()] = token;
    }
  }

  // Orders the named tokens, gives them the flags of the listed ones, and fills in the class's own.
  void finish(const TokenizerClass& chosen) {
    for (const auto& [name, content] : chosen.default_tokens) {
      if (!is_given_.contains(name)) {
        attributes_.emplace_back(name, TokenSetting{plain_special(content), false});
      }
    }
    for (const char* attribute : kAttributes) {
      for (auto& [name, setting] : attributes_) {
        if (name == attribute) {
          take_listed_flags(setting, is_given_.contains(name));
          settings_.named.emplace_back(name, setting);
        }
      }
    }
    for (const Named* source : {&recognised_later_, &own_}) {
      for (const auto& [name, setting] : *source) {
        set(settings_.named, name, setting);
      }
    }
  }

  void take_listed_flags(TokenSetting& setting, bool is_given) const {
    if (!is_given) {
      return;
    }
    for (const auto& entry : settings_.listed) {  // the last one of a content counts
      if (entry.second.content == setting.token.content) {
        setting = {entry.second, true};
      }
    }
  }

  const TextFiles& files_;
  bool is_5_;
  TokenSettings settings_;
  Named attributes_;        // the seven
  Named own_;               // the model's own
  Named recognised_later_;  // and those that precede them: found when the class is called
  std::set<std::string> is_given_;
};

Json read_object(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) {
    return Json::object();
  }
  Json content = read_ordered_json_file(path);
  if (!content.is_object()) {
    throw UserError(fmt::format("{}: must hold a JSON object", path.string()));
  }
  return content;
}

bool is_named(const TokenSettings& settings, const std::string& content) {
  return std::any_of(settings.named.begin(), settings.named.end(),
                     [&](const auto& entry) { return entry.second.token.content == content; });
}

bool is_special_setting(const TokenSettings& settings, const std::string& content,
                        TransformersVersion version) {
  if (is_named(settings, content)) {
    return true;
  }
  return version == TransformersVersion::k4 &&
         std::any_of(settings.others.begin(), settings.others.end(),
                     [&](const TokenSetting& other) { return other.token.content == content; });
}

}  // namespace

TextFiles read_text_files(const std::filesystem::path& directory) {
  const auto read = [&](const char* name) { return read_object(directory / name); };
  TextFiles files;
  files.directory = directory;
  files.tokenizer_config = read("tokenizer_config.json");
  files.special_tokens_map = read("special_tokens_map.json");
  files.added_tokens = read("added_tokens.json");
  files.config = read("config.json");
  files.generation_config = read("generation_config.json");
  files.has_tokenizer_config = std::filesystem::exists(directory / "tokenizer_config.json");
  return files;
}

const TokenSetting* TokenSettings::find(const std::string& attribute) const {
  for (const auto& [name, setting] : named) {
    if (name == attribute) {
      return &setting;
    }
  }
  return nullptr;
}

TokenSettings read_token_settings(const TextFiles& files, const TokenizerClass& chosen,
                                  const std::vector<AddedToken>& in_tokenizer_json,
                                  TransformersVersion version) {
  return Collector(files, version).collect(chosen, in_tokenizer_json);
}

void add_tokens(const TokenSettings& settings, const TokenizerClass& chosen,
                TransformersVersion version, AddedVocabulary& vocabulary) {
  std::set<std::string> known;  // those of the tokenizer so far and of the list
  for (const AddedToken& token : vocabulary.tokens()) {
    known.insert(token.content);
  }
  for (const auto& entry : settings.listed) {
    known.insert(entry.second.content);
  }
  for (const auto& entry : settings.listed) {
    AddedToken token = entry.second;
    token.special = token.special || is_special_setting(settings, token.content, version);
    vocabulary.add(token);
  }
  const auto add_setting = [&](const TokenSetting& setting, bool is_special) {
    // Version 4 compares texts only, so that a token with flags is added again.
    const bool is_new = !known.contains(setting.token.content) ||
                        (version == TransformersVersion::k4 && setting.has_flags);
    if (is_new) {
      AddedToken token = setting.token;
      token.special = token.special || is_special;
      vocabulary.add(token);
    }
  };
  for (const auto& entry : settings.named) {
    add_setting(entry.second, true);
  }
  for (const TokenSetting& other : settings.others) {
    add_setting(other, version == TransformersVersion::k4);
  }
  if (chosen.adds_named_tokens_again) {
    for (const auto& entry : settings.named) {
      vocabulary.add(plain_special(entry.second.token.content));
    }
    for (const TokenSetting& other : settings.others) {
      vocabulary.add(plain_special(other.token.content));
    }
  }
}

}  // namespace bipo
