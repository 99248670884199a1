// Models for text and images (or sound) around a decoder of a supported family, of which only the
// text part is computed.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bipo {

// How such a model's files wrap those of its text part.  The defaults are what transformers 5.23
// and 4.57 have in common for its wrappers.
struct Wrapper {
  std::string_view architecture;  // in config.json's "architectures"
  std::string_view model_type;    // in config.json
  // What "text_config" may have as model_type; the first where it has none.
  std::vector<std::string_view> text_types;
  // Names of the modules beside the text part, and of settings that only they need.
  std::vector<std::string_view> other_modules;
  std::vector<std::string_view> other_settings;
  bool tied_head = true;  // where config.json does not say so outside of "text_config"

  // Beginnings, in files, of the names that begin with "model." in files of the text part alone.
  std::vector<std::string_view> text_names = {"language_model.model.", "model.language_model.",
                                              "language_model."};
  std::vector<std::string_view> head_names = {"language_model.lm_head.weight", "lm_head.weight"};
  std::string_view text_module = "model.language_model.";  // in transformers' class

  // Returns the module of another part that holds the tensor `name` of a file.
  std::optional<std::string_view> other_module(std::string_view name) const;
};

// Return nullptr for what is no wrapper.
const Wrapper* find_wrapper(std::string_view architecture);
const Wrapper* find_wrapper_of_type(std::string_view model_type);

// Returns "Gemma3ForConditionalGeneration, ...".
std::string supported_wrappers();

}  // namespace bipo
