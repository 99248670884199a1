// Fuzzes the interpreter of chat templates, alone and as the template of a model directory.
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

#include "collectives/foundation/errors.hpp"
#include "datasets/jinja/jinja.hpp"
#include "datasets/template/chat_template.hpp"
#include "datasets/text/unicode_text.hpp"
#include "tests/fuzz/scratch_directory.hpp"

namespace {

using bipo::jinja::Json;

constexpr bipo::CalendarDate kDay{std::chrono::year{2024}, std::chrono::month{2},
                                  std::chrono::day{29}};

constexpr std::string_view kTokenizerConfig = R"({"bos_token": "<s>", "eos_token": "</s>"})";

// A part that is refused must not keep the others from being tried.
template <typename Action>
void try_out(const Action& action) {
  try {
    action();
  } catch (const bipo::UserError&) {
    // The right answer to a bad template; anything else is a finding.
  }
}

Json conversation() {
  const Json messages = {{{"role", "system"}, {"content", " Be brief.\n"}},
                         {{"role", "user"}, {"content", "w\u00f6rld? {{ 1 }}"}},
                         {{"role", "assistant"}, {"content", "<think>\n\n</think>\n\nyes"}},
                         {{"role", "user"}, {"content", "why?"}}};
  return {{"messages", messages}, {"bos_token", "<s>"},   {"eos_token", "</s>"},
          {"tools", nullptr},     {"documents", nullptr}, {"add_generation_prompt", true}};
}

void render_alone(std::string_view source) {
  const std::string text = bipo::jinja::Template(source).render(conversation(), kDay);
  if (!bipo::is_utf8(text)) {
    throw std::logic_error("the rendered text is not UTF-8");
  }
}

void render_for_model(const std::filesystem::path& directory) {
  const bipo::ChatTemplate chat_template(bipo::read_chat_template_source(directory),
                                         {.choice = "auto", .date = {.day = kDay, .given = false}});
  chat_template.implied_system_text();
  try_out([&] { chat_template.render_prompt({{"user", " why?\n"}}); });
  try_out([&] { chat_template.render_prompt({{"system", "Be brief."}, {"user", "why?"}}); });
  try_out([&] {
    chat_template.assistant_spans(
        {{{"user", "why?"}}, {{"assistant", " because\n"}, {"user", "so?"}, {"assistant", "so"}}});
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = [](std::string_view text) {
    return reinterpret_cast<const std::uint8_t*>(text.data());
  };
  bipo::fuzz::input_file("tokenizer_config.json", bytes(kTokenizerConfig), kTokenizerConfig.size());
  const auto path = bipo::fuzz::input_file("chat_template.jinja", data, size);
  try_out([&] { render_alone({reinterpret_cast<const char*>(data), size}); });
  try_out([&] { render_for_model(path.parent_path()); });
  return 0;
}
