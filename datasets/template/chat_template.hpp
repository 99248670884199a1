// Renders conversations the way a model's own chat template does.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "datasets/template/chat_template_source.hpp"
#include "datasets/text/conversation.hpp"
#include "datasets/text/template_date.hpp"

namespace bipo {

struct ChatTemplateSettings {
  // "auto" (the model's own), one of ChatTemplate::names(), or the path of a file with a template.
  std::string choice = "auto";
  TemplateDate date;  // must be a calendar's
};

// A chat template that was understood: the text before an answer, and the answer's own text.
//
// Any template is taken whose renderings of a few conversations hold together: each turn's text
// stands there as it is (but for white space at its ends) and once; the conversation with an answer
// begins with the one that awaits it; between the two stands nothing but white space or an empty
// <think> block.  What follows the answer is the same after every answer.
class ChatTemplate {
 public:
  // Throws UserError when the model has no template and none is chosen, when it cannot be run or
  // does not hold together, or when the choice is neither a name nor a file; the message says what
  // to choose.
  ChatTemplate(const ChatTemplateSource& model, const ChatTemplateSettings& settings);
  static ChatTemplate from_model_directory(const std::filesystem::path& directory,
                                           const ChatTemplateSettings& settings);
  static std::vector<std::string> names();

  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  // The format chosen by name, or the one that the turns are written in; "custom" where it has no
  // name.
  const std::string& name() const;

  // False where the template refuses system turns or leaves them out.
  bool takes_system_turn() const;

  // Whether the text depends on the date.
  bool prints_date() const;

  // The text that the template itself puts into the system turn where none is sent ("" where it
  // puts none).
  const std::string& implied_system_text() const;

  // What the template writes behind every answer, from the end-of-turn marker on; where there is no
  // marker, what comes before the next turn.
  const std::string& end_of_answer() const;

  // The conversation followed by the generation header, exactly as transformers'
  // apply_chat_template(..., add_generation_prompt=True, tokenize=False) gives it.
  std::string render_prompt(const std::vector<Message>& messages) const;

  // What the template puts between the generation header and the end-of-turn marker when it renders
  // `answer` as the turn after a single user turn: some trim it, some put spaces around it, some an
  // empty <think> block before it (which both answers of a pair then share, as in TRL).
  std::string render_answer(const std::string& answer) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace bipo
