#include "trainer/model/weights/weights.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "trainer/model/files/strict_json.hpp"
#include "trainer/model/sharding/names.hpp"
#include "trainer/model/weights/safetensors.hpp"
#include "trainer/model/weights/tensor_check.hpp"

namespace bipo {
namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

// Whether a tensor repeats what the configuration says: frequencies of rotary embedding, in
// checkpoints of 2023, and a second copy of a tied head.
bool is_harmless(const std::string& name, const ModelConfig& config) {
  return name.ends_with("rotary_emb.inv_freq") ||
         (config.tied_head && name == tensor_place(config, Role::kHead).name);
}

// Shortens a list to what a warning can name.
std::vector<std::string> first_of(std::vector<std::string> names) {
  constexpr std::size_t kMost = 10;
  if (names.size() > kMost) {
    names.resize(kMost);
    names.emplace_back("...");
  }
  return names;
}

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

// Reads the index, which says in which file of the directory each tensor is: file name by tensor.
// Refuses an index that names anything but a plain *.safetensors file name, so that no index leads
// out of the directory, and one that names files that do not exist.
std::map<std::string, std::string> read_shard_index(const std::filesystem::path& path) {
  const nlohmann::json index = read_strict_json<nlohmann::json>(path, kLargestIndex);
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

class SafetensorsSource final : public WeightSource {
 public:
  SafetensorsSource(const std::filesystem::path& directory, const ModelConfig& config)
      : directory_(directory), config_(config) {
    if (std::filesystem::exists(directory / kSingleFile)) {
      add(directory / kSingleFile);
    } else if (std::filesystem::exists(directory / kIndexFile)) {
      add_shards();
    } else {
      throw UserError(
          fmt::format("{}: has neither {} nor {}", directory.string(), kSingleFile, kIndexFile));
    }
    check();
  }

  at::Tensor read(Role role, std::int64_t block, const Slice& slice) const override {
    const TensorPlace place = tensor_place(config_, role, block);
    const Range rows = {place.first_row + slice.rows.begin, place.first_row + slice.rows.end};
    return where_.at(place.name)->read(place.name, {rows, slice.columns});
  }

  std::string place(Role role, std::int64_t block) const override {
    const std::string name = tensor_place(config_, role, block).name;
    return fmt::format("{}: tensor {}", where_.at(name)->path().string(), name);
  }

  std::vector<std::string> warnings() const override { return warnings_; }

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
  void add(const std::filesystem::path& path) {
    files_.push_back(std::make_unique<SafetensorsFile>(path));
    const SafetensorsFile* file = files_.back().get();
    for (const auto& [name, entry] : file->entries()) {
      if (!where_.emplace(name, file).second) {
        throw UserError(fmt::format(
            "{}: tensor {} is in {} too; one of the shards does not belong to this model",
            path.string(), name, where_.at(name)->path().string()));
      }
    }
  }

  void add_shards() {
    const std::filesystem::path index = directory_ / kIndexFile;
    const std::map<std::string, std::string> shard_of = read_shard_index(index);
    std::set<std::string> shards;
    for (const auto& [tensor, shard] : shard_of) {
      if (shards.insert(shard).second) {
        add(directory_ / shard);
      }
    }
    std::vector<std::string> misplaced;
    for (const auto& [tensor, shard] : shard_of) {
      const auto found = where_.find(tensor);
      if (found == where_.end()) {
        misplaced.push_back(fmt::format("{}, which {} lacks", tensor, shard));
      } else if (found->second->path().filename() != shard) {
        misplaced.push_back(fmt::format("{}, which is in {} instead of {}", tensor,
                                        found->second->path().filename().string(), shard));
      }
    }
    if (!misplaced.empty()) {
      throw UserError(
          fmt::format("{}: {} not where it says: {}; index and files do not belong together, or "
                      "files are incomplete: get the model again",
                      index.string(), tensors_are(misplaced.size()), fmt::join(misplaced, "; ")));
    }
  }

  void check() {
    StoredTensors stored;
    for (const auto& [name, file] : where_) {
      const SafetensorsFile::Entry& entry = file->entries().at(name);
      std::string flaw;
      if (!at::isFloatingType(entry.type)) {
        flaw = fmt::format("is of type {}; float64, float32, float16 and bfloat16 are supported",
                           c10::toString(entry.type));
      }
      stored[name] = {file->path().filename().string(), entry.shape, std::move(flaw)};
    }
    const TensorCheck check_of_model = {
        directory_.string(), "config.json",
        [&](Role role, std::int64_t block) { return tensor_place(config_, role, block); }};
    std::vector<std::string> extra = check_tensors(check_of_model, config_, stored);
    std::erase_if(extra, [&](const std::string& name) { return is_harmless(name, config_); });
    if (!extra.empty()) {
      warnings_.push_back(fmt::format(
          "{}: {} not used, because the model of config.json has no such weight: {}",
          directory_.string(), tensors_are(extra.size()), fmt::join(first_of(extra), ", ")));
    }
  }

  std::filesystem::path directory_;
  ModelConfig config_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, const SafetensorsFile*> where_;  // by name
  std::vector<std::string> warnings_;
};

}  // namespace

std::unique_ptr<WeightSource> open_safetensors(const std::filesystem::path& directory,
                                               const ModelConfig& config) {
  return std::make_unique<SafetensorsSource>(directory, config);
}

}  // namespace bipo
