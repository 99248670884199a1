#include "experiments/formats/model_type.hpp"

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/files/strict_json.hpp"
#include "trainer/model/gguf/gguf_file.hpp"
#include "trainer/model/hub/hub_cache.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

std::string type_in_config(const fs::path& path) {
  constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 24;
  const auto config = read_strict_json<nlohmann::json>(path, kMostBytes);
  if (!config.is_object() || !config.contains("model_type") || !config["model_type"].is_string()) {
    return "";
  }
  return config["model_type"];
}

std::string type_in_gguf(const fs::path& path) {
  const GgufFile file(path);
  const GgufValue* architecture = file.find_value("general.architecture");
  return architecture == nullptr ? "" : std::string(architecture->text().value_or(""));
}

}  // namespace

std::optional<std::string> model_type_of(const std::string& model) {
  std::error_code ignored;
  std::string type;
  try {
    const fs::path path = resolved_model_path(model);
    if (fs::is_regular_file(path, ignored)) {
      type = type_in_gguf(path);
    } else if (fs::is_regular_file(path / "config.json", ignored)) {
      type = type_in_config(path / "config.json");
    }
  } catch (const UserError&) {
    // A hint is no reason to refuse a vector: the model may have been replaced since.
  }
  return type.empty() ? std::nullopt : std::optional(type);
}

}  // namespace bipo
