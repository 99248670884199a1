#include "trainer/model/lora/lora_weights.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "trainer/model/lora/lora_config.hpp"
#include "trainer/model/sharding/names.hpp"
#include "trainer/model/weights/safetensors.hpp"

namespace bipo {
namespace {

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kTensorFile = "adapter_model.safetensors";

constexpr std::string_view kPrefix = "base_model.model.";
constexpr std::string_view kSuffixA = ".lora_A.weight";
constexpr std::string_view kSuffixB = ".lora_B.weight";
constexpr std::string_view kWeight = ".weight";

// The update of one module's weight.
struct Update {
  std::string a;  // names of the tensors
  std::string b;
  std::int64_t rank = 0;
  double scale = 0;
};

std::string without_end(const std::string& text, std::string_view end) {
  return text.substr(0, text.size() - end.size());
}

// Returns [out, in] of each matrix that an adapter may update, by module: in fused tensors several
// weights of the model are rows of one matrix.
std::map<std::string, TensorShape> modules_of(const ModelConfig& config) {
  std::map<std::string, TensorShape> modules;
  for (const auto& [role, block] : weights_of(config)) {
    const TensorPlace place = tensor_place(config, role, block);
    if (!place.shape.is_vector() && place.name.ends_with(kWeight)) {
      modules.emplace(without_end(place.name, kWeight), place.shape);
    }
  }
  return modules;
}

// Checks an adapter against the model when it is opened.
class AdapterReader {
 public:
  AdapterReader(const LoraConfig& config, const SafetensorsFile& file, const ModelConfig& model)
      : config_(config), file_(file), modules_(modules_of(model)) {
    embedding_ = without_end(tensor_place(model, Role::kEmbedding).name, kWeight);
  }

  std::map<std::string, Update> read() {
    std::vector<std::string> unknown;
    for (const auto& [name, entry] : file_.entries()) {
      if (!add(name)) {
        unknown.push_back(name);
      }
    }
    if (!unknown.empty()) {
      refuse(fmt::format(
          "{} of its tensors are not lora_A or lora_B of a matrix of this model: {}; the adapter "
          "belongs to another model, or is of an unsupported kind",
          unknown.size(), fmt::join(unknown, ", ")));
    }
    check_modules();
    for (auto& [module, update] : updates_) {
      complete(module, update);
    }
    return std::move(updates_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw UserError(fmt::format("--adapter: {}: {}", file_.path().string(), what));
  }

  // Whether the tensor belongs to an update of one of the model's matrices.
  bool add(const std::string& name) {
    const bool is_a = name.ends_with(kSuffixA);
    if (!name.starts_with(kPrefix) || (!is_a && !name.ends_with(kSuffixB))) {
      return false;
    }
    const std::string module = without_end(name, is_a ? kSuffixA : kSuffixB).substr(kPrefix.size());
    if (!modules_.contains(module) || module == embedding_) {
      return false;
    }
    (is_a ? updates_[module].a : updates_[module].b) = name;
    return true;
  }

  // Refuses other modules than the configuration lists.
  void check_modules() const {
    std::vector<std::string> missing;
    std::vector<std::string> unlisted;
    for (const auto& [module, shape] : modules_) {
      const bool is_listed = config_.lists_targets() && config_.targets(module);
      if (is_listed && !updates_.contains(module)) {
        missing.push_back(module);
      }
      if (config_.lists_targets() && !is_listed && updates_.contains(module)) {
        unlisted.push_back(module);
      }
    }
    if (!missing.empty()) {
      refuse(
          fmt::format("{} modules that {} targets have no tensors here: {}; the adapter is "
                      "incomplete, get it again",
                      missing.size(), config_.path().string(), fmt::join(missing, ", ")));
    }
    if (!unlisted.empty()) {
      refuse(
          fmt::format("{} modules have tensors here, but {} does not target them: {}; the two "
                      "files do not belong together",
                      unlisted.size(), config_.path().string(), fmt::join(unlisted, ", ")));
    }
    if (updates_.empty()) {
      refuse("holds no tensors; the adapter would change nothing");
    }
  }

  void complete(const std::string& module, Update& update) const {
    if (update.a.empty() || update.b.empty()) {
      refuse(fmt::format("module {} has {} only; the adapter is incomplete, get it again", module,
                         update.a.empty() ? "lora_B" : "lora_A"));
    }
    const TensorShape& shape = modules_.at(module);
    update.rank = config_.rank(module);
    update.scale = config_.scale(module);
    check_shape(update.a, {update.rank, shape.columns});
    check_shape(update.b, {shape.rows, update.rank});
  }

  void check_shape(const std::string& name, const std::vector<std::int64_t>& expected) const {
    const SafetensorsFile::Entry& entry = file_.entries().at(name);
    if (entry.shape != expected) {
      refuse(fmt::format(
          "tensor {} has shape [{}], but the model and the rank in {} imply [{}]; "
          "they do not belong together",
          name, fmt::join(entry.shape, ", "), config_.path().string(), fmt::join(expected, ", ")));
    }
    if (!at::isFloatingType(entry.type)) {
      refuse(fmt::format("tensor {} is of type {}, which is not a floating-point type", name,
                         c10::toString(entry.type)));
    }
  }

  const LoraConfig& config_;
  const SafetensorsFile& file_;
  std::map<std::string, TensorShape> modules_;
  std::string embedding_;
  std::map<std::string, Update> updates_;
};

class AdaptedWeights final : public WeightSource {
 public:
  AdaptedWeights(const std::filesystem::path& directory, std::unique_ptr<WeightSource> base,
                 const ModelConfig& config)
      : base_(std::move(base)), config_(config), file_(directory / kTensorFile) {
    const LoraConfig adapter(directory / kConfigFile);
    updates_ = AdapterReader(adapter, file_, config).read();
  }

  at::Tensor read(Role role, std::int64_t block, const Slice& slice) const override {
    const at::Tensor weight = base_->read(role, block, slice);
    const TensorPlace place = tensor_place(config_, role, block);
    const Update* update = update_of(place);
    if (update == nullptr) {
      return weight;
    }
    const Range rows = {place.first_row + slice.rows.begin, place.first_row + slice.rows.end};
    const Range ranks = {0, update->rank};
    const at::Tensor a = file_.read(update->a, {ranks, slice.columns}).to(at::kFloat);
    const at::Tensor b = file_.read(update->b, {rows, ranks}).to(at::kFloat);
    const at::Tensor delta = at::mm(b, a).mul_(update->scale);
    return delta.to(at::promote_types(weight.scalar_type(), at::kFloat)).add_(weight);
  }

  std::vector<std::string> warnings() const override { return base_->warnings(); }

  std::string place(Role role, std::int64_t block) const override {
    const Update* update = update_of(tensor_place(config_, role, block));
    return base_->place(role, block) +
           (update == nullptr ? "" : fmt::format(" with its update in {}", file_.path().string()));
  }

  std::uint64_t fingerprint() const override {
    ContentHash hash;
    hash.add(base_->fingerprint());
    for (const auto& [module, update] : updates_) {
      hash.add(fmt::format("{} {} {};", module, update.rank, update.scale));
      file_.add_sample(update.a, hash);
      file_.add_sample(update.b, hash);
    }
    return hash.value();
  }

 private:
  const Update* update_of(const TensorPlace& place) const {
    if (!place.name.ends_with(kWeight)) {
      return nullptr;
    }
    const auto found = updates_.find(without_end(place.name, kWeight));
    return found == updates_.end() ? nullptr : &found->second;
  }

  std::unique_ptr<WeightSource> base_;
  ModelConfig config_;
  SafetensorsFile file_;
  std::map<std::string, Update> updates_;  // by module
};

void check_directory(const std::filesystem::path& directory) {
  std::error_code unreachable;
  if (!std::filesystem::is_directory(directory, unreachable)) {
    throw UserError(
        fmt::format("--adapter {}: no such directory; it takes a PEFT directory with {} and {}",
                    directory.string(), kConfigFile, kTensorFile));
  }
  for (const char* name : {kConfigFile, kTensorFile}) {
    if (!std::filesystem::exists(directory / name, unreachable)) {
      throw UserError(fmt::format(
          "--adapter {}: has no {}; adapters are read as PEFT saves them with safe_serialization",
          directory.string(), name));
    }
  }
}

}  // namespace

std::unique_ptr<WeightSource> merge_lora(const std::filesystem::path& directory,
                                         std::unique_ptr<WeightSource> base,
                                         const ModelConfig& config) {
  check_directory(directory);
  return std::make_unique<AdaptedWeights>(directory, std::move(base), config);
}

}  // namespace bipo
