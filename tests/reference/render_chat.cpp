// Renders conversations from stdin, one JSON object per line, with the chat template of a model
// directory.
#include <nlohmann/json.hpp>

#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "datasets/template/chat_template.hpp"

namespace {

using Json = nlohmann::ordered_json;

std::vector<bipo::Message> messages_of(const Json& turns) {
  std::vector<bipo::Message> messages;
  for (const Json& turn : turns) {
    bipo::Message message{turn["role"].get<std::string>(), ""};
    for (const auto& [name, value] : turn.items()) {
      if (name == "content" && value.is_string()) {
        message.content = value.get<std::string>();
      } else if (name != "role") {
        message.extra[name] = value;
      }
    }
    messages.push_back(std::move(message));
  }
  return messages;
}

// {"messages": [...]} asks for a prompt, {"messages": [...], "answer": [...]} for the conversation
// with its answer and the spans that the assistant writes; {"answer": "..."} for the text that the
// answer to a question has after the prompt.
Json respond(const bipo::ChatTemplate& chat_template, const Json& request) {
  const Json variables = request.value("variables", Json::object());
  if (!request.contains("messages")) {
    const std::vector<bipo::Message> prompt = {{"user", "q"}};
    const std::string whole = chat_template.render_answered(
        {prompt, {{"assistant", request["answer"].get<std::string>()}}});
    return {{"text", whole.substr(chat_template.render_prompt(prompt).size())}};
  }
  const std::vector<bipo::Message> messages = messages_of(request["messages"]);
  if (!request.contains("answer")) {
    return {{"text", chat_template.render_prompt(messages, variables)}};
  }
  const bipo::AnswerTurns turns{messages, messages_of(request["answer"]), variables};
  Json spans = Json::array();
  for (const bipo::TextSpan& span : chat_template.assistant_spans(turns)) {
    spans.push_back({span.begin, span.end});
  }
  return {{"text", chat_template.render_answered(turns)}, {"spans", spans}};
}

Json describe(const bipo::ChatTemplate& chat_template) {
  return {{"name", chat_template.name()},
          {"takes_system_turn", chat_template.takes_system_turn()},
          {"prints_date", chat_template.prints_date()},
          {"implied_system_text", chat_template.implied_system_text()},
          {"end_of_answer", chat_template.end_of_answer()},
          {"left_out", chat_template.left_out_of_context()}};
}

}  // namespace

// Arguments: model directory, chat template ("auto", a name or a file), date as YYYY-MM-DD and
// "given" or "default".  The first line of the output describes the template, or is the error that
// refused it; one line follows per request.
int main(int argc, char** argv) {
  const auto day = argc == 5 ? bipo::parse_iso_date(argv[3]) : std::nullopt;
  if (!day) {
    std::cerr << "usage: render_chat MODEL_DIRECTORY FORMAT DATE given|default < requests.jsonl\n";
    return 2;
  }
  const bool given = std::string(argv[4]) == "given";
  try {
    const auto chat_template =
        bipo::ChatTemplate(bipo::read_chat_template_source(argv[1]), {argv[2], {*day, given}});
    std::cout << describe(chat_template) << '\n';
    for (std::string line; std::getline(std::cin, line);) {
      try {
        std::cout << respond(chat_template, Json::parse(line)) << '\n';
      } catch (const bipo::UserError& error) {
        std::cout << Json{{"error", error.what()}} << '\n';
      }
    }
  } catch (const bipo::UserError& error) {
    std::cout << Json{{"error", error.what()}} << '\n';
  }
  return 0;
}
