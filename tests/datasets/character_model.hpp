// The text side of a model directory whose tokenizer has one token per ASCII character, so that ids
// are easy to write down.
#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "datasets/text/template_date.hpp"
#include "datasets/tokenizer/tokenizer.hpp"

namespace bipo::testing {

inline constexpr TokenId kLineBreakThenA = 200;  // the only merge
inline constexpr TokenId kTurnBegin = 300;
inline constexpr TokenId kTurnEnd = 301;
inline constexpr TokenId kBos = 302;

inline constexpr const char* kChatMl =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

// kChatMl for users and assistants only.
inline std::string without_system_turns() {
  return std::string(
             "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}") +
         kChatMl;
}

// Ids are the ASCII codes; "<", ">" and "!" are the three special tokens.
inline std::vector<TokenId> ids(const std::string& text) {
  std::vector<TokenId> result;
  for (const char character : text) {
    result.push_back(character == '<'   ? kTurnBegin
                     : character == '>' ? kTurnEnd
                     : character == '!' ? kBos
                                        : static_cast<TokenId>(character));
  }
  return result;
}

inline nlohmann::json character_tokenizer() {
  using Json = nlohmann::json;
  Json vocabulary;
  for (char character = '!'; character <= '~'; ++character) {
    vocabulary[std::string(1, character)] = static_cast<int>(character);
  }
  vocabulary["\u0120"] = 32;  // a space, in the byte-level alphabet
  vocabulary["\u010a"] = 10;  // a line break
  vocabulary["\u010aA"] = kLineBreakThenA;
  vocabulary["<|im_start|>"] = kTurnBegin;
  vocabulary["<|im_end|>"] = kTurnEnd;
  vocabulary["<s>"] = kBos;
  const auto added = [](TokenId id, const char* content) {
    return Json{{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
                {"rstrip", false}, {"normalized", false}, {"special", true}};
  };
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", false}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens",
           {added(kTurnBegin, "<|im_start|>"), added(kTurnEnd, "<|im_end|>"), added(kBos, "<s>")}},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"vocab", vocabulary},
            {"merges", {"\u010a A"}}}}};
}

// For templates that print none.
constexpr TemplateDate kSomeDate{
    {std::chrono::year{2020}, std::chrono::month{1}, std::chrono::day{2}}, /*given=*/false};

inline void write_json(const std::filesystem::path& path, const nlohmann::json& content) {
  std::ofstream(path, std::ios::binary) << content.dump();
}

// The files that make `directory` such a model's.
inline void write_character_model(const std::filesystem::path& directory,
                                  const std::string& chat_template) {
  write_json(directory / "tokenizer.json", character_tokenizer());
  write_json(directory / "tokenizer_config.json",
             {{"chat_template", chat_template}, {"bos_token", "<s>"}, {"eos_token", "<|im_end|>"}});
}

}  // namespace bipo::testing
