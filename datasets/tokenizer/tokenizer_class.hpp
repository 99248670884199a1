// The classes of transformers that a model directory's tokenizer is made an object of, as far as
// they change what tokenizer.json says.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "datasets/tokenizer/tokenizer_parts.hpp"

namespace bipo {

// The two versions whose rules are known: 4.57.6 and 5.23.0.
enum class TransformersVersion { k4, k5 };

// What the choice of the class depends on.
struct TokenizerClassInputs {
  std::string model_type;            // of config.json; may be empty
  std::string named_class;           // tokenizer_config.json's, else config.json's; may be empty
  bool has_own_code = false;         // auto_map names a class of the model's own
  bool mentions_byte_level = false;  // tokenizer.json has a ByteLevel component
};

// A class without its suffix "Fast"; "TokenizersBackend" follows tokenizer.json.
struct TokenizerClass {
  std::string name = "TokenizersBackend";
  bool is_implemented = true;  // false: it has rules of its own that are not known here

  // Special tokens that it names where the files do not, by attribute.
  std::map<std::string, std::string> default_tokens;

  // 4.57.6: add_bos_token and add_eos_token replace the post-processor; the first one's default.
  std::optional<bool> adds_bos_by_default;

  bool adds_named_tokens_again = false;  // with plain flags
  bool drops_post_processor = false;
};

// Follows AutoTokenizer of that version.
TokenizerClass choose_tokenizer_class(const TokenizerClassInputs& inputs,
                                      TransformersVersion version);

// Returns the components that version 5's class puts in the place of tokenizer.json's;
// nothing if it follows the file.  `settings` are those of tokenizer_config.json; `unknown` is
// the class's unk_token.
std::optional<RebuiltComponents> rebuilt_components(const TokenizerClass& chosen,
                                                    const nlohmann::ordered_json& settings,
                                                    const std::string& unknown);

// Whether both describe the same components, whatever the spelling.
bool same_components(const RebuiltComponents& rebuilt, const nlohmann::json& tokenizer_json);

// Names the normalizer and pre-tokenizer of a document for a message, as "NFC, Split, ByteLevel".
std::string component_names(const nlohmann::json& root);

}  // namespace bipo
