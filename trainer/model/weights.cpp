#include "trainer/model/weights.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "collectives/content_hash.hpp"
#include "collectives/errors.hpp"
#include "collectives/untrusted_json.hpp"
#include "trainer/model/names.hpp"
#include "trainer/model/safetensors.hpp"

namespace bipo {
namespace {

using Json = nlohmann::json;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

class SafetensorsSource final : public WeightSource {
 public:
  void add(const std::filesystem::path& path) {
    files_.push_back(std::make_unique<SafetensorsFile>(path));
  }

  void locate(const std::filesystem::path& directory, const ModelConfig& config) {
    for (const auto& file : files_) {
      for (const auto& [name, entry] : file->entries()) {
        if (!where_.emplace(name, file.get()).second) {
          throw UserError(fmt::format(
              "{}: tensor {} is in {} too; one of the shards does not belong to this model",
              file->path().string(), name, where_.at(name)->path().string()));
        }
      }
    }
    for (const Role role : outer_roles(config)) {
      expect(directory, config, role, 0);
    }
    for (std::int64_t block = 0; block < config.blocks; ++block) {
      for (const Role role : block_roles(config)) {
        expect(directory, config, role, block);
      }
    }
    config_ = config;
  }

  at::Tensor read(Role role, std::int64_t block, const Slice& slice) const override {
    const TensorPlace place = tensor_place(config_, role, block);
    const Range rows = {place.first_row + slice.rows.begin, place.first_row + slice.rows.end};
    return where_.at(place.name)->read(place.name, {rows, slice.columns});
  }

  std::uint64_t fingerprint() const override {
    ContentHash hash;
    for (const auto& [name, file] : where_) {
      const auto& entry = file->entries().at(name);
      hash.add(
          fmt::format("{} {} {};", name, c10::toString(entry.type), fmt::join(entry.shape, "x")));
      file->add_sample(name, hash);
    }
    return hash.value();
  }

 private:
  void expect(const std::filesystem::path& directory, const ModelConfig& config, Role role,
              std::int64_t block) const {
    const TensorPlace place = tensor_place(config, role, block);
    const std::string& name = place.name;
    const auto found = where_.find(name);
    if (found == where_.end()) {
      throw UserError(fmt::format(
          "{}: tensor {} is missing from the safetensors, but config.json asks for it ({} blocks, "
          "{} head)",
          directory.string(), name, config.blocks, config.tied_head ? "tied" : "untied"));
    }
    const auto& entry = found->second->entries().at(name);
    const TensorShape& shape = place.shape;
    const std::vector<std::int64_t> expected =
        shape.is_vector() ? std::vector{shape.rows} : std::vector{shape.rows, shape.columns};
    if (entry.shape != expected) {
      throw UserError(
          fmt::format("{}: tensor {} has shape [{}], but config.json implies [{}]; weights and "
                      "configuration do "
                      "not belong together",
                      found->second->path().string(), name, fmt::join(entry.shape, ", "),
                      fmt::join(expected, ", ")));
    }
    if (!at::isFloatingType(entry.type)) {
      throw UserError(fmt::format(
          "{}: tensor {} is of type {}; float64, float32, float16 and bfloat16 are supported",
          found->second->path().string(), name, c10::toString(entry.type)));
    }
  }

  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, const SafetensorsFile*> where_;
  ModelConfig config_;
};

bool is_plain_shard_name(const std::string& name) {
  return name.find('/') == std::string::npos && name.find('\\') == std::string::npos &&
         name.find('\0') == std::string::npos && name.front() != '.' &&
         name.ends_with(".safetensors");
}

std::vector<std::filesystem::path> shards_of(const std::filesystem::path& index_path) {
  std::ifstream file(index_path);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const Json index = parse_untrusted_json(text, index_path.string(), "get the model again");
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    throw UserError(fmt::format("{}: has no \"weight_map\" object", index_path.string()));
  }
  std::map<std::string, std::filesystem::path> shards;
  for (const auto& [tensor, shard] : index["weight_map"].items()) {
    const std::string name = shard.is_string() ? shard.get<std::string>() : "";
    if (name.empty() || !is_plain_shard_name(name)) {
      throw UserError(fmt::format(
          "{}: tensor {} points to {}; only plain *.safetensors file names in the model's own "
          "directory are accepted",
          index_path.string(), tensor, shard.dump()));
    }
    shards[name] = index_path.parent_path() / name;
  }
  std::vector<std::filesystem::path> paths;
  for (const auto& [name, path] : shards) {
    paths.push_back(path);
  }
  return paths;
}

}  // namespace

std::unique_ptr<WeightSource> open_safetensors(const std::filesystem::path& directory,
                                               const ModelConfig& config) {
  auto source = std::make_unique<SafetensorsSource>();
  if (std::filesystem::exists(directory / kSingleFile)) {
    source->add(directory / kSingleFile);
  } else if (std::filesystem::exists(directory / kIndexFile)) {
    for (const auto& shard : shards_of(directory / kIndexFile)) {
      source->add(shard);
    }
  } else {
    throw UserError(
        fmt::format("{}: has neither {} nor {}", directory.string(), kSingleFile, kIndexFile));
  }
  source->locate(directory, config);
  return source;
}

}  // namespace bipo
