#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "trainer/model/gguf/gguf_architectures.hpp"
#include "trainer/model/gguf/gguf_model.hpp"
#include "trainer/model/gguf/gguf_slices.hpp"

namespace bipo {
namespace {

constexpr std::string_view kSuffixA = ".lora_a";
constexpr std::string_view kSuffixB = ".lora_b";
constexpr const char* kAlphaKey = "adapter.lora.alpha";

// The update scale * B A of one tensor of the model.
struct LoraUpdate {
  const GgufTensor* a = nullptr;  // [rank, in]
  const GgufTensor* b = nullptr;  // [out, rank]
  double scale = 0;
};

class GgufAdapterReader {
 public:
  GgufAdapterReader(const GgufFile& file, const ModelConfig& config)
      : file_(file), config_(config) {}

  // Throws UserError for a file of another kind, or an adapter of another architecture.
  const GgufArchitecture& architecture() const {
    const std::string type = text("general.type");
    const std::string kind = text("adapter.type");
    if (type != "adapter" || kind != "lora") {
      refuse(fmt::format("is not a LoRA adapter: general.type is {:?}, adapter.type is {:?}", type,
                         kind));
    }
    const std::string name = text("general.architecture");
    const GgufArchitecture* architecture = find_gguf_architecture(name);
    if (architecture == nullptr || !holds_family(*architecture, config_.architecture)) {
      refuse(fmt::format("is for models of the general.architecture {:?}, and this one is a {}",
                         name, config_.architecture));
    }
    if (config_.delta_net) {
      refuse(
          "updates a model with recurrent blocks, whose heads have an order of their own in GGUF "
          "files; use the adapter's PEFT directory");
    }
    if (file_.find_value("adapter.alora.invocation_tokens") != nullptr) {
      refuse(
          "has adapter.alora.invocation_tokens: it takes effect from certain tokens on, which is "
          "not supported");
    }
    return *architecture;
  }

  // By the name of the model's tensor.
  std::map<std::string, LoraUpdate> updates() const {
    const std::map<std::string, TensorShape> matrices = matrices_of_model();
    std::map<std::string, LoraUpdate> updates;
    std::vector<std::string> unknown;
    for (const auto& [name, tensor] : file_.tensors()) {
      const bool is_a = name.ends_with(kSuffixA);
      const std::string base =
          is_a || name.ends_with(kSuffixB) ? name.substr(0, name.size() - kSuffixA.size()) : "";
      if (!matrices.contains(base)) {
        unknown.push_back(name);
        continue;
      }
      (is_a ? updates[base].a : updates[base].b) = &tensor;
    }
    if (!unknown.empty()) {
      refuse(
          fmt::format("{} of its tensors are not lora_a or lora_b of a matrix of this model, or "
                      "belong to its embedding: {}; merge it with llama.cpp's llama-export-lora "
                      "if it is for this model",
                      unknown.size(), fmt::join(unknown, ", ")));
    }
    if (updates.empty()) {
      refuse("holds no tensors; the adapter would change nothing");
    }
    for (auto& [name, update] : updates) {
      complete(name, matrices.at(name), update);
    }
    return updates;
  }

  std::vector<std::string> warnings() const {
    if (text("adapter.lora.prompt_prefix").empty()) {
      return {};
    }
    return {fmt::format("{}: metadata adapter.lora.prompt_prefix is not used; prompts are as given",
                        file_.path().string())};
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw UserError(fmt::format("--adapter: {}: {}", file_.path().string(), what));
  }

  std::string text(const char* key) const {
    const GgufValue* value = file_.find_value(key);
    return value == nullptr ? "" : std::string(value->text().value_or(""));
  }

  // Converters write Mistral's models as Llama's.
  static bool holds_family(const GgufArchitecture& architecture, const std::string& family) {
    return family == architecture.family ||
           (std::string_view(architecture.name) == "llama" &&
            (family == "MistralForCausalLM" || family == "MinistralForCausalLM"));
  }

  std::map<std::string, TensorShape> matrices_of_model() const {
    std::map<std::string, TensorShape> matrices;
    for (const auto& [role, block] : weights_of(config_)) {
      const TensorPlace place = gguf_tensor_place(config_, role, block);
      if (is_product(role) && role != Role::kEmbedding) {
        matrices.emplace(place.name, place.shape);
      }
    }
    return matrices;
  }

  void complete(const std::string& name, const TensorShape& shape, LoraUpdate& update) const {
    if (update.a == nullptr || update.b == nullptr) {
      refuse(fmt::format("tensor {} has {} only; the adapter is incomplete, get it again", name,
                         update.a == nullptr ? "lora_b" : "lora_a"));
    }
    const std::int64_t rank = update.a->shape.front();
    check_shape(fmt::format("{}{}", name, kSuffixA), *update.a, {rank, shape.columns});
    check_shape(fmt::format("{}{}", name, kSuffixB), *update.b, {shape.rows, rank});
    update.scale = scale(rank);
  }

  // llama.cpp's rule (llama-adapter.h): an alpha of 0 leaves the update as it is.
  double scale(std::int64_t rank) const {
    const GgufValue* value = file_.find_value(kAlphaKey);
    const std::optional<double> alpha = value == nullptr ? std::nullopt : value->number();
    if (!alpha || !std::isfinite(*alpha)) {
      refuse(fmt::format("metadata {} is missing or not a number", kAlphaKey));
    }
    return *alpha == 0 ? 1 : *alpha / static_cast<double>(rank);
  }

  void check_shape(const std::string& name, const GgufTensor& tensor,
                   const std::vector<std::int64_t>& expected) const {
    if (tensor.shape != expected) {
      refuse(
          fmt::format("tensor {} has shape [{}], but the model implies [{}]; they do not belong "
                      "together",
                      name, fmt::join(tensor.shape, ", "), fmt::join(expected, ", ")));
    }
  }

  const GgufFile& file_;
  const ModelConfig& config_;
};

class GgufAdaptedWeights final : public WeightSource {
 public:
  GgufAdaptedWeights(const std::filesystem::path& path, std::unique_ptr<WeightSource> base,
                     const ModelConfig& config)
      : base_(std::move(base)), config_(config), file_(path) {
    const GgufAdapterReader reader(file_, config_);
    architecture_ = &reader.architecture();
    updates_ = reader.updates();
    warnings_ = reader.warnings();
  }

  at::Tensor read(Role role, std::int64_t block, const Slice& slice) const override {
    const at::Tensor weight = base_->read(role, block, slice);
    const TensorPlace place = gguf_tensor_place(config_, role, block);
    const auto found = updates_.find(place.name);
    if (found == updates_.end()) {
      return weight;
    }
    const LoraUpdate& update = found->second;
    const Range ranks = {0, update.a->shape.front()};
    const auto as_stored = [](std::int64_t row) { return row; };
    const auto in_file = [&](std::int64_t row) {
      return place.first_row + row_in_gguf(*architecture_, config_, role, block, row);
    };
    const at::Tensor a = read_gguf_slice(*update.a, {ranks, slice.columns}, as_stored);
    const at::Tensor b = read_gguf_slice(*update.b, {slice.rows, ranks}, in_file);
    const at::Tensor delta = at::mm(b.to(at::kFloat), a.to(at::kFloat)).mul_(update.scale);
    return delta.to(at::promote_types(weight.scalar_type(), at::kFloat)).add_(weight);
  }

  std::string place(Role role, std::int64_t block) const override {
    const bool is_updated = updates_.contains(gguf_tensor_place(config_, role, block).name);
    return base_->place(role, block) +
           (is_updated ? fmt::format(" with its update in {}", file_.path().string()) : "");
  }

  std::vector<std::string> warnings() const override {
    std::vector<std::string> all = base_->warnings();
    all.insert(all.end(), warnings_.begin(), warnings_.end());
    return all;
  }

  std::uint64_t fingerprint() const override {
    ContentHash hash;
    hash.add(base_->fingerprint());
    hash.add(file_.fingerprint());
    return hash.value();
  }

  std::vector<const MappedFile*> files() const override {
    std::vector<const MappedFile*> files = base_->files();
    const std::vector<const MappedFile*> own = file_.files();
    files.insert(files.end(), own.begin(), own.end());
    return files;
  }

 private:
  std::unique_ptr<WeightSource> base_;
  ModelConfig config_;
  GgufFile file_;
  const GgufArchitecture* architecture_ = nullptr;
  std::map<std::string, LoraUpdate> updates_;
  std::vector<std::string> warnings_;
};

}  // namespace

std::unique_ptr<WeightSource> merge_gguf_lora(const std::filesystem::path& file,
                                              std::unique_ptr<WeightSource> base,
                                              const ModelConfig& config) {
  return std::make_unique<GgufAdaptedWeights>(file, std::move(base), config);
}

}  // namespace bipo
