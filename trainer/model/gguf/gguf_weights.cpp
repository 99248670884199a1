#include "trainer/model/gguf/gguf_model.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/gguf/gguf_architectures.hpp"
#include "trainer/model/weights/tensor_check.hpp"

namespace bipo {
namespace {

at::ScalarType type_of(const BlockFormat& format) {
  switch (format.type) {
    case GgmlType::kF16:
      return at::kHalf;
    case GgmlType::kBF16:
      return at::kBFloat16;
    case GgmlType::kF64:
      return at::kDouble;
    default:
      return at::kFloat;
  }
}

// Copies elements of the row that begins at `row`.
void copy_elements(const BlockFormat& format, const std::byte* row, Range elements,
                   std::byte* target) {
  if (format.elements == 1) {
    std::memcpy(target, row + elements.begin * format.bytes,
                static_cast<std::size_t>(elements.size() * format.bytes));
  } else {
    dequantize(format, row, elements, reinterpret_cast<float*>(target));
  }
}

class GgufWeights final : public WeightSource {
 public:
  GgufWeights(std::shared_ptr<const GgufFile> file, const ModelConfig& config)
      : file_(std::move(file)),
        config_(config),
        adjacent_rotary_rows_(architecture_of(*file_).adjacent_rotary_rows) {
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
    const auto options = at::TensorOptions().dtype(type_of(tensor.format));
    if (tensor.shape.size() == 1) {
      const at::Tensor result = at::empty({slice.rows.size()}, options);
      copy_elements(tensor.format, tensor.data.data(), slice.rows,
                    static_cast<std::byte*>(result.data_ptr()));
      return result;
    }
    const at::Tensor result = at::empty({slice.rows.size(), slice.columns.size()}, options);
    const std::int64_t row_bytes = tensor.shape[1] / tensor.format.elements * tensor.format.bytes;
    const std::int64_t result_row_bytes = slice.columns.size() * result.element_size();
    auto* target = static_cast<std::byte*>(result.data_ptr());
    constexpr std::int64_t kElementsPerTask = 32768;
    const std::int64_t grain = std::max<std::int64_t>(
        1, kElementsPerTask / std::max<std::int64_t>(1, slice.columns.size()));
    at::parallel_for(0, slice.rows.size(), grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t row = place.first_row + row_in_role(role, slice.rows.begin + i);
        copy_elements(tensor.format, tensor.data.data() + row * row_bytes, slice.columns,
                      target + i * result_row_bytes);
      }
    });
    file_->let_go(tensor);
    return result;
  }

  std::string place(Role role, std::int64_t block) const override {
    const std::string name = gguf_tensor_place(config_, role, block).name;
    return fmt::format("{}: tensor {}", file_->path_of(*file_->find_tensor(name)).string(), name);
  }

  std::uint64_t fingerprint() const override { return file_->fingerprint(); }

 private:
  // Returns the row in the file: rows j and j + K/2 of a head, a rotated pair, are rows 2j and 2j +
  // 1 if such rows are adjacent.
  std::int64_t row_in_role(Role role, std::int64_t row) const {
    if (!adjacent_rotary_rows_ || (role != Role::kQuery && role != Role::kKey)) {
      return row;
    }
    const std::int64_t half = config_.head_size / 2;
    const std::int64_t in_head = row % config_.head_size;
    return row - in_head + in_head % half * 2 + in_head / half;
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
  bool adjacent_rotary_rows_;
};

}  // namespace

std::unique_ptr<WeightSource> open_gguf_weights(std::shared_ptr<const GgufFile> file,
                                                const ModelConfig& config) {
  return std::make_unique<GgufWeights>(std::move(file), config);
}

}  // namespace bipo
