// Renders conversations as a model's own chat template does.
#pragma once

#include <cstddef>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "datasets/template/chat_template_source.hpp"
#include "datasets/text/conversation.hpp"
#include "datasets/text/template_date.hpp"

namespace bipo {

// An object: variables that a template gets beside the turns, as transformers' apply_chat_template
// gets keyword arguments (`tools`, `enable_thinking`).
using TemplateVariables = nlohmann::ordered_json;

struct ChatTemplateSettings {
  // "auto" (the model's own), one of ChatTemplate::names(), or the path of a file with a template.
  std::string choice = "auto";
  TemplateDate date;  // must be valid
  // For every conversation; a conversation's own variables of the same names go before them.
  TemplateVariables arguments = TemplateVariables::object();
};

// A turn, or more, that answers a prompt.
struct AnswerTurns {
  std::vector<Message> prompt;
  std::vector<Message> answer;  // not empty
  TemplateVariables variables = TemplateVariables::object();
};

// Bytes [begin, end) of a text.
struct TextSpan {
  std::size_t begin = 0;
  std::size_t end = 0;
  bool operator==(const TextSpan&) const = default;
};

// A chat template and what probing has shown of it: the text before an answer, and the answer's own
// text.
//
// Accepts any template whose renderings of a few conversations are consistent: each turn's text is
// there once, unaltered except for white space at its ends; between the part that the conversation
// with an answer shares with the one that awaits it and the answer is nothing but white space, an
// empty block such as <think></think>, or the end of one that the prompt opens.  The text after the
// answer is the same after every answer.
//
// Turns, their further members and the variables reach the template as transformers 5.23 hands them
// over: without members that are null, and with reasoning under each of its names
// (reasoning_content, thinking).  With `tools`, a model's template named "tool_use" takes the place
// of its default one.
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

  // Returns the end of a prompt that a conversation with an answer does not have there, such as the
  // "<think>\n" of models that always reason; "" for most templates.  Given answers are tokenised
  // without it (the rule of TRL 1.16: the context ends where both begin to differ).
  const std::string& left_out_of_context() const;

  // Whether texts stand as they are, so that no system prompt is put before them.
  bool is_raw() const;

  // Whether the template can see a variable of this name.
  bool mentions(const std::string& variable) const;

  // Renders the conversation and the generation header, exactly as transformers'
  // apply_chat_template(..., add_generation_prompt=True, tokenize=False, **variables) does.  Throws
  // UserError if the template refuses the conversation.
  std::string render_prompt(const std::vector<Message>& messages,
                            const TemplateVariables& variables = TemplateVariables::object()) const;

  // Renders the whole conversation, as apply_chat_template(prompt + answer) does, up to the end of
  // the last answer turn: what the template writes from the end-of-turn marker on is left out.
  // Throws UserError if the template refuses the conversation or its end cannot be found.
  std::string render_answered(const AnswerTurns& turns) const;

  // Returns what the model itself writes in render_answered()'s text, ascending: of every assistant
  // turn of the answer, the text after its header up to and with the end-of-turn marker, without
  // the white space after that.  The first span of an answer that begins with an assistant turn
  // begins at 0: what precedes its text is shared with the prompt.  Throws UserError where the
  // borders of turns cannot be found.
  std::vector<TextSpan> assistant_spans(const AnswerTurns& turns) const;

 private:
  struct Impl;
  const Impl& impl_for(const TemplateVariables& variables) const;

  std::unique_ptr<Impl> impl_;
  std::unique_ptr<Impl> for_tools_;  // null: the same
  std::string tools_complaint_;      // why the template for tools cannot be used; "": it can
};

}  // namespace bipo
