// Renders conversations the way a model's own chat template does.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "datasets/preference_pairs.hpp"

namespace bipo {

// A chat template that was recognised: the text before an answer, and the answer's own text.
class ChatTemplate {
 public:
  // `name` is "auto" (recognise the template of the model directory: chat_template.jinja, else the
  // `chat_template` of tokenizer_config.json), or one of names().  Throws UserError when there is
  // no template, when it is not one of the known families, or when `name` is unknown; the message
  // names the known ones and --chat-template.
  static ChatTemplate from_model_directory(const std::filesystem::path& directory,
                                           const std::string& name = "auto");
  static std::vector<std::string> names();  // "chatml", "llama-2", "llama-3"

  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  const std::string& name() const;

  // False where the template refuses system turns.
  bool takes_system_turn() const;

  // The text the template itself puts where no system message is sent ("" where it puts none).
  std::string implied_system_text() const;

  // The conversation followed by the generation header, exactly as transformers'
  // apply_chat_template(..., add_generation_prompt=True, tokenize=False) gives it.
  std::string render_prompt(const std::vector<Message>& messages) const;

  // What stands between the generation header and the end-of-turn marker when the template renders
  // `answer` as the assistant's turn (some trim it or put spaces around it).
  std::string render_answer(const std::string& answer) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace bipo
