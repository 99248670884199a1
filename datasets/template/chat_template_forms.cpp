// The chat formats known by name, as Jinja templates.
#include <array>
#include <span>
#include <string_view>

#include "datasets/template/chat_template_source.hpp"

namespace bipo {
namespace {

constexpr std::string_view kChatMl =
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

// The system text goes into the first user turn.
constexpr std::string_view kGemma =
    "{{ bos_token }}{% set space = namespace(system='') %}{% for message in messages %}"
    "{% if message.role == 'system' %}{% set space.system = message.content + '\\n\\n' %}"
    "{% else %}"
    "{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' }}"
    "{{ space.system + message.content | trim + '<end_of_turn>\\n' }}"
    "{% set space.system = '' %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}";

constexpr std::string_view kLlama2 =
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

constexpr std::string_view kLlama3 =
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}"
    "{{ message.content | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";

// Later versions differ in the spaces around the markers.
constexpr std::string_view kMistralV1 =
    "{{ bos_token }}{% set space = namespace(system='') %}{% for message in messages %}"
    "{% if message.role == 'system' %}{% set space.system = message.content + '\\n\\n' %}"
    "{% elif message.role == 'user' %}"
    "{{ ' [INST] ' + space.system + message.content + ' [/INST]' }}{% set space.system = '' %}"
    "{% else %}{{ ' ' + message.content + eos_token }}{% endif %}{% endfor %}";

constexpr std::string_view kMistralV3 =
    "{{ bos_token }}{% set space = namespace(system='') %}{% for message in messages %}"
    "{% if message.role == 'system' %}{% set space.system = message.content + '\\n\\n' %}"
    "{% elif message.role == 'user' %}"
    "{{ '[INST] ' + space.system + message.content + '[/INST]' }}{% set space.system = '' %}"
    "{% else %}{{ ' ' + message.content | trim + eos_token }}{% endif %}{% endfor %}";

constexpr std::string_view kMistralV3Tekken =
    "{{ bos_token }}{% set space = namespace(system='') %}{% for message in messages %}"
    "{% if message.role == 'system' %}{% set space.system = message.content + '\\n\\n' %}"
    "{% elif message.role == 'user' %}"
    "{{ '[INST]' + space.system + message.content + '[/INST]' }}{% set space.system = '' %}"
    "{% else %}{{ message.content + eos_token }}{% endif %}{% endfor %}";

constexpr std::string_view kPhi3 =
    "{% for message in messages %}"
    "{{ '<|' + message.role + '|>\\n' + message.content + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}";

constexpr std::string_view kPhi4 =
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '<|im_sep|>' + message.content + '<|im_end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}";

constexpr std::string_view kPhi4Mini =
    "{% for message in messages %}"
    "{{ '<|' + message.role + '|>' + message.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

// Ends a prompt with "<think>\n", after which an answer begins, its reasoning first.
constexpr std::string_view kDeepSeekR1 =
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }}"
    "{% elif message.role == 'user' %}{{ '<\uff5cUser\uff5c>' + message.content }}"
    "{% else %}{{ '<\uff5cAssistant\uff5c>' }}"
    "{{ '<think>\\n' + message.content if loop.last else message.content.split('</think>')[-1] }}"
    "{{ '<\uff5cend\u2581of\u2581sentence\uff5c>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<\uff5cAssistant\uff5c><think>\\n' }}{% endif %}";

constexpr std::string_view kDeepSeek3 =
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }}"
    "{% elif message.role == 'user' %}{{ '<\uff5cUser\uff5c>' + message.content }}"
    "{% else %}{{ '<\uff5cAssistant\uff5c>' + message.content + "
    "'<\uff5cend\u2581of\u2581sentence\uff5c>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<\uff5cAssistant\uff5c>' }}{% endif %}";

constexpr std::string_view kRaw = "{% for message in messages %}{{ message.content }}{% endfor %}";

constexpr std::string_view kPlain =
    "{% for message in messages if message.content or message.role != 'system' %}"
    "{{ message.content + ('\\n\\n' if message.role == 'system' else '\\n') }}{% endfor %}";

constexpr std::array<ChatForm, 14> kForms = {{
    {"chatml", kChatMl},
    {"deepseek-r1", kDeepSeekR1},
    {"deepseek3", kDeepSeek3},
    {"gemma", kGemma},
    {"llama2", kLlama2},
    {"llama3", kLlama3},
    {"mistral-v1", kMistralV1},
    {"mistral-v3", kMistralV3},
    {"mistral-v3-tekken", kMistralV3Tekken},
    {"phi3", kPhi3},
    {"phi4", kPhi4},
    {"phi4-mini", kPhi4Mini},
    {kPlainForm, kPlain},
    {kRawForm, kRaw},
}};

}  // namespace

std::span<const ChatForm> chat_forms() {
  return kForms;
}

}  // namespace bipo
