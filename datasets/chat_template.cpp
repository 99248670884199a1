// Recognises the family of a model's chat template by rendering probes, and renders conversations.
#include "datasets/chat_template.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <string_view>
#include <utility>

#include "collectives/errors.hpp"
#include "datasets/jinja.hpp"
#include "datasets/json_file.hpp"

namespace bipo {
namespace {

using jinja::Json;

// How the families that name the role of a turn write it down.
struct TurnMarkers {
  std::string_view begin;
  std::string_view after_role;
  std::string_view end;
  std::string_view after_end;
};

constexpr TurnMarkers kChatMl = {"<|im_start|>", "\n", "<|im_end|>", "\n"};
constexpr TurnMarkers kLlama3 = {"<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>", ""};

struct SpecialTexts {
  std::string bos;
  std::string eos;
};

// A rendered conversation, taken apart again.
struct RenderedTurns {
  std::vector<Message> turns;
  bool awaits_answer = false;  // ends with what stands before an assistant's text
};

bool take(std::string_view& text, std::string_view expected) {
  if (!text.starts_with(expected)) {
    return false;
  }
  text.remove_prefix(expected.size());
  return true;
}

// Takes the text before `delimiter` and the delimiter itself.
std::optional<std::string_view> take_until(std::string_view& text, std::string_view delimiter) {
  const std::size_t end = text.find(delimiter);
  if (end == std::string_view::npos) {
    return std::nullopt;
  }
  const std::string_view taken = text.substr(0, end);
  text.remove_prefix(end + delimiter.size());
  return taken;
}

std::optional<RenderedTurns> parse_marked_turns(std::string_view text, const TurnMarkers& markers,
                                                const SpecialTexts& special) {
  RenderedTurns result;
  // Some models name the marker of a turn as their BOS: then it is no BOS here.
  if (text.starts_with(special.bos + std::string(markers.begin))) {
    take(text, special.bos);
  }
  while (take(text, markers.begin)) {
    const auto role = take_until(text, markers.after_role);
    if (!role) {
      return std::nullopt;
    }
    if (text.empty() && *role == "assistant") {
      result.awaits_answer = true;
      return result;
    }
    const auto content = take_until(text, markers.end);
    if (!content || !take(text, markers.after_end)) {
      return std::nullopt;
    }
    result.turns.push_back({std::string(*role), std::string(*content)});
  }
  const bool ends_cleanly = text.empty() || text == special.eos;
  return ends_cleanly && !result.turns.empty() ? std::optional(result) : std::nullopt;
}

std::optional<RenderedTurns> parse_chatml(std::string_view text, const SpecialTexts& special) {
  return parse_marked_turns(text, kChatMl, special);
}

std::optional<RenderedTurns> parse_llama3(std::string_view text, const SpecialTexts& special) {
  return parse_marked_turns(text, kLlama3, special);
}

std::string_view without_surrounding_spaces(std::string_view text) {
  while (take(text, " ")) {
  }
  while (text.ends_with(' ')) {
    text.remove_suffix(1);
  }
  return text;
}

// [INST] <<SYS>>\nsystem\n<</SYS>>\n\nuser [/INST] assistant </s>, again and again.
std::optional<RenderedTurns> parse_llama2(std::string_view text, const SpecialTexts& special) {
  RenderedTurns result;
  take(text, special.bos);
  while (take(text, "[INST]")) {
    auto request = take_until(text, "[/INST]");
    if (!request || special.eos.empty()) {
      return std::nullopt;
    }
    std::string_view user = without_surrounding_spaces(*request);
    if (take(user, "<<SYS>>\n")) {
      const auto system = take_until(user, "\n<</SYS>>\n\n");
      if (!system || !result.turns.empty()) {
        return std::nullopt;
      }
      result.turns.push_back({"system", std::string(*system)});
    }
    result.turns.push_back({"user", std::string(user)});
    if (without_surrounding_spaces(text).empty()) {
      result.awaits_answer = true;
      return result;
    }
    const auto answer = take_until(text, special.eos);
    if (!answer) {
      return std::nullopt;
    }
    result.turns.push_back({"assistant", std::string(without_surrounding_spaces(*answer))});
    take(text, special.bos);
  }
  return text.empty() && !result.turns.empty() ? std::optional(result) : std::nullopt;
}

constexpr std::string_view kChatMlTemplate =
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

constexpr std::string_view kLlama3Template =
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}"
    "{{ message.content | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";

constexpr std::string_view kLlama2Template =
    "{% set space = namespace(system='') %}{% for message in messages %}"
    "{% if message.role == 'system' %}"
    "{% if not loop.first %}{{ raise_exception('only the first turn can be a system turn') }}{% "
    "endif %}"
    "{% set space.system = '<<SYS>>\\n' + message.content + '\\n<</SYS>>\\n\\n' %}"
    "{% elif message.role == 'user' %}"
    "{{ bos_token + '[INST] ' + (space.system + message.content) | trim + ' [/INST]' }}"
    "{% set space.system = '' %}"
    "{% else %}{{ ' ' + message.content | trim + ' ' + eos_token }}{% endif %}"
    "{% endfor %}";

struct Family {
  std::string_view name;
  std::optional<RenderedTurns> (*parse)(std::string_view, const SpecialTexts&);
  std::string_view end_of_turn;  // empty: the end-of-sequence token
  std::string_view plain_template;
};

constexpr std::array<Family, 3> kFamilies = {{
    {"chatml", parse_chatml, kChatMl.end, kChatMlTemplate},
    {"llama-2", parse_llama2, "", kLlama2Template},
    {"llama-3", parse_llama3, kLlama3.end, kLlama3Template},
}};

std::string ask_for_a_known_family() {
  return fmt::format("name the model's format with --chat-template: {}",
                     fmt::join(ChatTemplate::names(), ", "));
}

// The special tokens as texts, under the names that templates know them by.
Json special_token_variables(const nlohmann::json& tokenizer_config) {
  Json variables = Json::object();
  for (const char* name : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token",
                           "cls_token", "mask_token"}) {
    const auto found = tokenizer_config.find(name);
    if (found == tokenizer_config.end()) {
      continue;
    }
    const bool is_object = found->is_object() && found->contains("content");
    const nlohmann::json& text = is_object ? (*found)["content"] : *found;
    if (text.is_string()) {
      variables[name] = text.get<std::string>();
    }
  }
  return variables;
}

std::string read_text(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  if (!stream) {
    throw UserError(fmt::format("{}: cannot be read; check the file's permissions", path.string()));
  }
  return text;
}

// The text of the template named "default" where a model names several.
std::string default_template(const nlohmann::json& templates, const std::string& where) {
  if (templates.is_string()) {
    return templates.get<std::string>();
  }
  if (templates.is_array()) {
    for (const auto& entry : templates) {
      if (entry.is_object() && entry.value("name", nlohmann::json()) == "default" &&
          entry.contains("template") && entry["template"].is_string()) {
        return entry["template"].get<std::string>();
      }
    }
  }
  throw UserError(fmt::format(
      "{}: chat_template is neither a text nor a list with a template named 'default'; {}", where,
      ask_for_a_known_family()));
}

struct TemplateSource {
  std::string text;
  std::string where;
};

TemplateSource find_template(const std::filesystem::path& directory,
                             const nlohmann::json& tokenizer_config) {
  const auto file = directory / "chat_template.jinja";
  if (std::filesystem::exists(file)) {
    return {read_text(file), file.string()};
  }
  const std::string where = (directory / "tokenizer_config.json").string();
  const auto found = tokenizer_config.find("chat_template");
  if (found == tokenizer_config.end() || found->is_null()) {
    throw UserError(
        fmt::format("{}: no chat template, neither chat_template.jinja nor chat_template in "
                    "tokenizer_config.json; {}",
                    directory.string(), ask_for_a_known_family()));
  }
  return {default_template(*found, where), where};
}

const Message kProbeSystem = {"system", "probe-of-system"};
const Message kProbeUser = {"user", "probe-of-user"};
const Message kProbeAnswer = {"assistant", "probe-of-answer"};
const Message kProbeSecondUser = {"user", "probe-of-second-user"};

bool are_same(const std::vector<Message>& left, const std::vector<Message>& right) {
  return std::equal(left.begin(), left.end(), right.begin(), right.end(),
                    [](const Message& a, const Message& b) {
                      return a.role == b.role && a.content == b.content;
                    });
}

}  // namespace

struct ChatTemplate::Impl {
  Impl(const TemplateSource& source, Json special_tokens)
      : where(source.where), program(parse(source)), variables(std::move(special_tokens)) {}

  static jinja::Template parse(const TemplateSource& source) {
    try {
      return jinja::Template(source.text);
    } catch (const UserError& error) {
      throw cannot_run(source.where, error);
    }
  }

  static UserError cannot_run(const std::string& where, const UserError& error) {
    return UserError(fmt::format("{}: the chat template cannot be run ({}); {}", where,
                                 error.what(), ask_for_a_known_family()));
  }

  std::string render(const std::vector<Message>& messages, bool add_generation_prompt) const {
    Json context = variables;
    context["messages"] = Json::array();
    for (const Message& turn : messages) {
      context["messages"].push_back({{"role", turn.role}, {"content", turn.content}});
    }
    context["tools"] = nullptr;
    context["documents"] = nullptr;
    context["add_generation_prompt"] = add_generation_prompt;
    try {
      return program.render(context);
    } catch (const jinja::TemplateRefusal&) {
      throw;
    } catch (const UserError& error) {
      throw cannot_run(where, error);
    }
  }

  SpecialTexts special_texts() const {
    return {variables.value("bos_token", std::string()),
            variables.value("eos_token", std::string())};
  }

  // True where the template renders probes in the family's form; keeps what it learns on the way.
  bool adopt(const Family& family) {
    const std::vector<Message> turns = {kProbeUser, kProbeAnswer, kProbeSecondUser};
    for (const std::size_t count : {1U, 2U, 3U}) {
      const std::vector<Message> conversation(turns.begin(), turns.begin() + count);
      if (!fits(family, conversation, false) || (count != 2 && !fits(family, conversation, true))) {
        return false;
      }
    }
    takes_system = adopts_system_turn(family, turns);
    return takes_system.has_value() && learn_end_of_answer(family);
  }

  // Whether system text is taken; nothing where it appears outside of a system turn.
  std::optional<bool> adopts_system_turn(const Family& family, std::vector<Message> turns) {
    turns.insert(turns.begin(), kProbeSystem);
    const std::vector<Message> shorter(turns.begin(), turns.begin() + 2);
    try {
      if (render(shorter, true).find(kProbeSystem.content) == std::string::npos) {
        return false;
      }
      return fits(family, shorter, true) && fits(family, turns, true) && fits(family, turns, false)
                 ? std::optional(true)
                 : std::nullopt;
    } catch (const jinja::TemplateRefusal&) {
      return false;
    }
  }

  bool fits(const Family& family, const std::vector<Message>& conversation,
            bool add_generation_prompt) {
    const auto parsed = family.parse(render(conversation, add_generation_prompt), special_texts());
    if (!parsed || (add_generation_prompt && !parsed->awaits_answer)) {
      return false;
    }
    auto turns = parsed->turns;
    if (turns.empty()) {
      return false;
    }
    const bool has_system = turns.front().role == "system";
    if (conversation.front().role != "system") {
      implied_system = has_system ? turns.front().content : "";
      turns.erase(turns.begin(), turns.begin() + (has_system ? 1 : 0));
    } else if (has_system && turns.front().content.ends_with(kProbeSystem.content)) {
      turns.front().content = kProbeSystem.content;  // dates may stand before it
    }
    return are_same(turns, conversation);
  }

  // Learns what follows an assistant's text, the end-of-turn marker first.
  bool learn_end_of_answer(const Family& family) {
    const std::string prompt = render({kProbeUser}, true);
    const std::string whole = render({kProbeUser, kProbeAnswer}, false);
    const std::string marker =
        family.end_of_turn.empty() ? special_texts().eos : std::string(family.end_of_turn);
    const std::size_t end = whole.find(marker, prompt.size());
    if (!whole.starts_with(prompt) || end == std::string::npos) {
      return false;
    }
    after_answer = whole.substr(end);
    name = family.name;
    return true;
  }

  std::string where;
  jinja::Template program;
  Json variables;
  std::string name;
  std::optional<bool> takes_system;
  std::string implied_system;
  std::string after_answer;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {
}
ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

ChatTemplate ChatTemplate::from_model_directory(const std::filesystem::path& directory,
                                                const std::string& name) {
  const auto config_file = directory / "tokenizer_config.json";
  const nlohmann::json config =
      std::filesystem::exists(config_file) ? read_json_file(config_file) : nlohmann::json::object();
  if (!config.is_object()) {
    throw UserError(fmt::format("{}: must hold a JSON object", config_file.string()));
  }
  Json special_tokens = special_token_variables(config);
  if (name == "auto") {
    auto impl = std::make_unique<Impl>(find_template(directory, config), special_tokens);
    for (const Family& family : kFamilies) {
      try {
        if (impl->adopt(family)) {
          return ChatTemplate(std::move(impl));
        }
      } catch (const jinja::TemplateRefusal&) {
        // A template that refuses plain turns of user and assistant is of no known family.
      }
    }
    throw UserError(
        fmt::format("{}: the chat template renders conversations in none of the known forms; {}",
                    impl->where, ask_for_a_known_family()));
  }
  for (const Family& family : kFamilies) {
    if (name != family.name) {
      continue;
    }
    special_tokens.emplace("bos_token", "");
    special_tokens.emplace("eos_token", "</s>");
    auto impl = std::make_unique<Impl>(
        TemplateSource{std::string(family.plain_template), "--chat-template " + name},
        special_tokens);
    if (!impl->adopt(family)) {
      throw BugError(fmt::format("the plain template of '{}' is not recognised as such", name));
    }
    return ChatTemplate(std::move(impl));
  }
  throw UserError(fmt::format("--chat-template: unknown format '{}'; use auto or one of {}", name,
                              fmt::join(names(), ", ")));
}

std::vector<std::string> ChatTemplate::names() {
  std::vector<std::string> result;
  for (const Family& family : kFamilies) {
    result.emplace_back(family.name);
  }
  return result;
}

const std::string& ChatTemplate::name() const {
  return impl_->name;
}

bool ChatTemplate::takes_system_turn() const {
  return impl_->takes_system.value_or(false);
}

std::string ChatTemplate::implied_system_text() const {
  return impl_->implied_system;
}

std::string ChatTemplate::render_prompt(const std::vector<Message>& messages) const {
  try {
    return impl_->render(messages, true);
  } catch (const jinja::TemplateRefusal& refusal) {
    throw UserError(fmt::format("the chat template of {} refuses the conversation: {}",
                                impl_->where, refusal.what()));
  }
}

std::string ChatTemplate::render_answer(const std::string& answer) const {
  const std::string prompt = render_prompt({kProbeUser});
  const std::string whole = impl_->render({kProbeUser, {"assistant", answer}}, false);
  if (!whole.starts_with(prompt) || !whole.ends_with(impl_->after_answer) ||
      whole.size() < prompt.size() + impl_->after_answer.size()) {
    throw UserError(
        fmt::format("{}: the chat template renders the answer '{}' so that its end cannot be told",
                    impl_->where, answer));
  }
  return whole.substr(prompt.size(), whole.size() - prompt.size() - impl_->after_answer.size());
}

}  // namespace bipo
