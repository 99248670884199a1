// Renders conversations as a model's own chat template does.
#pragma once

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
  TemplateDate date;  // must be valid
};

// A chat template and what probing has shown of it: the text before an answer, and the answer's own
// text.
//
// Accepts any template whose renderings of a few conversations are consistent: each turn's text is
// there once, unaltered except for white space at its ends; the conversation with an answer begins
// with the one that awaits it; between the two is nothing but white space or an empty <think>
// block. The text after the answer is the same after every answer.
class ChatTemplate {
 public:
  // Throws UserError when the model has no template and none is chosen, when the template cannot be
  // run or is not consistent, or when the choice is neither a name nor a file; the message says
  // what to choose.
  ChatTemplate(const ChatTemplateSource& model, const ChatTemplateSettings& settings);
  static std::vector<std::string> names();

  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  // Returns the format chosen by name, or the one in which the template writes turns; "custom" if
  // that has no name.
  const std::string& name() const;

  // False if the template refuses or omits system turns.
  bool takes_system_turn() const;

  // Whether the text depends on the date.
  bool prints_date() const;

  // Returns the text that the template itself writes as the system turn of a conversation without
  // one; "" if it writes none.
  const std::string& implied_system_text() const;

  // Returns the text after every answer, from the end-of-turn marker on; without a marker, all the
  // text before the next turn.
  const std::string& end_of_answer() const;

  // Renders the conversation and the generation header, exactly as transformers'
  // apply_chat_template(..., add_generation_prompt=True, tokenize=False) does.
  std::string render_prompt(const std::vector<Message>& messages) const;

  // Returns the text between the generation header and the end-of-turn marker when `answer` follows
  // a single user turn: some templates trim it, some put spaces around it, some an empty <think>
  // block before it (which both answers of a pair then share, as in TRL).
  std::string render_answer(const std::string& answer) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace bipo
