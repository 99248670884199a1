#include "trainer/model/weights/weights.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "trainer/model/architecture/wrappers.hpp"
#include "trainer/model/files/strict_json.hpp"
#include "trainer/model/hub/hub_cache.hpp"
#include "trainer/model/sharding/names.hpp"
#include "trainer/model/weights/checkpoint_names.hpp"
#include "trainer/model/weights/other_formats.hpp"
#include "trainer/model/weights/safetensors.hpp"
#include "trainer/model/weights/tensor_check.hpp"

namespace bipo {
namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

// Returns the shape of a convolution by channels [C, 1, W] as the matrix that it is.
std::vector<std::int64_t> as_matrix(std::vector<std::int64_t> shape) {
  if (shape.size() == 3 && shape[1] == 1) {
    shape.erase(shape.begin() + 1);
  }
  return shape;
}

// Frequencies of rotary embedding, in checkpoints of 2023, repeat what the configuration says.  So
// do GPT-NeoX's causal mask and the number that it put in place of masked scores.
bool repeats_configuration(const std::string& name) {
  return name.ends_with("rotary_emb.inv_freq") || name.ends_with(".attention.bias") ||
         name.ends_with(".attention.masked_bias");
}

// Returns "2026-11-28 20:15" in UTC, or "unknown".
std::string date_of(const std::filesystem::path& path) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) {
    return "unknown";
  }
  return fmt::format("{:%Y-%m-%d %H:%M}", fmt::gmtime(status.st_mtime));
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
        "{}: {} of the {} files it names are not there: {}; the model is incomplete: {}",
        index.string(), absent.size(), names.size(), fmt::join(absent, ", "),
        download_advice(index.parent_path())));
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
  // Sets config.tied_head.
  SafetensorsSource(const std::filesystem::path& directory, ModelConfig& config)
      : directory_(directory), config_(config) {
    if (std::filesystem::exists(directory / kSingleFile)) {
      add(directory / kSingleFile);
      name_other_index();
    } else if (std::filesystem::exists(directory / kIndexFile)) {
      add_shards();
    } else {
      refuse_without_safetensors(directory);
    }
    name_other_shards();
    choose_names();
    decide_about_head();
    config.tied_head = config_.tied_head;
    check();
  }

  at::Tensor read(Role role, std::int64_t block, const Slice& slice) const override {
    const TensorPlace place = place_of(role, block);
    return where_.at(place.name)->read(place.name, place.rows_in_tensor(slice.rows), slice.columns);
  }

  std::string place(Role role, std::int64_t block) const override {
    const std::string name = place_of(role, block).name;
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

  std::vector<const MappedFile*> files() const override {
    std::vector<const MappedFile*> files;
    for (const auto& file : files_) {
      files.push_back(&file->file());
    }
    return files;
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

  // transformers prefers the single file too, also where it is what an older save left behind.
  void name_other_index() {
    const std::filesystem::path single = directory_ / kSingleFile;
    const std::filesystem::path index = directory_ / kIndexFile;
    std::error_code unreachable;
    if (!std::filesystem::exists(index, unreachable) || names_single_file_only(index)) {
      return;
    }
    warnings_.push_back(fmt::format(
        "{} (of {} UTC) is read, and {} (of {} UTC) with its shards is not, as in transformers; "
        "remove the older ones",
        single.string(), date_of(single), kIndexFile, date_of(index)));
  }

  static bool names_single_file_only(const std::filesystem::path& path) {
    const nlohmann::json index = read_strict_json<nlohmann::json>(path, kLargestIndex);
    const nlohmann::json map = index.is_object() ? index.value("weight_map", nlohmann::json()) : "";
    return map.is_object() && !map.empty() &&
           std::all_of(map.begin(), map.end(),
                       [](const nlohmann::json& shard) { return shard == kSingleFile; });
  }

  void name_other_shards() {
    std::vector<std::filesystem::path> used;
    for (const auto& file : files_) {
      used.push_back(file->path());
    }
    const std::vector<std::string> others = other_shards(directory_, used);
    std::error_code unreachable;
    const bool has_index = std::filesystem::exists(directory_ / kIndexFile, unreachable);
    const bool is_single = used.size() == 1 && used.front().filename() == kSingleFile;
    if (others.empty() || (is_single && has_index)) {  // the index was named with its shards
      return;
    }
    warnings_.push_back(fmt::format(
        "{}: not read, because {}: {}; remove what is left of another model", directory_.string(),
        is_single ? fmt::format("{} holds the model", kSingleFile)
                  : fmt::format("{} does not name it", kIndexFile),
        fmt::join(first_of(others), ", ")));
  }

  void choose_names() {
    std::vector<std::string> names;
    for (const auto& [name, file] : where_) {
      names.push_back(name);
    }
    names_ = find_names(names, config_.wrapper, class_names(config_));
    if (!names_.are_known_to_transformers) {
      warnings_.push_back(fmt::format(
          "{}: the tensors are named \"{}layers...\" instead of \"{}layers...\", and are read "
          "as those; transformers 5.23 starts such a model with random weights: rename them",
          directory_.string(), names_.blocks, names_.usual));
    }
  }

  // What transformers 5.23 does in PreTrainedModel.tie_weights.
  void decide_about_head() {
    const std::string embedding = tensor_place(config_, Role::kEmbedding).name;
    const std::string stored = names_.stored(embedding);
    const bool has_head = where_.contains(names_.head);
    if (!config_.tied_head || !has_head) {
      return;
    }
    if (!where_.contains(stored)) {
      embedding_ = names_.head;
      warnings_.push_back(fmt::format(
          "{}: {} is the embedding too: config.json ties them, and the files lack {} (transformers "
          "4.57.6 cannot use such files)",
          directory_.string(), names_.head, stored));
      return;
    }
    if (where_.at(names_.head)->holds_same(names_.head, *where_.at(stored), stored)) {
      return;
    }
    config_.tied_head = false;
    if (config_.separate_head_is_usual) {
      return;
    }
    warnings_.push_back(fmt::format(
        "{}: config.json says \"tie_word_embeddings\": true, but {} differs from {}: the head of "
        "the files is used, as in transformers 5.23 (4.57.6 uses the embedding); set it to false "
        "to be rid of this line",
        directory_.string(), names_.head, stored));
  }

  TensorPlace place_of(Role role, std::int64_t block) const {
    TensorPlace place = tensor_place(config_, role, block);
    place.name =
        role == Role::kEmbedding && !embedding_.empty() ? embedding_ : names_.stored(place.name);
    return place;
  }

  // What an error about missing tensors should add.
  std::string remark() const {
    const auto has_part = [&](const char* part) {
      return std::any_of(where_.begin(), where_.end(), [&](const auto& tensor) {
        return tensor.first.find(part) != std::string::npos;
      });
    };
    if (has_part(".base_layer.") || has_part(".lora_A.")) {
      return "The files hold an adapter's layers beside the model's: save the result of PEFT's "
             "merge_and_unload instead";
    }
    if (!names_.alternatives.empty()) {
      return fmt::format("The files hold several models, with tensors that begin with {}",
                         fmt::join(names_.alternatives, ", "));
    }
    if (!config_.tied_head && !where_.contains(names_.head)) {
      return "If the model's head is its embedding, set \"tie_word_embeddings\" to true in "
             "config.json";
    }
    return where_.empty() ? std::string()
                          : fmt::format("The files hold names such as {}", where_.begin()->first);
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
      stored[name] = {file->path().filename().string(), as_matrix(entry.shape), std::move(flaw)};
    }
    const TensorCheck check_of_model = {
        directory_.string(), "config.json",
        [&](Role role, std::int64_t block) { return place_of(role, block); }, remark()};
    std::vector<std::string> extra = check_tensors(check_of_model, config_, stored);
    std::erase_if(extra, [&](const std::string& name) {
      return repeats_configuration(name) || (config_.tied_head && name == names_.head);
    });
    name_other_parts(extra);
    if (!extra.empty()) {
      warnings_.push_back(fmt::format(
          "{}: {} not used, because the model of config.json has no such weight: {}",
          directory_.string(), tensors_are(extra.size()), fmt::join(first_of(extra), ", ")));
    }
  }

  // Takes the tensors of the wrapper's other parts out of `extra`, and names these parts.
  void name_other_parts(std::vector<std::string>& extra) {
    if (config_.wrapper == nullptr) {
      return;
    }
    std::set<std::string_view> parts;
    const auto count = std::erase_if(extra, [&](const std::string& name) {
      const auto part = config_.wrapper->other_module(name);
      if (part) {
        parts.insert(*part);
      }
      return part.has_value();
    });
    if (count > 0) {
      warnings_.push_back(
          fmt::format("{}: only the text part of {} is computed; {} of its other parts not read: "
                      "{}",
                      directory_.string(), config_.wrapper->architecture, tensors_are(count),
                      fmt::join(parts, ", ")));
    }
  }

  std::filesystem::path directory_;
  ModelConfig config_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, const SafetensorsFile*> where_;  // by name
  CheckpointNames names_;
  std::string embedding_;  // the tensor that is the embedding, if not the one of that name
  std::vector<std::string> warnings_;
};

}  // namespace

std::uint64_t hash_of_weights(const WeightSource& source, const HashMemory& memory) {
  const std::vector<const MappedFile*> files = source.files();
  if (files.empty()) {
    return source.fingerprint();
  }
  ContentHash hash;
  for (const MappedFile* file : files) {
    hash.add(file_hash(*file, memory));
  }
  return hash.value();
}

std::unique_ptr<WeightSource> open_safetensors(const std::filesystem::path& directory,
                                               ModelConfig& config) {
  return std::make_unique<SafetensorsSource>(directory, config);
}

}  // namespace bipo
