// Renders conversations from stdin, one JSON object per line, with the chat template of a model
// directory.
#include <nlohmann/json.hpp>

#include <iostream>
#include <string>

#include "collectives/foundation/errors.hpp"
#include "datasets/template/chat_template.hpp"

namespace {

using Json = nlohmann::json;

// {"messages": [...]} asks for a prompt, {"answer": "..."} for an answer's text.
Json respond(const bipo::ChatTemplate& chat_template, const Json& request) {
  if (request.contains("answer")) {
    return {{"text", chat_template.render_answer(request["answer"].get<std::string>())}};
  }
  std::vector<bipo::Message> messages;
  for (const Json& turn : request["messages"]) {
    messages.push_back({turn["role"].get<std::string>(), turn["content"].get<std::string>()});
  }
  return {{"text", chat_template.render_prompt(messages)}};
}

Json describe(const bipo::ChatTemplate& chat_template) {
  return {{"name", chat_template.name()},
          {"takes_system_turn", chat_template.takes_system_turn()},
          {"prints_date", chat_template.prints_date()},
          {"implied_system_text", chat_template.implied_system_text()}};
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
