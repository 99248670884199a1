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
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/data_text.hpp"
#include "experiments/formats/binary_format.hpp"
#include "experiments/formats/named_tensor.hpp"
#include "experiments/formats/npy_reader.hpp"
#include "experiments/formats/torch_file_reader.hpp"
#include "trainer/model/files/mapped_file.hpp"
#include "trainer/model/gguf/gguf_file.hpp"
#include "trainer/model/weights/safetensors.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kLargestHidden = std::int64_t{1} << 20;
constexpr std::size_t kMostNumbers = std::size_t{1} << 26;

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
  if (is_npy(bytes)) {
    return "npy";
  }
  if (begins_with(bytes, "\x89HDF\r\n\x1a\n")) {
    throw UserError(
        fmt::format("{}: is an HDF5 file already; give a run file by --vector without importing it",
                    path.string()));
  }
  throw UserError(fmt::format(
      "{}: is not a file of torch.save or numpy.save, a safetensors file or a GGUF file; give "
      "--format to choose one",
      path.string()));
}

// Returns the number from 0 that the whole text is; else nothing.
std::optional<std::int64_t> parse_layer(std::string_view text) {
  std::int64_t layer = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), layer);
  const bool is_number = error == std::errc() && stop == text.data() + text.size() && layer >= 0;
  return is_number ? std::optional(layer) : std::nullopt;
}

[[noreturn]] void refuse_shape(const fs::path& path, const std::string& tensor,
                               const std::vector<std::int64_t>& shape) {
  throw UserError(fmt::format(
      "{}: tensor {} has the shape [{}]; a steering vector is [D] or [1, D], a table of them "
      "[R, D], with D from 1 to {}",
      path.string(), printable(tensor), fmt::join(shape, ", "), kLargestHidden));
}

// What a file holds, before anything is chosen.
struct Contents {
  std::vector<NamedTensor> tensors;
  std::string model;
  std::map<std::string, std::string> metadata;
  std::vector<std::string> notes;
};

// Reads the texts in quotes of a Python list: "['model.layers[13].mlp', 'model.layers[14].mlp']".
std::vector<std::string> quoted_texts(std::string_view list) {
  std::vector<std::string> texts;
  std::size_t begin = list.find_first_of("'\"");
  while (begin != std::string_view::npos) {
    const std::size_t end = list.find(list[begin], begin + 1);
    if (end == std::string_view::npos) {
      break;
    }
    texts.emplace_back(list.substr(begin + 1, end - begin - 1));
    begin = list.find_first_of("'\"", end + 1);
  }
  return texts;
}

void set_layer(NamedTensor& tensor, const std::optional<LayerName>& name) {
  if (name) {
    tensor.layer = name->layer;
    tensor.part = name->part;
  }
}

NamedTensor read_safetensor(const SafetensorsFile& file, const std::string& name) {
  const SafetensorsFile::Entry& entry = file.entries().at(name);
  const std::vector<std::int64_t>& shape = entry.shape;
  if (shape.empty() || shape.size() > 2 || shape.front() < 1 || shape.back() < 1 ||
      shape.back() > kLargestHidden) {
    refuse_shape(file.path(), name, shape);
  }
  if (!at::isFloatingType(entry.type)) {
    throw UserError(fmt::format("{}: tensor {} does not hold floating-point numbers",
                                file.path().string(), printable(name)));
  }
  NamedTensor tensor;
  tensor.name = name;
  tensor.rows = shape.size() == 1 ? 1 : shape[0];
  const Slice slice =
      shape.size() == 1 ? Slice{{0, shape[0]}, {}} : Slice{{0, shape[0]}, {0, shape[1]}};
  const at::Tensor values = file.read(name, slice).to(at::kFloat).contiguous();
  tensor.values.assign(values.const_data_ptr<float>(),
                       values.const_data_ptr<float>() + values.numel());
  return tensor;
}

// Returns what a lone tensor's name says, where that is a part of a block: a number alone may count
// anything.
std::optional<LayerName> part_in_name(const NamedTensor& tensor) {
  const auto name = read_layer_name(tensor.name);
  return name && !name->part.empty() ? name : std::nullopt;
}

// Names the block of each tensor: by psyctl's list for layer_0, layer_1, ..., by the metadata for a
// single one, else by its own name.
void name_layers(const fs::path& path, Contents& contents) {
  const auto metadata = [&](const char* key) {
    const auto found = contents.metadata.find(key);
    return found == contents.metadata.end() ? std::string_view() : std::string_view(found->second);
  };
  const std::vector<std::string> listed = quoted_texts(metadata("layer_names"));
  for (NamedTensor& tensor : contents.tensors) {
    constexpr std::string_view kNumbered = "layer_";
    const auto place = tensor.name.starts_with(kNumbered)
                           ? parse_layer(std::string_view(tensor.name).substr(kNumbered.size()))
                           : std::nullopt;
    const bool is_single = contents.tensors.size() == 1;
    if (!listed.empty() && (place || is_single)) {
      const std::size_t index = place ? static_cast<std::size_t>(*place) : 0;
      if (index >= listed.size()) {
        throw UserError(fmt::format("{}: its layer_names list {} layers, but it has a tensor {}",
                                    path.string(), listed.size(), printable(tensor.name)));
      }
      const auto name = read_layer_name(listed[index]);
      if (!name) {
        throw UserError(fmt::format(
            "{}: its layer_names say {} for the tensor {}, which is neither the output of a block "
            "nor of its MLP; a vector for another place steers something else",
            path.string(), printable(listed[index]), printable(tensor.name)));
      }
      set_layer(tensor, name);
    } else if (is_single) {
      const auto named = read_layer_name(metadata("layer"));
      set_layer(tensor, named ? named : part_in_name(tensor));
    } else {
      set_layer(tensor, read_layer_name(tensor.name));
    }
  }
}

Contents read_safetensors(const fs::path& path) {
  const SafetensorsFile file(path);
  Contents contents;
  contents.metadata = file.metadata();
  std::size_t numbers = 0;
  for (const auto& [name, entry] : file.entries()) {
    contents.tensors.push_back(read_safetensor(file, name));
    numbers += contents.tensors.back().values.size();
    if (numbers > kMostNumbers) {
      throw UserError(fmt::format("{}: holds more than {} numbers; it is no file of vectors",
                                  path.string(), kMostNumbers));
    }
  }
  name_layers(path, contents);
  const bool are_named =
      std::all_of(contents.tensors.begin(), contents.tensors.end(),
                  [](const NamedTensor& tensor) { return tensor.layer.has_value(); });
  if (contents.tensors.empty() || (contents.tensors.size() > 1 && !are_named)) {
    throw UserError(fmt::format(
        "{}: holds {} tensors; it must hold one steering vector and nothing else, or one for each "
        "of several layers, named after them (layers.15)",
        path.string(), contents.tensors.size()));
  }
  const auto model = contents.metadata.find("model");
  contents.model = model == contents.metadata.end() ? "" : model->second;
  return contents;
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

NamedTensor read_direction(const fs::path& path, std::int64_t layer, const GgufTensor& stored) {
  NamedTensor tensor;
  tensor.name = fmt::format("direction.{}", layer);
  tensor.layer = layer;
  const bool is_row = stored.shape.size() == 2 && stored.shape[0] == 1;
  if ((stored.shape.size() != 1 && !is_row) || stored.shape.back() < 1 ||
      stored.shape.back() > kLargestHidden) {
    refuse_shape(path, tensor.name, stored.shape);
  }
  if (stored.format.elements != 1) {
    throw UserError(fmt::format("{}: tensor {} is quantized to {}; F32, F16, BF16 and F64 are read",
                                path.string(), tensor.name, stored.format.name));
  }
  const std::int64_t length = stored.shape.back();
  tensor.values.resize(static_cast<std::size_t>(length));
  dequantize(stored.format, stored.data.data(), {0, length}, tensor.values.data());
  return tensor;
}

Contents read_gguf(const fs::path& path, const WantedVectors& choice) {
  const GgufFile file(path);
  Contents contents;
  for (const auto& [layer, tensor] : find_directions(file)) {
    contents.tensors.push_back(read_direction(path, layer, *tensor));
  }
  const GgufValue* hint = file.find_value("controlvector.model_hint");
  contents.model = hint == nullptr ? "" : std::string(hint->text().value_or(""));
  // repeng stores a uint32 here, llama-cvector-generator an int32.
  const GgufValue* count = file.find_value("controlvector.layer_count");
  if (count != nullptr && count->type() == GgufType::kInt32 && choice.shift == 0) {
    contents.notes.push_back(fmt::format(
        "{}: looks like a file of llama-cvector-generator, whose direction.N was measured at the "
        "output of block N - 1, while llama.cpp adds it to that of block N; it is imported for "
        "block N; --shift -1 takes it for the block where it was measured",
        path.string()));
  }
  return contents;
}

Contents read_torch(const fs::path& path) {
  const MappedFile file(path);
  return {read_torch_tensors(file.bytes(), path.string()), {}, {}, {}};
}

Contents read_numpy(const fs::path& path) {
  const MappedFile file(path);
  return {{read_npy(file.bytes(), path.string())}, {}, {}, {}};
}

Contents read_as(const fs::path& path, const std::string& format, const WantedVectors& choice) {
  if (format == "pt") {
    return read_torch(path);
  }
  if (format == "npy") {
    return read_numpy(path);
  }
  if (format == "safetensors") {
    return read_safetensors(path);
  }
  if (format == "gguf") {
    return read_gguf(path, choice);
  }
  throw BugError(fmt::format("no import format is called {}", format));
}

// A vector of a file, and the block that file and user name for it.
struct Candidate {
  LayerVector vector;
  std::optional<std::int64_t> layer;
  std::string part;
};

std::vector<Candidate> rows_of(const fs::path& path, const NamedTensor& table,
                               const WantedVectors& choice) {
  const std::int64_t columns = static_cast<std::int64_t>(table.values.size()) / table.rows;
  const std::string name = table.name.empty() ? "" : fmt::format(" {}", printable(table.name));
  if (choice.rows == RowRule::kRefused) {
    throw UserError(fmt::format(
        "{}: holds a table{} of {} rows of {} numbers, and does not say which blocks they are for; "
        "give --layer-of-row r where row r is for block r, or --layer-of-row r-1 where row 0 is "
        "the embedding's and row r for block r - 1 (as in persona_vectors)",
        path.string(), name, table.rows, columns));
  }
  if (table.layer) {
    throw UserError(fmt::format("{}: holds a table{} for layer {} alone; one vector is needed",
                                path.string(), name, *table.layer));
  }
  const std::int64_t first = choice.rows == RowRule::kPrevious ? 1 : 0;
  std::vector<Candidate> rows;
  for (std::int64_t row = first; row < table.rows; ++row) {
    const auto begin = table.values.begin() + row * columns;
    Candidate candidate;
    candidate.vector.value.assign(begin, begin + columns);
    candidate.vector.tensor = fmt::format("row {}", row);
    candidate.vector.coefficient = table.coefficient;
    candidate.layer = row - first;
    rows.push_back(std::move(candidate));
  }
  return rows;
}

std::vector<Candidate> candidates_of(const fs::path& path, Contents& contents,
                                     const WantedVectors& choice) {
  std::vector<Candidate> candidates;
  for (NamedTensor& tensor : contents.tensors) {
    const std::int64_t columns = static_cast<std::int64_t>(tensor.values.size()) / tensor.rows;
    if (columns > kLargestHidden) {
      refuse_shape(path, tensor.name, {tensor.rows, columns});
    }
    if (tensor.rows > 1) {
      for (Candidate& row : rows_of(path, tensor, choice)) {
        candidates.push_back(std::move(row));
      }
      continue;
    }
    if (choice.rows != RowRule::kRefused) {
      throw UserError(
          fmt::format("{}: holds no table of vectors; omit --layer-of-row", path.string()));
    }
    Candidate candidate;
    candidate.vector.value = std::move(tensor.values);
    candidate.vector.tensor = tensor.name;
    candidate.vector.coefficient = tensor.coefficient;
    candidate.layer = tensor.layer;
    candidate.part = tensor.part;
    candidates.push_back(std::move(candidate));
  }
  for (Candidate& candidate : candidates) {
    if (candidate.layer) {
      *candidate.layer += choice.shift;
    } else if (choice.shift != 0) {
      throw UserError(
          fmt::format("{}: does not say which layer its vector is for; omit --shift, "
                      "and name the layer by --layer",
                      path.string()));
    }
  }
  return candidates;
}

std::string layer_list(const std::vector<Candidate>& candidates) {
  std::vector<std::int64_t> layers;
  for (const Candidate& candidate : candidates) {
    layers.push_back(*candidate.layer);
  }
  return fmt::format("{}", fmt::join(layers, ", "));
}

// Sorts the candidates by layer, and checks that each has one of its own.
void sort_by_layer(const fs::path& path, std::vector<Candidate>& candidates) {
  std::sort(candidates.begin(), candidates.end(),
            [](const Candidate& a, const Candidate& b) { return *a.layer < *b.layer; });
  const auto twice = std::adjacent_find(
      candidates.begin(), candidates.end(),
      [](const Candidate& a, const Candidate& b) { return *a.layer == *b.layer; });
  if (twice != candidates.end()) {
    throw UserError(
        fmt::format("{}: holds two vectors for layer {}", path.string(), *twice->layer));
  }
  if (*candidates.front().layer < 0) {
    throw UserError(fmt::format("{}: --shift makes {} of the layer of its {}; layers begin at 0",
                                path.string(), *candidates.front().layer,
                                printable(candidates.front().vector.tensor)));
  }
}

// Returns the candidates that `choice` means.
std::vector<Candidate> choose(const fs::path& path, std::vector<Candidate> candidates,
                              const WantedVectors& choice) {
  if (candidates.size() == 1 && !candidates[0].layer) {
    if (!choice.layer) {
      throw UserError(
          fmt::format("{}: does not say which layer its vector is for; name the block, from 0, by "
                      "--layer",
                      path.string()));
    }
    candidates[0].layer = choice.layer;
  }
  sort_by_layer(path, candidates);
  if (!choice.layer) {
    return candidates;
  }
  const auto found =
      std::find_if(candidates.begin(), candidates.end(),
                   [&](const Candidate& candidate) { return *candidate.layer == *choice.layer; });
  if (found == candidates.end() && candidates.size() == 1) {
    throw UserError(
        fmt::format("{}: its vector is of layer {}, --layer {} is given; omit --layer, or give the "
                    "right file",
                    path.string(), *candidates[0].layer, *choice.layer));
  }
  if (found == candidates.end()) {
    throw UserError(fmt::format("{}: holds no vector of layer {}, but of {}", path.string(),
                                *choice.layer, layer_list(candidates)));
  }
  std::vector<Candidate> chosen;
  chosen.push_back(std::move(*found));
  return chosen;
}

// Whether a name that read_layer_name() does not take speaks of attention or an MLP.
bool may_name_a_part(std::string_view name) {
  return name.find("attn") != std::string_view::npos ||
         name.find("attention") != std::string_view::npos ||
         name.find("mlp") != std::string_view::npos;
}

void require_finite(const fs::path& path, const LayerVector& vector, bool is_single) {
  const auto bad = std::find_if(vector.value.begin(), vector.value.end(),
                                [](float value) { return !std::isfinite(value); });
  if (bad != vector.value.end()) {
    throw UserError(
        fmt::format("{}: number {} of its vector{} is {} as float32; every one must be finite",
                    path.string(), bad - vector.value.begin(),
                    is_single ? "" : fmt::format(" of layer {}", vector.layer), *bad));
  }
}

}  // namespace

VectorFile read_vector_file(const fs::path& path, const std::string& format,
                            const WantedVectors& choice) {
  VectorFile file;
  file.format = format == "auto" ? format_of(path) : format;
  Contents contents = read_as(path, file.format, choice);
  file.model = contents.model;
  require_text(file.model, fmt::format("{}: the model's name in it", path.string()));
  file.metadata = std::move(contents.metadata);
  file.notes = std::move(contents.notes);
  std::vector<Candidate> chosen = choose(path, candidates_of(path, contents, choice), choice);
  for (Candidate& candidate : chosen) {
    if (!candidate.part.empty()) {
      candidate.vector.site = Site::kMlp;
      file.notes.push_back(fmt::format(
          "{}: the vector of layer {} was made for the output of {} in that block, as --site mlp "
          "makes them; it is added there",
          path.string(), *candidate.layer, candidate.part));
    } else if (may_name_a_part(candidate.vector.tensor)) {
      file.notes.push_back(fmt::format(
          "{}: its {} may have been made for a part of a block; it is added to the output of block "
          "{}",
          path.string(), printable(candidate.vector.tensor), *candidate.layer));
    }
    candidate.vector.layer = *candidate.layer;
    require_finite(path, candidate.vector, chosen.size() == 1);
    file.vectors.push_back(std::move(candidate.vector));
  }
  return file;
}

}  // namespace bipo
