#include "launcher/job/stored_settings.hpp"

#include <nlohmann/json.hpp>

#include "launcher/job/template_dates.hpp"

namespace bipo {

using Json = nlohmann::ordered_json;

std::string absolute_text(const std::filesystem::path& path) {
  return path.empty() ? "" : std::filesystem::absolute(path).lexically_normal().string();
}

void store_machine_settings(const EffectiveMachine& machine, const Topology& topology,
                            Json& settings) {
  settings["dtype"] = machine.dtype;
  settings["device"] = machine.device;
  settings["world_size"] = topology.world();
  settings["tp"] = topology.tp();
  settings["dp"] = topology.dp();
  settings["threads"] = machine.threads;
  settings["deterministic"] = machine.deterministic;
}

void store_text_settings(const TextOptions& options, const EffectiveText& text, Json& settings) {
  settings["system_prompt"] = options.system_prompt;
  settings["chat_template"] = text.chat_template;
  store_template_date(text.date, settings);
  settings["no_eos"] = options.no_eos;
  settings["no_bos"] = options.no_bos;
  settings["max_length"] = text.max_length;
  settings["skip_bad"] = options.skip_bad;
}

std::string settings_text(const Json& settings) {
  return settings.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

}  // namespace bipo
