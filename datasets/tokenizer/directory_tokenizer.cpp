#include "datasets/tokenizer/directory_tokenizer.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/untrusted_json.hpp"
#include "datasets/tokenizer/token_settings.hpp"
#include "datasets/tokenizer/tokenizer_class.hpp"
#include "datasets/tokenizer/tokenizer_parts.hpp"

namespace bipo {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kShownTokens = 4;

std::string text_at(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

// "transformers_version" as the directory's files have it; empty if none says.
std::string written_version(const TextFiles& files) {
  for (const Json* file : {&files.config, &files.tokenizer_config, &files.generation_config}) {
    const std::string version = text_at(*file, "transformers_version");
    if (!version.empty()) {
      return version;
    }
  }
  return "";
}

bool was_written_by_version_4(const TextFiles& files) {
  const std::string version = written_version(files);
  return !version.empty() && std::atoi(version.c_str()) < 5;
}

// Version 5 looks for the word anywhere in the file.
bool mentions_byte_level(const nlohmann::json& value) {
  const auto model = value.find("model");
  if (model != value.end() && model->is_object()) {
    const auto vocabulary = model->find("vocab");
    if (vocabulary != model->end() && vocabulary->contains("ByteLevel")) {
      return true;
    }
  }
  for (const char* key : {"normalizer", "pre_tokenizer", "decoder", "post_processor"}) {
    const auto found = value.find(key);
    if (found != value.end() && found->dump().find("\"ByteLevel\"") != std::string::npos) {
      return true;
    }
  }
  return false;
}

TokenizerClassInputs class_inputs(const TextFiles& files, const nlohmann::json& document) {
  TokenizerClassInputs inputs;
  inputs.model_type = text_at(files.config, "model_type");
  inputs.named_class = text_at(files.tokenizer_config, "tokenizer_class");
  if (inputs.named_class.empty()) {
    inputs.named_class = text_at(files.config, "tokenizer_class");
  }
  const auto map = files.tokenizer_config.find("auto_map");
  inputs.has_own_code = map != files.tokenizer_config.end() &&
                        (map->is_array() || (map->is_object() && map->contains("AutoTokenizer")));
  inputs.mentions_byte_level = mentions_byte_level(document);
  return inputs;
}

// Version 4 knows neither version 5's own class nor a list of extra special tokens.
bool version_4_can_load(const TextFiles& files) {
  const auto extra = files.tokenizer_config.find("extra_special_tokens");
  return text_at(files.tokenizer_config, "tokenizer_class") != "TokenizersBackend" &&
         (extra == files.tokenizer_config.end() || !extra->is_array());
}

// The tokenizer that one version makes, without the parts that both share.
struct VersionResult {
  TransformersVersion version = TransformersVersion::k5;
  TokenizerClass chosen;
  std::optional<RebuiltComponents> rebuilt;  // nothing: as tokenizer.json says
  TokenSettings settings;
  std::vector<AddedToken> added;
  SurroundingTokens around;

  std::optional<std::string> text_of(const std::string& attribute) const {
    const TokenSetting* found = settings.find(attribute);
    return found == nullptr ? std::nullopt : std::optional(found->token.content);
  }
};

std::optional<TokenId> id_of_text(const VersionResult& result, const Vocabulary& vocabulary,
                                  const std::string& text) {
  for (const AddedToken& token : result.added) {
    if (token.content == text) {
      return token.id;
    }
  }
  const auto found = vocabulary.find(text);
  return found == vocabulary.end() ? std::nullopt : std::optional(found->second);
}

std::optional<TokenId> id_of(const VersionResult& result, const Vocabulary& vocabulary,
                             const std::string& attribute) {
  const std::optional<std::string> text = result.text_of(attribute);
  return text ? id_of_text(result, vocabulary, *text) : std::nullopt;
}

bool flag_of(const Json& object, const char* key, bool fallback) {
  const auto found = object.find(key);
  return found != object.end() && found->is_boolean() ? found->get<bool>() : fallback;
}

SurroundingTokens surrounding_tokens(const JsonNode& root, const TextFiles& files,
                                     const VersionResult& result, const Vocabulary& vocabulary) {
  if (result.chosen.drops_post_processor) {
    return {};
  }
  if (!result.chosen.adds_bos_by_default) {
    return read_post_processor(root);
  }
  SurroundingTokens tokens;
  const auto put = [&](const char* key, bool fallback, const char* attribute,
                       std::vector<TokenId>& place) {
    const auto id = id_of(result, vocabulary, attribute);
    if (flag_of(files.tokenizer_config, key, fallback) && id) {
      place.push_back(*id);
    }
  };
  put("add_bos_token", *result.chosen.adds_bos_by_default, "bos_token", tokens.before);
  put("add_eos_token", false, "eos_token", tokens.after);
  return tokens;
}

// Version 4 gives the ByteLevel pre-tokenizer of tokenizer.json the add_prefix_space of
// tokenizer_config.json.  Returns the components where that changes them.
std::optional<RebuiltComponents> with_prefix_space_of_config(const nlohmann::json& document,
                                                             const TextFiles& files) {
  const auto pre_tokenizer = document.find("pre_tokenizer");
  const auto model = document.find("model");
  if (pre_tokenizer == document.end() || !pre_tokenizer->is_object() || model == document.end() ||
      pre_tokenizer->value("type", nlohmann::json()) != "ByteLevel") {
    return std::nullopt;
  }
  const bool wanted = flag_of(files.tokenizer_config, "add_prefix_space", false);
  if (pre_tokenizer->value("add_prefix_space", nlohmann::json()) == nlohmann::json(wanted)) {
    return std::nullopt;
  }
  RebuiltComponents changed;
  for (const char* key : {"normalizer", "pre_tokenizer", "decoder"}) {
    changed.root[key] = document.value(key, nlohmann::json());
  }
  changed.root["pre_tokenizer"]["add_prefix_space"] = wanted;
  for (const auto& [key, value] : model->items()) {
    if (key != "vocab" && key != "merges") {
      changed.model[key] = value;
    }
  }
  return changed;
}

VersionResult resolve(TransformersVersion version, const TextFiles& files, const JsonNode& root,
                      const Vocabulary& vocabulary) {
  VersionResult result;
  result.version = version;
  result.chosen = choose_tokenizer_class(class_inputs(files, root.value()), version);
  const std::vector<AddedToken> listed = listed_added_tokens(root);
  result.settings = read_token_settings(files, result.chosen, listed, version);
  if (version == TransformersVersion::k5) {
    result.rebuilt = rebuilt_components(result.chosen, files.tokenizer_config,
                                        result.text_of("unk_token").value_or("None"));
  }
  AddedVocabulary added(vocabulary);
  if (!result.rebuilt) {
    for (const AddedToken& token : listed) {
      added.add(token);
    }
  }
  add_tokens(result.settings, result.chosen, version, added);
  result.added = added.tokens();
  if (result.rebuilt && same_components(*result.rebuilt, root.value())) {
    result.rebuilt.reset();
  }
  if (version == TransformersVersion::k4) {
    result.rebuilt = with_prefix_space_of_config(root.value(), files);
  }
  result.around = surrounding_tokens(root, files, result, vocabulary);
  return result;
}

Tokenizer make_tokenizer(TokenizerParts parts, const VersionResult& result) {
  parts.added_tokens = result.added;
  parts.splits_special_tokens = result.settings.splits_special_tokens;
  return Tokenizer::from_parts(std::move(parts));
}

// Texts that the usual rules of normalizers and pre-tokenizers cut differently.
std::vector<std::string> probes(const VersionResult& result) {
  std::vector<std::string> texts = {
      "The cat sat.",
      " a leading space",
      "  two  spaces  ",
      "don't I'LL we'd",
      "in 2024, 12345 of 1,000.50",
      "tab\tand\nline\n\n  break\r\n",
      "caf\u00e9 cafe\u0301 \u212b \ufb01",
      "\u4e2d\u6587 \u30c6\u30b9\u30c8 \u0939\u093f\u0928\u094d\u0926\u0940",
      "CamelCase_snake /path/x.py",
      "\u2581under\u2581score",
      "no\u00a0break \U0001f642!"};
  for (const char* attribute : {"bos_token", "eos_token"}) {
    if (const auto token = result.text_of(attribute)) {
      texts.push_back(*token + "after");
      texts.push_back("before" + *token + " after");
    }
  }
  return texts;
}

bool same_results(const Tokenizer& a, const Tokenizer& b, const std::vector<std::string>& texts) {
  return std::all_of(texts.begin(), texts.end(), [&](const std::string& text) {
    const std::vector<TokenId> ids = a.encode(text);
    return ids == b.encode(text) &&
           a.decode(ids, SpecialTokenText::kKept) == b.decode(ids, SpecialTokenText::kKept);
  });
}

bool is_same_token(const AddedToken& a, const AddedToken& b) {
  return a.id == b.id && a.content == b.content && a.special == b.special &&
         a.single_word == b.single_word && a.lstrip == b.lstrip && a.rstrip == b.rstrip &&
         a.normalized == b.normalized;
}

// The texts of the tokens that only one of the lists has, or that differ in id or flags.
std::vector<std::string> different_tokens(const std::vector<AddedToken>& a,
                                          const std::vector<AddedToken>& b) {
  std::set<std::string> different;
  const auto compare = [&](const std::vector<AddedToken>& one, const std::vector<AddedToken>& two) {
    std::unordered_map<std::string_view, const AddedToken*> others;
    for (const AddedToken& token : two) {
      others.emplace(token.content, &token);
    }
    for (const AddedToken& token : one) {
      const auto found = others.find(token.content);
      if (found == others.end() || !is_same_token(token, *found->second)) {
        different.insert(token.content);
      }
    }
  };
  compare(a, b);
  compare(b, a);
  return {different.begin(), different.end()};
}

std::string shown(std::vector<std::string> names) {
  const std::size_t all = names.size();
  names.resize(std::min(all, kShownTokens));
  return fmt::format("\"{}\"{}", fmt::join(names, "\", \""),
                     all > kShownTokens ? fmt::format(" and {} more", all - kShownTokens) : "");
}

std::string shown(const std::optional<std::string>& token) {
  return token ? fmt::format("\"{}\"", *token) : "none";
}

// Says in which settings of special tokens the versions differ.
std::vector<std::string> differences(const VersionResult& followed, const VersionResult& other) {
  std::vector<std::string> all;
  const std::vector<std::string> tokens = different_tokens(followed.added, other.added);
  if (!tokens.empty()) {
    all.push_back(fmt::format("the added tokens {}", shown(tokens)));
  }
  for (const char* attribute : {"bos_token", "eos_token"}) {
    if (followed.text_of(attribute) != other.text_of(attribute)) {
      all.push_back(fmt::format("{} ({} here, {} there)", attribute,
                                shown(followed.text_of(attribute)),
                                shown(other.text_of(attribute))));
    }
  }
  if (followed.around != other.around) {
    all.push_back(fmt::format(
        "what stands around a plain text (tokens {} before and {} after it "
        "here, {} and {} there)",
        followed.around.before, followed.around.after, other.around.before, other.around.after));
  }
  return all;
}

std::vector<std::string> id_warnings(const JsonNode& root, const Vocabulary& vocabulary,
                                     const std::string& path) {
  AddedVocabulary added(vocabulary);
  std::string first;
  std::size_t count = 0;
  for (const AddedToken& token : listed_added_tokens(root)) {
    added.add(token);
    const std::optional<TokenId> id = added.id_of(token.content);
    if (id && *id != token.id && ++count == 1) {
      first = fmt::format("\"{}\" has id {}, but gets {}", token.content, token.id, *id);
    }
  }
  if (count == 0) {
    return {};
  }
  return {fmt::format(
      "{}: added_tokens: {}{}: the id in model.vocab, or else the next one after the vocabulary's "
      "size and the added tokens before it, as in transformers; correct the ids in the file",
      path, first, count > 1 ? fmt::format(" (and {} more)", count - 1) : "")};
}

// Numbers under `key`: one, or a list.
std::vector<std::int64_t> numbers(const Json& object, const char* key) {
  std::vector<std::int64_t> found;
  const auto value = object.find(key);
  if (value == object.end()) {
    return found;
  }
  for (const Json& number : value->is_array() ? *value : Json::array({*value})) {
    if (number.is_number_integer()) {
      found.push_back(number.get<std::int64_t>());
    }
  }
  return found;
}

Json text_config(const TextFiles& files) {
  const auto found = files.config.find("text_config");
  return found != files.config.end() && found->is_object() ? *found : Json::object();
}

// Every file's end tokens, each once.
std::vector<TokenId> end_tokens(const TextFiles& files) {
  std::vector<TokenId> ends;
  for (const Json& file : {files.generation_config, files.config, text_config(files)}) {
    for (const std::int64_t id : numbers(file, "eos_token_id")) {
      const auto token = static_cast<TokenId>(id);
      if (id >= 0 && id == token && std::find(ends.begin(), ends.end(), token) == ends.end()) {
        ends.push_back(token);
      }
    }
  }
  return ends;
}

// Without tokenizer_config.json, the ids of the model's other files stand in.
std::optional<TokenId> numbered_token(const TextFiles& files, const char* key,
                                      std::int64_t vocabulary) {
  for (const auto& [file, name] : {std::pair{&files.generation_config, "generation_config.json"},
                                   std::pair{&files.config, "config.json"}}) {
    const auto value = file->find(key);
    if (value == file->end() || value->is_null()) {
      continue;
    }
    const std::vector<std::int64_t> ids = numbers(*file, key);
    if (ids.empty() || ids.front() < 0 || ids.front() >= vocabulary) {
      throw UserError(fmt::format("{}: {}: {} is not the id of one of the {} tokens",
                                  (files.directory / name).string(), key, value->dump(),
                                  vocabulary));
    }
    return static_cast<TokenId>(ids.front());
  }
  return std::nullopt;
}

std::string bos_of_tokenizer_config(const TextFiles& files) {
  const auto named = files.tokenizer_config.find("bos_token");
  if (named == files.tokenizer_config.end()) {
    return "";
  }
  return named->is_object() ? text_at(*named, "content")
                            : text_at(files.tokenizer_config, "bos_token");
}

// Highest id + 1.
std::int64_t vocabulary_size(const VersionResult& result, const Vocabulary& vocabulary) {
  std::int64_t size = 0;
  for (const auto& entry : vocabulary) {
    size = std::max(size, std::int64_t{entry.second} + 1);
  }
  for (const AddedToken& token : result.added) {
    size = std::max(size, std::int64_t{token.id} + 1);
  }
  return size;
}

SpecialTokens special_tokens(const TextFiles& files, const VersionResult& result,
                             const Vocabulary& vocabulary) {
  SpecialTokens special;
  special.bos = id_of(result, vocabulary, "bos_token");
  special.eos = id_of(result, vocabulary, "eos_token");
  if (!files.has_tokenizer_config) {
    const std::int64_t size = vocabulary_size(result, vocabulary);
    special.bos = special.bos ? special.bos : numbered_token(files, "bos_token_id", size);
    special.eos = special.eos ? special.eos : numbered_token(files, "eos_token_id", size);
  }
  special.ends = end_tokens(files);
  special.before_text = result.around.before;
  special.after_text = result.around.after;
  special.earlier_bos = special.bos;
  if (files.has_tokenizer_config) {
    const std::string text = bos_of_tokenizer_config(files);
    special.earlier_bos = text.empty() ? std::nullopt : id_of_text(result, vocabulary, text);
  }
  return special;
}

[[noreturn]] void refuse_without_tokenizer_json(const std::filesystem::path& directory) {
  const auto has = [&](const char* name) { return std::filesystem::exists(directory / name); };
  std::string found;
  for (const char* name : {"tokenizer.model", "tokenizer.model.v3", "tekken.json", "tiktoken.model",
                           "spiece.model", "vocab.json", "merges.txt"}) {
    if (has(name)) {
      found += fmt::format("{}{}", found.empty() ? "" : ", ", name);
    }
  }
  const std::string path = directory.string();
  if (found.empty()) {
    throw UserError(fmt::format(
        "{}: has no tokenizer.json, nor another tokenizer's file; copy those of the model that it "
        "was made from",
        path));
  }
  throw UserError(fmt::format(
      "{}: has no tokenizer.json, only {}; write it once with Python: from transformers import "
      "AutoTokenizer; AutoTokenizer.from_pretrained(\"{}\").save_pretrained(\"{}\") (needs the "
      "packages transformers, sentencepiece, protobuf and tiktoken; for vocab.json and merges.txt, "
      "tokenizer_class in tokenizer_config.json must name the model's class, as GPT2Tokenizer)",
      path, found, path, path));
}

std::map<std::string, std::string> texts_by_name(const VersionResult& result) {
  std::map<std::string, std::string> texts;
  for (const auto& [name, setting] : result.settings.named) {
    texts[name] = setting.token.content;
  }
  return texts;
}

// Says by which components the versions cut texts differently; `five` or `four` has rebuilt ones.
std::string component_difference(const VersionResult& five, const nlohmann::json& document) {
  if (!five.rebuilt) {
    return "add_prefix_space of the ByteLevel pre-tokenizer (4.57 takes tokenizer_config.json's, "
           "5.23 that of tokenizer.json)";
  }
  return fmt::format(
      "normalizer and pre-tokenizer (5.23 builds {} for its class {} in the place of "
      "tokenizer.json's {})",
      component_names(five.rebuilt->root), five.chosen.name, component_names(document));
}

std::string reason(const TextFiles& files) {
  const std::string version = written_version(files);
  return version.empty() ? "no transformers_version in config.json"
                         : fmt::format("transformers_version {}", version);
}

DirectoryTokenizer build(const TextFiles& files, const nlohmann::json& document,
                         const std::string& path) {
  const JsonNode root(document, "");
  TokenizerParts parts = tokenizer_parts(root, std::nullopt);
  const Vocabulary& vocabulary = parts.model.vocabulary();
  const VersionResult five = resolve(TransformersVersion::k5, files, root, vocabulary);
  std::optional<VersionResult> four;
  if (version_4_can_load(files)) {
    four = resolve(TransformersVersion::k4, files, root, vocabulary);
  }
  const bool follows_4 = four && was_written_by_version_4(files);
  const VersionResult& followed = follows_4 ? *four : five;

  std::vector<std::string> warnings = id_warnings(root, vocabulary, path);
  std::vector<std::string> different;
  if (four) {
    different = differences(followed, follows_4 ? five : *four);
  }
  const SpecialTokens special = special_tokens(files, followed, vocabulary);
  Tokenizer tokenizer = followed.rebuilt
                            ? make_tokenizer(tokenizer_parts(root, followed.rebuilt), followed)
                            : make_tokenizer(std::move(parts), followed);
  if (five.rebuilt || (four && four->rebuilt)) {
    // With the same added tokens, so that only the components differ.
    const auto& other = follows_4 ? five.rebuilt : four ? four->rebuilt : std::nullopt;
    if (!same_results(tokenizer, make_tokenizer(tokenizer_parts(root, other), followed),
                      probes(followed))) {
      different.push_back(component_difference(five, document));
    }
  }
  if (!different.empty()) {
    warnings.push_back(fmt::format(
        "{}: transformers 5.23 and 4.57 differ on this tokenizer: {}; followed here: {} ({})",
        files.directory.string(), fmt::join(different, "; "), follows_4 ? "4.57" : "5.23",
        reason(files)));
  }
  if (!five.chosen.is_implemented) {
    warnings.push_back(fmt::format(
        "{}: tokenizer_class {}: transformers 5.23 builds this class's own normalizer and "
        "pre-tokenizer, which are not implemented; followed here: tokenizer.json",
        files.directory.string(), five.chosen.name));
  }
  return {std::move(tokenizer), special, texts_by_name(followed), std::move(warnings)};
}

}  // namespace

DirectoryTokenizer read_directory_tokenizer(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "tokenizer.json";
  if (std::filesystem::is_directory(directory) && !std::filesystem::exists(path)) {
    refuse_without_tokenizer_json(directory);
  }
  const nlohmann::json document = read_json_file(path);
  const TextFiles files = read_text_files(directory);
  try {
    return build(files, document, path.string());
  } catch (const UserError& error) {
    const std::string what = error.what();
    // May name another file of the directory already.  A place in tokenizer.json ("model: ...") may
    // read like the directory's name, but not with a slash behind it.
    const bool names_file = what.starts_with((directory / "").string());
    throw UserError(names_file ? what : fmt::format("{}: {}", path.string(), what));
  }
}

}  // namespace bipo
