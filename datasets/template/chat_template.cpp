// Probes how a chat template writes a conversation, and renders conversations.
#include "datasets/template/chat_template.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/jinja/jinja.hpp"
#include "datasets/text/unicode_text.hpp"

namespace bipo {
namespace {

using jinja::Json;

// Texts that reveal changes by a template; none is part of another.
const Message kProbeSystem = {"system", "Probe of a System text:\n\n  (\u00e9t\u00e9) & <s1>"};
const Message kProbeUser = {"user", "Probe of a User text:\n\n  (\u00e9t\u00e9) & <u1>"};
const Message kProbeAnswer = {"assistant", "Probe of an Answer:\n\n  (\u00e9t\u00e9) & <a1>"};
const Message kProbeSecondUser = {"user",
                                  "Probe of a second User text:\n\n  (\u00e9t\u00e9) & <u2>"};

// Two days that differ in every printable part.
constexpr CalendarDate kOneDay{std::chrono::year{1987}, std::chrono::month{3}, std::chrono::day{8}};
constexpr CalendarDate kOtherDay{std::chrono::year{2014}, std::chrono::month{11},
                                 std::chrono::day{28}};

constexpr std::string_view kWhiteSpace = " \t\r\n";

std::string_view without_leading_space(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(kWhiteSpace), text.size()));
  return text;
}

bool take(std::string_view& text, std::string_view expected) {
  if (!text.starts_with(expected)) {
    return false;
  }
  text.remove_prefix(expected.size());
  return true;
}

// Accepts white space, or an empty <think> block.
bool may_precede_answer(std::string_view text) {
  text = without_leading_space(text);
  if (take(text, "<think>")) {
    text = without_leading_space(text);
    if (!take(text, "</think>")) {
      return false;
    }
  }
  return without_leading_space(text).empty();
}

// Returns the offset of `part` in `text`; nullopt unless it occurs exactly once.
std::optional<std::size_t> find_once(const std::string& text, const std::string& part) {
  const std::size_t at = text.find(part);
  if (at == std::string::npos || text.find(part, at + 1) != std::string::npos) {
    return std::nullopt;
  }
  return at;
}

bool holds_each_once(const std::string& text, const std::vector<Message>& turns) {
  return std::all_of(turns.begin(), turns.end(), [&](const Message& turn) {
    return find_once(text, turn.content).has_value();
  });
}

bool holds_in_order(const std::string& text, const std::vector<Message>& turns) {
  return holds_each_once(text, turns) &&
         std::is_sorted(turns.begin(), turns.end(), [&](const Message& a, const Message& b) {
           return text.find(a.content) < text.find(b.content);
         });
}

std::string names_text() {
  return fmt::format("{}", fmt::join(ChatTemplate::names(), ", "));
}

std::string advise_another_form() {
  return fmt::format(
      "choose the format with --chat-template plain (prompt, line break, answer) or "
      "--chat-template NAME|FILE (NAME: {}; FILE: a Jinja template)",
      names_text());
}

// A parsed template and the variables of all its renderings.
class Renderer {
 public:
  Renderer(std::string_view text, std::string where, Json variables)
      : where_(std::move(where)), program_(parse(text)), variables_(std::move(variables)) {}

  const std::string& where() const { return where_; }

  // Throws jinja::TemplateRefusal where the template refuses the conversation.
  std::string render(const std::vector<Message>& messages, bool add_generation_prompt,
                     const TemplateDate& date) const {
    Json context = variables_;
    context["messages"] = Json::array();
    for (const Message& turn : messages) {
      context["messages"].push_back({{"role", turn.role}, {"content", turn.content}});
    }
    context["tools"] = nullptr;
    context["documents"] = nullptr;
    context["add_generation_prompt"] = add_generation_prompt;
    if (date.given) {
      context["date_string"] = format_date(date.day, "%d %b %Y");
    }
    try {
      return program_.render(context, date.day);
    } catch (const jinja::TemplateRefusal&) {
      throw;
    } catch (const UserError& error) {
      throw cannot_run(error);
    }
  }

 private:
  jinja::Template parse(std::string_view text) const {
    try {
      if (!is_utf8(text)) {
        throw UserError("it is not valid UTF-8");
      }
      return jinja::Template(text);
    } catch (const UserError& error) {
      throw cannot_run(error);
    }
  }

  UserError cannot_run(const UserError& error) const {
    return UserError(fmt::format("{}: the chat template cannot be run ({}); {}", where_,
                                 error.what(), advise_another_form()));
  }

  std::string where_;
  jinja::Template program_;
  Json variables_;
};

Json to_json(const std::map<std::string, std::string>& variables) {
  Json json = Json::object();
  for (const auto& [name, value] : variables) {
    json[name] = value;
  }
  return json;
}

const ChatForm* find_form(const std::string& name) {
  const auto forms = chat_forms();
  const auto found = std::find_if(forms.begin(), forms.end(),
                                  [&](const ChatForm& form) { return form.name == name; });
  return found != forms.end() ? &*found : nullptr;
}

Renderer make_form_renderer(const ChatForm& form, std::map<std::string, std::string> tokens) {
  tokens.emplace("bos_token", "");
  tokens.emplace("eos_token", "</s>");
  return Renderer(form.jinja, fmt::format("--chat-template {}", form.name), to_json(tokens));
}

// Names the templates that the model has without a default one.
std::string named_ones(const ChatTemplateSource& model) {
  std::vector<std::string> names;
  for (const auto& entry : model.named) {
    names.push_back(entry.first);
  }
  return names.empty() ? ""
                       : fmt::format(" named \"default\", only {} (a template's file can be given)",
                                     fmt::join(names, ", "));
}

Renderer make_renderer(const ChatTemplateSource& model, const std::string& choice) {
  if (choice == "auto") {
    if (model.text.empty()) {
      throw UserError(fmt::format("{}: the model has no chat template{}; {}", model.where,
                                  named_ones(model), advise_another_form()));
    }
    return Renderer(model.text, model.where, to_json(model.special_tokens));
  }
  if (const ChatForm* form = find_form(choice)) {
    return make_form_renderer(*form, model.special_tokens);
  }
  std::error_code unreachable;
  if (!std::filesystem::is_regular_file(choice, unreachable)) {
    throw UserError(
        fmt::format("--chat-template '{}': neither the name of a format nor a file; use auto, one "
                    "of {}, or the path of a Jinja template",
                    choice, names_text()));
  }
  return Renderer(read_template_file(choice), choice, to_json(model.special_tokens));
}

// Returns the part of `text` between `before` and `after`; nullopt unless it begins and ends so.
std::optional<std::string> between(std::string_view text, std::string_view before,
                                   std::string_view after) {
  if (text.size() < before.size() + after.size() || !text.starts_with(before) ||
      !text.ends_with(after)) {
    return std::nullopt;
  }
  return std::string(text.substr(before.size(), text.size() - before.size() - after.size()));
}

}  // namespace

struct ChatTemplate::Impl {
  Impl(Renderer with, const TemplateDate& on) : renderer(std::move(with)), date(on) {}

  std::string render(const std::vector<Message>& messages, bool add_generation_prompt) const {
    return renderer.render(messages, add_generation_prompt, date);
  }

  [[noreturn]] void refuse(const std::string& reason) const {
    throw UserError(fmt::format("{}: the chat template is not understood: {}; {}", renderer.where(),
                                reason, advise_another_form()));
  }

  // Renders the probes and stores the findings.  Throws UserError for a template that is not
  // consistent.
  void learn() {
    try {
      learn_end_of_answer();
      check_later_turns();
    } catch (const jinja::TemplateRefusal& refusal) {
      refuse(fmt::format("it refuses a conversation of user and assistant ({})", refusal.what()));
    }
    takes_system = learn_system_turn();
    prints_date = learn_date();
  }

  void learn_end_of_answer() {
    prompt = render({kProbeUser}, true);
    if (!holds_each_once(prompt, {kProbeUser})) {
      refuse("the prompt does not contain a user's text exactly once and unaltered");
    }
    const std::string whole = render({kProbeUser, kProbeAnswer}, false);
    if (!whole.starts_with(prompt)) {
      refuse("a conversation with an answer does not begin with the prompt for it");
    }
    const std::string rest = whole.substr(prompt.size());
    const auto at = find_once(rest, kProbeAnswer.content);
    if (!at) {
      refuse("the text after the prompt does not contain an answer exactly once and unaltered");
    }
    if (!may_precede_answer(rest.substr(0, *at))) {
      refuse(
          fmt::format("it writes '{}' between the prompt and the answer; a generation header must "
                      "be part of the prompt (add_generation_prompt)",
                      rest.substr(0, *at)));
    }
    after_answer = rest.substr(*at + kProbeAnswer.content.size());
    // Space before a marker belongs to the answer; without a marker, to the next turn.
    const std::string_view marker = without_leading_space(after_answer);
    end_of_answer = marker.empty() ? after_answer : std::string(marker);
  }

  void check_later_turns() const {
    const std::vector<Message> turns = {kProbeUser, kProbeAnswer, kProbeSecondUser};
    if (!holds_in_order(render(turns, true), turns)) {
      refuse("the prompt does not contain the texts of several turns in order and unaltered");
    }
  }

  bool learn_system_turn() {
    const std::vector<Message> first = {kProbeSystem, kProbeUser};
    const std::vector<Message> later = {kProbeSystem, kProbeUser, kProbeAnswer, kProbeSecondUser};
    std::string text;
    try {
      text = render(first, true);
      const std::string later_text = render(later, true);
      if (text.find(kProbeSystem.content) == std::string::npos) {
        return false;
      }
      if (!holds_in_order(text, first) || !holds_each_once(later_text, later)) {
        refuse("the prompt does not contain a system text exactly once and unaltered");
      }
    } catch (const jinja::TemplateRefusal&) {
      return false;
    }
    implied_system = implied_text(text, "").value_or("");
    return true;
  }

  // Returns the text of `prompt` in place of the system text of `with_system`, which may begin with
  // `bos` in `prompt` only; nullopt if they differ elsewhere.
  std::optional<std::string> implied_text(const std::string& with_system,
                                          const std::string& bos) const {
    const std::size_t at = with_system.find(kProbeSystem.content);
    const std::string before = with_system.substr(0, at);
    const std::string after = with_system.substr(at + kProbeSystem.content.size());
    return between(prompt, prompt.starts_with(bos + before) ? bos + before : before, after);
  }

  bool learn_date() const {
    const auto differs = [&](const std::vector<Message>& messages) {
      return renderer.render(messages, true, {kOneDay, date.given}) !=
             renderer.render(messages, true, {kOtherDay, date.given});
    };
    return differs({kProbeUser}) || (takes_system && differs({kProbeSystem, kProbeUser}));
  }

  // Whether this template writes a turn and its end as `form` does.
  bool is_written_as(const Impl& form) const {
    return prompt.ends_with(without_leading_space(form.prompt)) &&
           after_answer.starts_with(form.after_answer);
  }

  // Takes the name of the matching form.  The form also shows where a system turn begins: fixed
  // text may precede the user's in it.
  void name_form(std::map<std::string, std::string> tokens) {
    const std::string bos = std::exchange(tokens["bos_token"], "");
    for (const ChatForm& candidate : chat_forms()) {
      if (candidate.name == kPlainForm) {
        continue;
      }
      Impl form(make_form_renderer(candidate, tokens), date);
      form.learn();
      if (!is_written_as(form)) {
        continue;
      }
      name = candidate.name;
      const std::string with_system = form.render({kProbeSystem, kProbeUser}, true);
      implied_system = implied_text(with_system, bos).value_or(implied_system);
      return;
    }
    name = "custom";
  }

  Renderer renderer;
  TemplateDate date;
  std::string name;
  std::string prompt;         // of the first probe
  std::string after_answer;   // all the text after the probe's answer
  std::string end_of_answer;  // the same from the end-of-turn marker on
  bool takes_system = false;
  bool prints_date = false;
  std::string implied_system;
};

ChatTemplate::ChatTemplate(const ChatTemplateSource& model, const ChatTemplateSettings& settings)
    : impl_(std::make_unique<Impl>(make_renderer(model, settings.choice), settings.date)) {
  impl_->learn();
  if (find_form(settings.choice) != nullptr) {
    impl_->name = settings.choice;
  } else {
    impl_->name_form(model.special_tokens);
  }
}

ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

std::vector<std::string> ChatTemplate::names() {
  std::vector<std::string> result;
  for (const ChatForm& form : chat_forms()) {
    result.emplace_back(form.name);
  }
  return result;
}

const std::string& ChatTemplate::name() const {
  return impl_->name;
}

bool ChatTemplate::takes_system_turn() const {
  return impl_->takes_system;
}

bool ChatTemplate::prints_date() const {
  return impl_->prints_date;
}

const std::string& ChatTemplate::implied_system_text() const {
  return impl_->implied_system;
}

const std::string& ChatTemplate::end_of_answer() const {
  return impl_->end_of_answer;
}

std::string ChatTemplate::render_prompt(const std::vector<Message>& messages) const {
  try {
    return impl_->render(messages, true);
  } catch (const jinja::TemplateRefusal& refusal) {
    throw UserError(fmt::format("the chat template of {} refuses the conversation: {}",
                                impl_->renderer.where(), refusal.what()));
  }
}

std::string ChatTemplate::render_answer(const std::string& answer) const {
  const std::string whole = impl_->render({kProbeUser, {"assistant", answer}}, false);
  const auto text = between(whole, impl_->prompt, impl_->end_of_answer);
  if (!text) {
    throw UserError(
        fmt::format("{}: the end of the answer '{}' cannot be found in the chat template's text",
                    impl_->renderer.where(), answer));
  }
  return *text;
}

}  // namespace bipo
