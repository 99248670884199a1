#include "trainer/model/gguf_weights.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "collectives/errors.hpp"
#include "trainer/model/gguf_architectures.hpp"
#include "trainer/model/gguf_config.hpp"

namespace bipo {
namespace {

at::ScalarType type_of(const BlockFormat& format) {
  switch (format.type) {
    case GgmlType::kF16:
      return at::kHalf;
    case GgmlType::kBF16:
      return at::kBFloat16;
    default:
      return at::kFloat;
  }
}

// Of the elements of one row that begins at `row`.
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
    std::set<std::string> expected = {kGgufRopeDivisors, kGgufShortRopeDivisors,
                                      kGgufLongRopeDivisors};
    std::vector<std::string> missing;
    const auto expect = [&](Role role, std::int64_t block) {
      const TensorPlace place = gguf_tensor_place(config, role, block);
      const bool is_first = expected.insert(place.name).second;
      if (const GgufTensor* tensor = file_->find_tensor(place.name)) {
        check_shape(place, *tensor);
      } else if (is_first) {
        missing.push_back(place.name);
      }
    };
    for (const Role role : outer_roles(config)) {
      expect(role, 0);
    }
    for (std::int64_t block = 0; block < config.blocks; ++block) {
      for (const Role role : block_roles(config)) {
        expect(role, block);
      }
    }
    refuse_if_any(missing, "missing, but the metadata asks for them");
    refuse_extra(expected);
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
    return result;
  }

  std::uint64_t fingerprint() const override { return file_->fingerprint(); }

 private:
  // Row j of a head, and row j + K/2 that it is rotated with, are rows 2j and 2j + 1 where rotated
  // rows are adjacent.
  std::int64_t row_in_role(Role role, std::int64_t row) const {
    if (!adjacent_rotary_rows_ || (role != Role::kQuery && role != Role::kKey)) {
      return row;
    }
    const std::int64_t half = config_.head_size / 2;
    const std::int64_t in_head = row % config_.head_size;
    return row - in_head + in_head % half * 2 + in_head / half;
  }

  void check_shape(const TensorPlace& place, const GgufTensor& tensor) const {
    const TensorShape& shape = place.shape;
    const std::vector<std::int64_t> expected =
        shape.is_vector() ? std::vector{shape.rows} : std::vector{shape.rows, shape.columns};
    if (tensor.shape != expected) {
      throw UserError(
          fmt::format("{}: tensor {} has shape [{}], but the metadata implies [{}]: the file is "
                      "damaged",
                      file_->path().string(), place.name, fmt::join(tensor.shape, ", "),
                      fmt::join(expected, ", ")));
    }
  }

  void refuse_extra(const std::set<std::string>& expected) const {
    std::vector<std::string> extra;
    for (const auto& [name, tensor] : file_->tensors()) {
      if (!expected.contains(name)) {
        extra.push_back(name);
      }
    }
    refuse_if_any(extra, "not known to this program and may change what the model computes");
  }

  void refuse_if_any(const std::vector<std::string>& names, const char* what) const {
    if (!names.empty()) {
      throw UserError(fmt::format("{}: {} tensor{} {} {}: {}", file_->path().string(), names.size(),
                                  names.size() == 1 ? "" : "s", names.size() == 1 ? "is" : "are",
                                  what, fmt::join(names, ", ")));
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
