#include "experiments/formats/vector_file.hpp"

#include <ATen/core/Tensor.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <span>
#include <string_view>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/data_text.hpp"
#include "experiments/formats/binary_format.hpp"
#include "experiments/formats/torch_file_reader.hpp"
#include "trainer/model/files/mapped_file.hpp"
#include "trainer/model/gguf/gguf_file.hpp"
#include "trainer/model/weights/safetensors.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kLargestHidden = std::int64_t{1} << 20;

bool begins_with(std::span<const std::byte> bytes, std::string_view beginning) {
  return bytes.size() >= beginning.size() &&
         std::memcmp(bytes.data(), beginning.data(), beginning.size()) == 0;
}

std::string format_of(const fs::path& path) {
  const MappedFile file(path);
  const std::span<const std::byte> bytes = file.bytes();
  constexpr std::size_t kLengthBytes = 8;
  if (begins_with(bytes, "GGUF")) {
    return "gguf";
  }
  if (bytes.size() > kLengthBytes && bytes[kLengthBytes] == std::byte{'{'}) {
    return "safetensors";
  }
  if (is_torch_file(bytes)) {
    return "pt";
  }
  if (begins_with(bytes, "\x89HDF\r\n\x1a\n")) {
    throw UserError(
        fmt::format("{}: is an HDF5 file already; give a run file by --vector without importing it",
                    path.string()));
  }
  throw UserError(fmt::format(
      "{}: is not a file of torch.save, a safetensors file or a GGUF file; give --format to choose "
      "one",
      path.string()));
}

// Returns the number from 0 that the whole text is; else nothing.
std::optional<std::int64_t> parse_layer(std::string_view text) {
  std::int64_t layer = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), layer);
  const bool is_number = error == std::errc() && stop == text.data() + text.size() && layer >= 0;
  return is_number ? std::optional(layer) : std::nullopt;
}

// Returns the D of a vector [D] or [1, D]; nothing for other shapes.
std::optional<std::int64_t> vector_length(const std::vector<std::int64_t>& shape) {
  const bool is_row = shape.size() == 2 && shape[0] == 1;
  if ((shape.size() != 1 && !is_row) || shape.back() < 1 || shape.back() > kLargestHidden) {
    return std::nullopt;
  }
  return shape.back();
}

[[noreturn]] void refuse_shape(const fs::path& path, const std::string& tensor,
                               const std::vector<std::int64_t>& shape) {
  throw UserError(
      fmt::format("{}: tensor {} has the shape [{}]; a steering vector is [D] or [1, D], with D "
                  "from 1 to {}",
                  path.string(), printable(tensor), fmt::join(shape, ", "), kLargestHidden));
}

VectorFile read_safetensors(const fs::path& path) {
  const SafetensorsFile file(path);
  if (file.entries().size() != 1) {
    throw UserError(
        fmt::format("{}: holds {} tensors; it must hold one steering vector and nothing else",
                    path.string(), file.entries().size()));
  }
  const auto& [name, entry] = *file.entries().begin();
  const auto length = vector_length(entry.shape);
  if (!length) {
    refuse_shape(path, name, entry.shape);
  }
  if (!at::isFloatingType(entry.type)) {
    throw UserError(fmt::format("{}: tensor {} does not hold floating-point numbers", path.string(),
                                printable(name)));
  }
  const Range all{0, *length};
  const Slice slice = entry.shape.size() == 1 ? Slice{all, {}} : Slice{{0, 1}, all};
  const at::Tensor values = file.read(name, slice).to(at::kFloat).contiguous();
  VectorFile vector;
  vector.value.assign(values.const_data_ptr<float>(), values.const_data_ptr<float>() + *length);
  vector.tensor = name;
  vector.metadata = file.metadata();
  const auto layer = vector.metadata.find("layer");
  if (layer != vector.metadata.end()) {
    vector.layer = parse_layer(layer->second);
  }
  const auto model = vector.metadata.find("model");
  vector.model = model == vector.metadata.end() ? "" : model->second;
  return vector;
}

using Directions = std::map<std::int64_t, const GgufTensor*>;  // by layer

Directions find_directions(const GgufFile& file) {
  constexpr std::string_view kPrefix = "direction.";
  const GgufValue* architecture = file.find_value("general.architecture");
  if (architecture == nullptr || architecture->text() != "controlvector") {
    throw UserError(
        fmt::format("{}: is not a control vector: its general.architecture is not controlvector",
                    file.path().string()));
  }
  Directions directions;
  for (const auto& [name, tensor] : file.tensors()) {
    const auto layer = name.starts_with(kPrefix)
                           ? parse_layer(std::string_view(name).substr(kPrefix.size()))
                           : std::nullopt;
    if (!layer || !directions.emplace(*layer, &tensor).second) {
      throw UserError(
          fmt::format("{}: tensor {} is not a direction.L of a control vector, or repeats a layer",
                      file.path().string(), printable(name)));
    }
  }
  if (directions.empty()) {
    throw UserError(fmt::format("{}: holds no direction.L", file.path().string()));
  }
  return directions;
}

std::string layer_list(const Directions& directions) {
  std::vector<std::int64_t> layers;
  for (const auto& [layer, tensor] : directions) {
    layers.push_back(layer);
  }
  return fmt::format("{}", fmt::join(layers, ", "));
}

VectorFile read_gguf(const fs::path& path, std::optional<std::int64_t> layer) {
  const GgufFile file(path);
  const Directions directions = find_directions(file);
  if (!layer && directions.size() > 1) {
    throw UserError(fmt::format("{}: holds the directions of layers {}; choose one by --layer",
                                path.string(), layer_list(directions)));
  }
  const auto chosen = layer ? directions.find(*layer) : directions.begin();
  if (chosen == directions.end()) {
    throw UserError(fmt::format("{}: holds no direction of layer {}, but of {}", path.string(),
                                *layer, layer_list(directions)));
  }
  VectorFile vector;
  vector.tensor = fmt::format("direction.{}", chosen->first);
  const GgufTensor& tensor = *chosen->second;
  const auto length = vector_length(tensor.shape);
  if (!length) {
    refuse_shape(path, vector.tensor, tensor.shape);
  }
  if (tensor.format.elements != 1) {
    throw UserError(fmt::format("{}: tensor {} is quantized to {}; F32, F16, BF16 and F64 are read",
                                path.string(), vector.tensor, tensor.format.name));
  }
  vector.value.resize(static_cast<std::size_t>(*length));
  dequantize(tensor.format, tensor.data.data(), {0, *length}, vector.value.data());
  vector.layer = chosen->first;
  const GgufValue* hint = file.find_value("controlvector.model_hint");
  vector.model = hint == nullptr ? "" : std::string(hint->text().value_or(""));
  return vector;
}

VectorFile read_torch(const fs::path& path) {
  const MappedFile file(path);
  VectorFile vector;
  vector.value = read_torch_vector(file.bytes(), path.string());
  const auto length = static_cast<std::int64_t>(vector.value.size());
  if (length > kLargestHidden) {
    refuse_shape(path, "", {length});
  }
  return vector;
}

VectorFile read_as(const fs::path& path, const std::string& format,
                   std::optional<std::int64_t> layer) {
  if (format == "pt") {
    return read_torch(path);
  }
  if (format == "safetensors") {
    return read_safetensors(path);
  }
  if (format == "gguf") {
    return read_gguf(path, layer);
  }
  throw BugError(fmt::format("no import format is called {}", format));
}

}  // namespace

VectorFile read_vector_file(const fs::path& path, const std::string& format,
                            std::optional<std::int64_t> layer) {
  const std::string chosen = format == "auto" ? format_of(path) : format;
  VectorFile vector = read_as(path, chosen, layer);
  vector.format = chosen;
  require_text(vector.model, fmt::format("{}: the model's name in it", path.string()));
  if (layer && vector.layer && *layer != *vector.layer) {
    throw UserError(
        fmt::format("{}: its vector is of layer {}, --layer {} is given; omit --layer, or give the "
                    "right file",
                    path.string(), *vector.layer, *layer));
  }
  const auto bad = std::find_if(vector.value.begin(), vector.value.end(),
                                [](float value) { return !std::isfinite(value); });
  if (bad != vector.value.end()) {
    throw UserError(
        fmt::format("{}: number {} of its vector is {} as float32; every one must be finite",
                    path.string(), bad - vector.value.begin(), *bad));
  }
  return vector;
}

}  // namespace bipo
