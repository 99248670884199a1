#include "trainer/model/weights/shard_index.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>
#include <set>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/files/strict_json.hpp"

namespace bipo {
namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kLargestIndex = 100'000'000;

bool is_plain_shard_name(const std::string& name) {
  return name.find('/') == std::string::npos && name.find('\\') == std::string::npos &&
         name.find('\0') == std::string::npos && !name.starts_with('.') &&
         name.ends_with(".safetensors");
}

void require_files(const std::filesystem::path& index, const std::set<std::string>& names) {
  std::vector<std::string> absent;
  std::error_code unreachable;
  for (const std::string& name : names) {
    if (!std::filesystem::exists(index.parent_path() / name, unreachable)) {
      absent.push_back(name);
    }
  }
  if (!absent.empty()) {
    throw UserError(fmt::format(
        "{}: {} of the {} files it names are not there: {}; the model is incomplete, get it again",
        index.string(), absent.size(), names.size(), fmt::join(absent, ", ")));
  }
}

}  // namespace

std::map<std::string, std::string> read_shard_index(const std::filesystem::path& path) {
  const Json index = read_strict_json<Json>(path, kLargestIndex);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    throw UserError(fmt::format("{}: has no \"weight_map\" object", path.string()));
  }
  std::map<std::string, std::string> shard_of;
  std::set<std::string> names;
  for (const auto& [tensor, shard] : index["weight_map"].items()) {
    const std::string name = shard.is_string() ? shard.get<std::string>() : "";
    if (!is_plain_shard_name(name)) {
      throw UserError(fmt::format(
          "{}: tensor {} points to {}; only plain *.safetensors file names in the model's own "
          "directory are accepted",
          path.string(), tensor, shard.dump()));
    }
    shard_of.emplace(tensor, name);
    names.insert(name);
  }
  require_files(path, names);
  return shard_of;
}

}  // namespace bipo
