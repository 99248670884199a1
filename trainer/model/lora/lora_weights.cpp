#include "trainer/model/lora/lora_weights.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "trainer/model/lora/lora_config.hpp"
#include "trainer/model/lora/lora_tensors.hpp"
#include "trainer/model/sharding/names.hpp"
#include "trainer/model/weights/safetensors.hpp"

namespace bipo {
namespace {

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kTensorFile = "adapter_model.safetensors";
constexpr const char* kPickledFile = "adapter_model.bin";

// Rows of a matrix that are in memory at once beside a rank's slice.
std::int64_t rows_at_once(std::int64_t columns) {
  constexpr std::int64_t kElements = 1 << 22;
  return std::max<std::int64_t>(1, kElements / columns);
}

class AdaptedWeights final : public WeightSource {
 public:
  AdaptedWeights(const std::filesystem::path& directory, std::unique_ptr<WeightSource> base,
                 const ModelConfig& config, const std::filesystem::path& model)
      : base_(std::move(base)), config_(config), file_(directory / kTensorFile) {
    const LoraConfig adapter(directory / kConfigFile, model);
    LoraTensors tensors = read_lora_tensors(adapter, file_, config, *base_);
    updates_ = std::move(tensors.updates);
    warnings_ = std::move(tensors.warnings);
  }

  at::Tensor read(Role role, std::int64_t block, const Slice& slice) const override {
    const TensorPlace place = parameter_place(config_, role, block);
    const LoraUpdate* update = update_of(place);
    if (update == nullptr) {
      return base_->read(role, block, slice);
    }
    if (place.shape.is_vector()) {
      return add_bias(base_->read(role, block, slice), *update, place.rows_in_tensor(slice.rows));
    }
    const Matrix matrix = {role, block, place, full_shape(config_, role, block), *update};
    const at::Tensor sum = read_sum(matrix, slice);
    return update->magnitude.empty() ? sum : rescale(sum, matrix, slice);
  }

  std::vector<std::string> warnings() const override {
    std::vector<std::string> all = base_->warnings();
    all.insert(all.end(), warnings_.begin(), warnings_.end());
    return all;
  }

  std::string place(Role role, std::int64_t block) const override {
    const LoraUpdate* update = update_of(parameter_place(config_, role, block));
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
      for (const std::string& vector : {update.magnitude, update.bias}) {
        if (!vector.empty()) {
          hash.add(vector);
          file_.add_sample(vector, hash);
        }
      }
    }
    return hash.value();
  }

  std::vector<const MappedFile*> files() const override {
    std::vector<const MappedFile*> files = base_->files();
    files.push_back(&file_.file());
    return files;
  }

 private:
  // A weight of the model that has an update.
  struct Matrix {
    Role role;
    std::int64_t block;
    TensorPlace place;  // in the module's matrix
    TensorShape shape;
    const LoraUpdate& update;

    Range columns() const { return {0, shape.columns}; }
  };

  // Returns the update of a matrix, or of a bias that has one.
  const LoraUpdate* update_of(const TensorPlace& place) const {
    const std::string_view end = place.shape.is_vector() ? kBiasEnd : kWeightEnd;
    if (!place.name.ends_with(end)) {
      return nullptr;
    }
    const auto found = updates_.find(place.name.substr(0, place.name.size() - end.size()));
    if (found == updates_.end() || (place.shape.is_vector() && found->second.bias.empty())) {
      return nullptr;
    }
    return &found->second;
  }

  at::Tensor read_float(const std::string& name, const Slice& slice) const {
    return file_.read(name, slice).to(at::kFloat);
  }

  at::Tensor read_float(const std::string& name, const std::vector<Range>& rows,
                        Range columns) const {
    return file_.read(name, rows, columns).to(at::kFloat);
  }

  // Returns bias + scale * these rows of the bias of B.
  at::Tensor add_bias(const at::Tensor& bias, const LoraUpdate& update,
                      const std::vector<Range>& rows) const {
    const at::Tensor delta = read_float(update.bias, rows, {}).mul_(update.scale);
    return delta.to(at::promote_types(bias.scalar_type(), at::kFloat)).add_(bias);
  }

  // Returns W + scale * B A.
  at::Tensor read_sum(const Matrix& matrix, const Slice& slice) const {
    const at::Tensor weight = base_->read(matrix.role, matrix.block, slice);
    const at::Tensor delta = read_product(matrix, slice).mul_(matrix.update.scale);
    return delta.to(at::promote_types(weight.scalar_type(), at::kFloat)).add_(weight);
  }

  // Returns B A, or its transpose for an embedding's own update.
  at::Tensor read_product(const Matrix& matrix, const Slice& slice) const {
    const LoraUpdate& update = matrix.update;
    const Range ranks = {0, update.rank};
    if (update.transposed) {
      const at::Tensor a = read_float(update.a, {ranks, slice.rows});
      const at::Tensor b = read_float(update.b, {slice.columns, ranks});
      return at::mm(a.t(), b.t());
    }
    const at::Tensor a = read_float(update.a, {ranks, slice.columns});
    const at::Tensor b = read_float(update.b, matrix.place.rows_in_tensor(slice.rows), ranks);
    return at::mm(b, a);
  }

  // Returns m * V / |V| for rows of V = W + scale * B A that are as long as the module's matrix has
  // columns, and for an embedding's own update for columns of the whole vocabulary (DoRA, arXiv
  // 2402.09353, equation 5).
  at::Tensor rescale(at::Tensor sum, const Matrix& matrix, const Slice& slice) const {
    if (matrix.update.transposed) {
      const at::Tensor magnitude = read_float(matrix.update.magnitude, {slice.columns, {}});
      const at::Tensor norms = column_norms(matrix);
      return sum.mul_(magnitude / norms.slice(0, slice.columns.begin, slice.columns.end));
    }
    const at::Tensor magnitude =
        read_float(matrix.update.magnitude, matrix.place.rows_in_tensor(slice.rows), {});
    const at::Tensor norms = slice.columns == matrix.columns() ? at::linalg_vector_norm(sum, 2, {1})
                                                               : row_norms(matrix, slice.rows);
    return sum.mul_((magnitude / norms).unsqueeze(1));
  }

  // Returns the norms of whole rows, of which this rank holds only some columns.  It reads them
  // again instead of adding up the ranks' squares: no rank waits for another while it loads, and
  // the result does not depend on their number.
  at::Tensor row_norms(const Matrix& matrix, Range rows) const {
    std::vector<at::Tensor> norms;
    const std::int64_t step = rows_at_once(matrix.shape.columns);
    for (std::int64_t begin = rows.begin; begin < rows.end; begin += step) {
      const Range part = {begin, std::min(begin + step, rows.end)};
      norms.push_back(at::linalg_vector_norm(read_sum(matrix, {part, matrix.columns()}), 2, {1}));
    }
    return norms.empty() ? at::empty({0}) : at::cat(norms);
  }

  // Returns the norms of whole columns, [D].
  at::Tensor column_norms(const Matrix& matrix) const {
    at::Tensor squares = at::zeros({matrix.shape.columns}, at::kDouble);
    const std::int64_t step = rows_at_once(matrix.shape.columns);
    for (std::int64_t begin = 0; begin < matrix.shape.rows; begin += step) {
      const Range part = {begin, std::min(begin + step, matrix.shape.rows)};
      const at::Tensor sum = read_sum(matrix, {part, matrix.columns()}).to(at::kDouble);
      squares.add_(sum.square_().sum(0));
    }
    return squares.sqrt_().to(at::kFloat);
  }

  std::unique_ptr<WeightSource> base_;
  ModelConfig config_;
  SafetensorsFile file_;
  LoraUpdates updates_;
  std::vector<std::string> warnings_;
};

bool is_there(const std::filesystem::path& path) {
  std::error_code unreachable;
  return std::filesystem::exists(path, unreachable);
}

// Returns the folders of `directory` that hold an adapter: PEFT saves one that has a name there.
std::vector<std::string> adapters_in(const std::filesystem::path& directory) {
  std::vector<std::string> folders;
  std::error_code unreachable;
  for (const auto& entry : std::filesystem::directory_iterator(directory, unreachable)) {
    if (is_there(entry.path() / kConfigFile)) {
      folders.push_back(entry.path().string());
    }
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

void check_directory(const std::filesystem::path& directory) {
  std::error_code unreachable;
  if (!std::filesystem::is_directory(directory, unreachable)) {
    throw UserError(
        fmt::format("--adapter {}: no such directory; it takes a PEFT directory with {} and {}",
                    directory.string(), kConfigFile, kTensorFile));
  }
  if (!is_there(directory / kConfigFile)) {
    const std::vector<std::string> others = adapters_in(directory);
    throw UserError(fmt::format(
        "--adapter {}: has no {}; it takes a directory as PEFT's save_pretrained writes it{}",
        directory.string(), kConfigFile,
        others.empty() ? "" : fmt::format(", such as {}", fmt::join(others, ", "))));
  }
  if (is_there(directory / kTensorFile)) {
    return;
  }
  if (is_there(directory / kPickledFile)) {
    throw UserError(fmt::format(
        "--adapter {0}: has {1} only, which is a program as much as a file and is not read; "
        "convert it: python -c \"import torch; from safetensors.torch import save_file; t = "
        "torch.load('{0}/{1}', map_location='cpu', weights_only=True); save_file({{k: "
        "v.clone().contiguous() for k, v in t.items()}}, '{0}/{2}', metadata={{'format': 'pt'}})\"",
        directory.string(), kPickledFile, kTensorFile));
  }
  throw UserError(fmt::format(
      "--adapter {}: has no {}; adapters are read as PEFT saves them with safe_serialization",
      directory.string(), kTensorFile));
}

}  // namespace

std::unique_ptr<WeightSource> merge_lora(const std::filesystem::path& directory,
                                         std::unique_ptr<WeightSource> base,
                                         const ModelConfig& config,
                                         const std::filesystem::path& model) {
  check_directory(directory);
  return std::make_unique<AdaptedWeights>(directory, std::move(base), config, model);
}

}  // namespace bipo
