#include "trainer/model/gguf/gguf_model.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string>
#include <utility>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/gguf/gguf_architectures.hpp"
#include "trainer/model/gguf/gguf_slices.hpp"
#include "trainer/model/weights/tensor_check.hpp"

namespace bipo {
namespace {

class GgufWeights final : public WeightSource {
 public:
  GgufWeights(std::shared_ptr<const GgufFile> file, const ModelConfig& config)
      : file_(std::move(file)), config_(config), architecture_(architecture_of(*file_)) {
    StoredTensors stored;
    for (const auto& [name, tensor] : file_->tensors()) {
      stored[name] = {file_->path_of(tensor).filename().string(), tensor.shape};
    }
    const TensorCheck check = {
        file_->path().string(), "the metadata",
        [&](Role role, std::int64_t block) { return gguf_tensor_place(config_, role, block); }};
    refuse_extra(check_tensors(check, config_, stored));
  }

  at::Tensor read(Role role, std::int64_t block, const Slice& slice) const override {
    const TensorPlace place = gguf_tensor_place(config_, role, block);
    const GgufTensor& tensor = *file_->find_tensor(place.name);
    const auto row_in_file = [&](std::int64_t row) {
      return place.first_row + row_in_gguf(architecture_, config_, role, block, row);
    };
    at::Tensor result = role == Role::kDeltaOutput ? read_by_value_heads(tensor, slice, row_in_file)
                                                   : read_gguf_slice(tensor, slice, row_in_file);
    file_->let_go(tensor);
    // Files hold the decay's factor itself; its logarithm is what the role is.
    return role == Role::kDeltaDecayScale ? result.to(at::kFloat).neg().log() : result;
  }

  std::string place(Role role, std::int64_t block) const override {
    const std::string name = gguf_tensor_place(config_, role, block).name;
    const GgufTensor* tensor = file_->find_tensor(name);
    const auto& file = tensor == nullptr ? file_->path() : file_->path_of(*tensor);
    return fmt::format("{}: tensor {}", file.string(), name);
  }

  std::uint64_t fingerprint() const override { return file_->fingerprint(); }

  std::vector<const MappedFile*> files() const override { return file_->files(); }

 private:
  // For columns that belong to value heads, which the file has in another order.
  at::Tensor read_by_value_heads(const GgufTensor& tensor, const Slice& slice,
                                 const RowInFile& row) const {
    const DeltaNetSizes& sizes = *config_.delta_net;
    std::vector<at::Tensor> heads;
    for (std::int64_t column = slice.columns.begin; column < slice.columns.end;
         column += sizes.value_size) {
      const std::int64_t first =
          value_head_in_gguf(sizes, column / sizes.value_size) * sizes.value_size;
      heads.push_back(
          read_gguf_slice(tensor, {slice.rows, {first, first + sizes.value_size}}, row));
    }
    return at::cat(heads, 1);
  }

  void refuse_extra(std::vector<std::string> extra) const {
    std::erase_if(extra, [](const std::string& name) {
      return name == kGgufRopeDivisors || name == kGgufShortRopeDivisors ||
             name == kGgufLongRopeDivisors;
    });
    if (!extra.empty()) {
      throw UserError(
          fmt::format("{}: {} not known to this program and may change what the model computes: {}",
                      file_->path().string(), tensors_are(extra.size()), fmt::join(extra, ", ")));
    }
  }

  std::shared_ptr<const GgufFile> file_;
  ModelConfig config_;
  const GgufArchitecture& architecture_;
};

}  // namespace

std::unique_ptr<WeightSource> open_gguf_weights(std::shared_ptr<const GgufFile> file,
                                                const ModelConfig& config) {
  return std::make_unique<GgufWeights>(std::move(file), config);
}

}  // namespace bipo
