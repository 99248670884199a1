// Probes how a chat template writes a conversation, and renders conversations.
#include "datasets/template/chat_template.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstddef>
#include <map>
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

// Takes a tag such as "<think>" or "[THINK]", or its end "</think>", and returns its name.
std::optional<std::string_view> take_tag(std::string_view& text, bool ends_block) {
  constexpr std::string_view kNameCharacters =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_:|-";
  const bool is_angular = text.starts_with('<');
  std::string_view rest = text;
  if (!take(rest, is_angular ? "<" : "[") || (ends_block && !take(rest, "/"))) {
    return std::nullopt;
  }
  const std::size_t length = std::min(rest.find_first_not_of(kNameCharacters), rest.size());
  const std::string_view name = rest.substr(0, length);
  rest.remove_prefix(length);
  if (name.empty() || !take(rest, is_angular ? ">" : "]")) {
    return std::nullopt;
  }
  text = rest;
  return name;
}

// Accepts white space, an empty block such as <think></think>, and the end of a block that the
// prompt opens.
bool may_precede_answer(std::string_view text) {
  text = without_leading_space(text);
  const auto opened = take_tag(text, /*ends_block=*/false);
  text = without_leading_space(text);
  const auto closed = take_tag(text, /*ends_block=*/true);
  return (!opened || opened == closed) && without_leading_space(text).empty();
}

// Returns the length of the part with which both texts begin; never ends inside a character or a
// tag ("<thi", of which one text goes on with "nk>").
std::size_t shared_length(std::string_view a, std::string_view b) {
  std::size_t length = static_cast<std::size_t>(
      std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
  if (length == a.size() || length == b.size()) {
    return length;
  }
  const auto continues_character = [](char byte) {
    return (static_cast<unsigned char>(byte) & 0xC0U) == 0x80U;
  };
  while (length > 0 && continues_character(a[length])) {
    --length;
  }
  const std::string_view shared = a.substr(0, length);
  constexpr std::size_t kLongestTag = 40;
  const std::size_t open = shared.find_last_of("<[");
  const bool inside_tag = open != std::string_view::npos && length - open <= kLongestTag &&
                          shared.find_first_of(" >]\n", open) == std::string_view::npos;
  return inside_tag ? open : length;
}

std::size_t shared_end(std::string_view a, std::string_view b) {
  return static_cast<std::size_t>(std::mismatch(a.rbegin(), a.rend(), b.rbegin(), b.rend()).first -
                                  a.rbegin());
}

std::string_view without_trailing_space(std::string_view text) {
  return text.substr(0, text.find_last_not_of(kWhiteSpace) + 1);
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

// Returns a turn as transformers 5.23's render_jinja_template hands it to the template: without
// members that are null, and with its reasoning, whose first name counts, under two names.
Json to_json(const Message& turn) {
  Json object = {{"role", turn.role}, {"content", turn.content}};
  for (const auto& [name, value] : turn.extra.items()) {
    object[name] = value;
  }
  Json reasoning;
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    if (reasoning.is_null() && object.contains(name)) {
      reasoning = object[name];
    }
  }
  Json message = Json::object();
  if (!reasoning.is_null()) {
    message["thinking"] = reasoning;
  }
  for (const auto& [name, value] : object.items()) {
    if (!value.is_null()) {
      message[name] = value;
    }
  }
  if (!reasoning.is_null()) {
    message["reasoning_content"] = reasoning;
  }
  return message;
}

// A parsed template and the variables of all its renderings.
class Renderer {
 public:
  Renderer(std::string_view text, std::string where, Json variables)
      : where_(std::move(where)), program_(parse(text)), variables_(std::move(variables)) {}

  const std::string& where() const { return where_; }

  bool mentions(const std::string& name) const { return program_.mentions(name); }

  // Sets a variable of all renderings in place of a special token of that name.
  void set_argument(const std::string& name, const Json& value) { arguments_[name] = value; }

  // Throws jinja::TemplateRefusal where the template refuses the conversation.
  std::string render(const std::vector<Message>& messages, bool add_generation_prompt,
                     const TemplateDate& date, const Json& variables) const {
    Json context = variables_;
    context["tools"] = nullptr;
    context["documents"] = nullptr;
    if (date.given) {
      context["date_string"] = format_date(date.day, "%d %b %Y");
    }
    for (const Json* given : {&arguments_, &variables}) {
      for (const auto& [name, value] : given->items()) {
        context[name] = value;
      }
    }
    context["messages"] = Json::array();
    for (const Message& turn : messages) {
      context["messages"].push_back(to_json(turn));
    }
    context["add_generation_prompt"] = add_generation_prompt;
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
  Json arguments_ = Json::object();
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
    return render(messages, add_generation_prompt, probe_variables);
  }

  std::string render(const std::vector<Message>& messages, bool add_generation_prompt,
                     const Json& variables) const {
    return renderer.render(messages, add_generation_prompt, date, variables);
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
    const std::size_t shared = shared_length(prompt, whole);
    if (shared < prompt.find(kProbeUser.content) + kProbeUser.content.size()) {
      refuse("a conversation with an answer does not begin with the prompt for it");
    }
    left_out = prompt.substr(shared);
    const std::string rest = whole.substr(shared);
    const auto at = find_once(rest, kProbeAnswer.content);
    if (!at) {
      refuse(
          fmt::format("the text after the prompt{} does not contain an answer exactly once and "
                      "unaltered",
                      left_out_text()));
    }
    if (!may_precede_answer(rest.substr(0, *at))) {
      refuse(fmt::format(
          "it writes '{}' between the prompt{} and the answer; a generation header must be part of "
          "the prompt (add_generation_prompt)",
          rest.substr(0, *at), left_out_text()));
    }
    after_answer = rest.substr(*at + kProbeAnswer.content.size());
    // Space before a marker belongs to the answer; without a marker, to the next turn.
    const std::string_view marker = without_leading_space(after_answer);
    end_of_answer = marker.empty() ? after_answer : std::string(marker);
  }

  // For messages: the generation prompt, where the conversation with an answer lacks its end.
  std::string left_out_text() const {
    return left_out.empty() ? ""
                            : fmt::format(
                                  " (whose end '{}', the generation prompt's, is missing "
                                  "in a conversation with an answer)",
                                  left_out);
  }

  void check_later_turns() {
    const std::vector<Message> turns = {kProbeUser, kProbeAnswer, kProbeSecondUser};
    if (!holds_in_order(render(turns, true), turns)) {
      refuse("the prompt does not contain the texts of several turns in order and unaltered");
    }
    learn_end_of_turn(render(turns, false));
  }

  // Where another turn follows, some templates leave out the end of a conversation, such as EOS.
  void learn_end_of_turn(std::string_view later) {
    const std::size_t at = later.find(kProbeAnswer.content);
    std::string_view after = at == std::string_view::npos
                                 ? std::string_view(after_answer)
                                 : later.substr(at + kProbeAnswer.content.size());
    after = after.substr(0, shared_length(after, after_answer));
    end_of_turn_marker = without_trailing_space(without_leading_space(after));
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
      return renderer.render(messages, true, {kOneDay, date.given}, probe_variables) !=
             renderer.render(messages, true, {kOtherDay, date.given}, probe_variables);
    };
    return differs({kProbeUser}) || (takes_system && differs({kProbeSystem, kProbeUser}));
  }

  // Whether this template writes a turn and its end as `form` does.
  bool is_written_as(const Impl& form) const {
    return prompt.ends_with(without_leading_space(form.prompt)) && left_out == form.left_out &&
           after_answer.starts_with(form.after_answer);
  }

  // Takes the name of the matching form.  The form also shows where a system turn begins: fixed
  // text may precede the user's in it.
  void name_form(std::map<std::string, std::string> tokens) {
    const std::string bos = std::exchange(tokens["bos_token"], "");
    for (const ChatForm& candidate : chat_forms()) {
      if (candidate.name == kPlainForm || candidate.name == kRawForm) {
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

  // Calls `render` and turns the template's refusal into an error of the user's.
  template <typename Render>
  std::string or_refusal(const Render& call) const {
    try {
      return call();
    } catch (const jinja::TemplateRefusal& refusal) {
      throw UserError(fmt::format("the chat template of {} refuses the conversation: {}",
                                  renderer.where(), refusal.what()));
    }
  }

  std::string render_answered(const std::vector<Message>& turns, const Json& variables) const {
    const std::string whole = or_refusal([&] { return render(turns, false, variables); });
    if (!whole.ends_with(end_of_answer)) {
      throw UserError(fmt::format(
          "{}: the end of the answer '{}' cannot be found: the chat template ends the conversation "
          "with '{}' instead of '{}'; change the row, or choose another template with "
          "--chat-template",
          renderer.where(), turns.back().content,
          whole.substr(whole.size() - std::min(whole.size(), end_of_answer.size() + 8)),
          end_of_answer));
    }
    return whole.substr(0, whole.size() - end_of_answer.size());
  }

  [[noreturn]] void refuse_borders(const std::string& what) const {
    throw UserError(fmt::format(
        "{}: the borders of the answer's turns cannot be found ({}), so that its user turns cannot "
        "be masked; use --train-turns all, or shorten the answer to one turn",
        renderer.where(), what));
  }

  // Where a turn's own text stands in a rendered conversation: found by other texts in its place.
  TextSpan content_span(const std::string& text, std::vector<Message> turns, std::size_t turn,
                        const Json& variables) const {
    TextSpan span{text.size(), 0};
    turns[turn].extra.erase("content");
    for (const char* other : {"Aa probe of a turn zZ", "Zz probe of a turn aA"}) {
      turns[turn].content = other;
      const std::string changed = render_answered(turns, variables);
      span.begin = std::min(span.begin, shared_length(text, changed));
      span.end = std::max(span.end, text.size() - shared_end(text, changed));
    }
    return span;
  }

  // Returns where the text of assistant turn `turn` begins, after its header.
  std::size_t begin_of_turn(const std::string& text, const std::vector<Message>& turns,
                            std::size_t turn, const Json& variables) const {
    const std::vector<Message> before(turns.begin(),
                                      turns.begin() + static_cast<std::ptrdiff_t>(turn));
    const std::size_t begin =
        shared_length(text, or_refusal([&] { return render(before, true, variables); }));
    if (begin < content_span(text, turns, turn - 1, variables).end) {
      refuse_borders(
          fmt::format("the template writes the first {} turns otherwise when a turn "
                      "follows",
                      turn));
    }
    return begin;
  }

  // Returns where the end-of-turn marker of assistant turn `turn` ends, which begins at `begin` and
  // is not the last.
  std::size_t end_of_turn(const std::string& text, const std::vector<Message>& turns,
                          std::size_t turn, std::size_t begin, const Json& variables) const {
    const bool has_content = !turns[turn].extra.contains("content");
    const std::size_t content_end =
        has_content ? content_span(text, turns, turn, variables).end : begin;
    const std::string& marker = end_of_turn_marker;
    const std::size_t at = text.find(marker, std::max(begin, content_end));
    const std::size_t next = content_span(text, turns, turn + 1, variables).begin;
    if (at == std::string::npos || at + marker.size() > next) {
      refuse_borders(fmt::format("the marker '{}' does not follow turn {}", marker, turn + 1));
    }
    return at + marker.size();
  }

  Renderer renderer;
  TemplateDate date;
  Json probe_variables = Json::object();
  std::string name;
  std::string prompt;              // of the first probe
  std::string left_out;            // see ChatTemplate::left_out_of_context()
  std::string after_answer;        // all the text after the probe's answer
  std::string end_of_answer;       // the same from the end-of-turn marker on
  std::string end_of_turn_marker;  // the part of it that every assistant turn has
  bool takes_system = false;
  bool prints_date = false;
  std::string implied_system;
};

namespace {

void set_arguments(Renderer& renderer, const TemplateVariables& arguments) {
  for (const auto& [name, value] : arguments.items()) {
    renderer.set_argument(name, value);
  }
}

// Answers of a conversation with tools end as those without; this one shows how.
const Json& probe_tools() {
  static const Json tools = {
      {"tools",
       {{{"type", "function"},
         {"function",
          {{"name", "probe"},
           {"description", "A probe."},
           {"parameters", {{"type", "object"}, {"properties", Json::object()}}}}}}}}};
  return tools;
}

std::vector<Message> all_turns(const AnswerTurns& turns) {
  std::vector<Message> all = turns.prompt;
  all.insert(all.end(), turns.answer.begin(), turns.answer.end());
  return all;
}

}  // namespace

ChatTemplate::ChatTemplate(const ChatTemplateSource& model, const ChatTemplateSettings& settings)
    : impl_(std::make_unique<Impl>(make_renderer(model, settings.choice), settings.date)) {
  set_arguments(impl_->renderer, settings.arguments);
  impl_->learn();
  if (find_form(settings.choice) != nullptr) {
    impl_->name = settings.choice;
  } else {
    impl_->name_form(model.special_tokens);
  }
  const auto tool_use = model.named.find("tool_use");
  if (settings.choice != "auto" || tool_use == model.named.end()) {
    return;
  }
  // A template that cannot be used is an error only where tools are given.
  try {
    for_tools_ =
        std::make_unique<Impl>(Renderer(tool_use->second, fmt::format("{} (tool_use)", model.where),
                                        to_json(model.special_tokens)),
                               settings.date);
    set_arguments(for_tools_->renderer, settings.arguments);
    for_tools_->probe_variables = probe_tools();
    for_tools_->learn();
  } catch (const UserError& error) {
    tools_complaint_ = error.what();
  }
}

const ChatTemplate::Impl& ChatTemplate::impl_for(const TemplateVariables& variables) const {
  const bool has_tools = variables.contains("tools") && !variables["tools"].is_null();
  if (has_tools && !tools_complaint_.empty()) {
    throw UserError(tools_complaint_);
  }
  return has_tools && for_tools_ ? *for_tools_ : *impl_;
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

const std::string& ChatTemplate::left_out_of_context() const {
  return impl_->left_out;
}

bool ChatTemplate::is_raw() const {
  return impl_->name == kRawForm;
}

bool ChatTemplate::mentions(const std::string& variable) const {
  return impl_->renderer.mentions(variable) ||
         (for_tools_ && for_tools_->renderer.mentions(variable));
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

std::string ChatTemplate::render_prompt(const std::vector<Message>& messages,
                                        const TemplateVariables& variables) const {
  const Impl& impl = impl_for(variables);
  return impl.or_refusal([&] { return impl.render(messages, true, variables); });
}

std::string ChatTemplate::render_answered(const AnswerTurns& turns) const {
  return impl_for(turns.variables).render_answered(all_turns(turns), turns.variables);
}

std::vector<TextSpan> ChatTemplate::assistant_spans(const AnswerTurns& turns) const {
  const Impl& impl = impl_for(turns.variables);
  const std::vector<Message> all = all_turns(turns);
  const std::string text = impl.render_answered(all, turns.variables);
  std::vector<TextSpan> spans;
  for (std::size_t turn = turns.prompt.size(); turn < all.size(); ++turn) {
    if (all[turn].role != "assistant") {
      continue;
    }
    const std::size_t begin =
        turn == turns.prompt.size() ? 0 : impl.begin_of_turn(text, all, turn, turns.variables);
    const std::size_t end = turn + 1 == all.size()
                                ? text.size()
                                : impl.end_of_turn(text, all, turn, begin, turns.variables);
    spans.push_back({begin, end});
  }
  return spans;
}

}  // namespace bipo
