#include "experiments/formats/exported_vector.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "experiments/formats/binary_format.hpp"

namespace bipo {
namespace {

// Appends `filler` until `bytes` and `more` bytes after them end at a multiple of `alignment`.
void align(std::string& bytes, std::size_t alignment, char filler, std::size_t more = 0) {
  const std::size_t over = (bytes.size() + more) % alignment;
  bytes.append(over == 0 ? 0 : alignment - over, filler);
}

std::string_view bytes_of(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

std::vector<std::byte> as_bytes(std::string_view text) {
  const auto* begin = reinterpret_cast<const std::byte*>(text.data());
  return {begin, begin + text.size()};
}

// Writes a pickle of protocol 2, which torch.load(weights_only=True) reads.  libtorch's own
// pickle_save() wraps dictionaries into torch.jit._pickle.restore_type_tag, which weights_only
// refuses.
class PickleWriter {
 public:
  void mark() { bytes_ += '('; }
  void tuple_from_mark() { bytes_ += 't'; }
  void tuple_of_last() { bytes_ += '\x85'; }
  void empty_dictionary() { bytes_ += '}'; }
  void set_items_from_mark() { bytes_ += 'u'; }
  void none() { bytes_ += 'N'; }
  void no() { bytes_ += '\x89'; }

  void integer(std::int64_t value) {
    bytes_ += "\x8a\x08";
    append_number(bytes_, value);
  }
  void real(double value) {
    std::string encoded;
    append_number(encoded, value);
    std::reverse(encoded.begin(), encoded.end());
    bytes_ += 'G' + encoded;
  }
  void text(std::string_view value) {
    bytes_ += 'X';
    append_number(bytes_, static_cast<std::uint32_t>(value.size()));
    bytes_ += value;
  }
  void global(std::string_view module, std::string_view name) {
    bytes_ += fmt::format("c{}\n{}\n", module, name);
  }
  void call() { bytes_ += 'R'; }
  void storage_of_tuple() { bytes_ += 'Q'; }

  std::string finish() { return std::move(bytes_) + '.'; }

 private:
  std::string bytes_ = "\x80\x02";
};

// Writes a tensor [length] whose numbers are the archive's entry data/KEY.
void write_tensor(PickleWriter& pickle, std::size_t key, std::int64_t length) {
  pickle.global("torch._utils", "_rebuild_tensor_v2");
  pickle.mark();
  pickle.mark();
  pickle.text("storage");
  pickle.global("torch", "FloatStorage");
  pickle.text(fmt::format("{}", key));
  pickle.text("cpu");
  pickle.integer(length);
  pickle.tuple_from_mark();
  pickle.storage_of_tuple();
  pickle.integer(0);  // offset
  pickle.integer(length);
  pickle.tuple_of_last();
  pickle.integer(1);  // stride
  pickle.tuple_of_last();
  pickle.no();  // requires_grad
  pickle.global("collections", "OrderedDict");
  pickle.mark();
  pickle.tuple_from_mark();
  pickle.call();  // no hooks
  pickle.tuple_from_mark();
  pickle.call();
}

// CRC-32 of the zip format: polynomial 0x04c11db7, reflected.
std::uint32_t checksum(std::string_view data) {
  std::uint32_t remainder = 0xffffffff;
  for (const char character : data) {
    remainder ^= static_cast<std::uint8_t>(character);
    for (int bit = 0; bit < 8; ++bit) {
      remainder = (remainder >> 1) ^ ((remainder & 1) != 0 ? 0xedb88320 : 0);
    }
  }
  return ~remainder;
}

// Writes a zip archive of stored entries, each one's data at a multiple of 64 bytes, as torch
// aligns them for programs that map the file.
class ZipWriter {
 public:
  void add(std::string_view name, std::string_view data) {
    const std::size_t local = bytes_.size();
    std::string fields;
    fields.append(6, '\0');  // flags, stored, time
    // 1980-01-01, so that equal vectors make equal files
    append_number<std::uint16_t>(fields, 0x21);
    append_number(fields, checksum(data));
    append_number(fields, static_cast<std::uint32_t>(data.size()));
    append_number(fields, static_cast<std::uint32_t>(data.size()));
    append_number(fields, static_cast<std::uint16_t>(name.size()));

    bytes_ += "PK\x03\x04";
    append_number(bytes_, kVersion);
    bytes_ += fields;
    const std::size_t extra = padding(bytes_.size() + sizeof(std::uint16_t) + name.size());
    append_number(bytes_, static_cast<std::uint16_t>(extra));
    bytes_ += name;
    bytes_ += "FB";  // torch's identifier for padding
    append_number(bytes_, static_cast<std::uint16_t>(extra - kExtraHeader));
    bytes_.append(extra - kExtraHeader, 'Z');
    bytes_ += data;

    directory_ += "PK\x01\x02";
    append_number(directory_, kVersion);  // made by
    append_number(directory_, kVersion);  // needed
    directory_ += fields;
    directory_.append(12, '\0');  // extra, comment, disk, internal and external attributes
    append_number(directory_, static_cast<std::uint32_t>(local));
    directory_ += name;
    ++entries_;
  }

  std::string finish() {
    if (bytes_.size() + directory_.size() > std::numeric_limits<std::uint32_t>::max()) {
      throw BugError(fmt::format("a vector file of {} bytes", bytes_.size()));
    }
    const std::size_t directory = bytes_.size();
    bytes_ += directory_;
    bytes_ += "PK\x05\x06";
    append_number<std::uint32_t>(bytes_, 0);  // disks
    append_number(bytes_, entries_);
    append_number(bytes_, entries_);
    append_number(bytes_, static_cast<std::uint32_t>(directory_.size()));
    append_number(bytes_, static_cast<std::uint32_t>(directory));
    append_number<std::uint16_t>(bytes_, 0);  // comment
    return std::move(bytes_);
  }

 private:
  static constexpr std::uint16_t kVersion = 20;  // 2.0 of the zip format
  static constexpr std::size_t kExtraHeader = 4;

  // Returns the bytes of the extra field at `position` that makes it end at a multiple of 64.
  static std::size_t padding(std::size_t position) {
    constexpr std::size_t kAlignment = 64;
    const std::size_t end = (position + kExtraHeader + kAlignment - 1) / kAlignment * kAlignment;
    return end - position;
  }

  std::string bytes_;
  std::string directory_;
  std::uint16_t entries_ = 0;
};

// A vector as a file holds it.
struct Written {
  const StoredVector* stored = nullptr;
  double multiplier = 1;
  std::string positions;      // where training added it; empty: everywhere
  std::vector<float> values;  // times the multiplier, unless the file keeps that beside them
};

std::vector<std::byte> archive(const std::string& pickle, const std::vector<Written>& vectors) {
  ZipWriter zip;
  zip.add("archive/data.pkl", pickle);
  zip.add("archive/byteorder", "little");
  for (std::size_t i = 0; i < vectors.size(); ++i) {
    zip.add(fmt::format("archive/data/{}", i), bytes_of(vectors[i].values));
  }
  zip.add("archive/version", "3\n");
  return as_bytes(zip.finish());
}

// One float32 tensor [D] on the CPU, the form of the vectors that the authors of BiPO published, or
// {layer: tensor} for several.
std::vector<std::byte> torch_file(const std::vector<Written>& vectors) {
  PickleWriter pickle;
  if (vectors.size() == 1) {
    write_tensor(pickle, 0, static_cast<std::int64_t>(vectors[0].values.size()));
    return archive(pickle.finish(), vectors);
  }
  pickle.empty_dictionary();
  pickle.mark();
  for (std::size_t i = 0; i < vectors.size(); ++i) {
    pickle.integer(vectors[i].stored->layer);
    write_tensor(pickle, i, static_cast<std::int64_t>(vectors[i].values.size()));
  }
  pickle.set_items_from_mark();
  return archive(pickle.finish(), vectors);
}

// The file that `lm_eval --model steered` reads by steer_path (EleutherAI/lm-evaluation-harness,
// lm_eval/models/hf_steered.py): {"layers.L": {"steering_vector": tensor [D],
// "steering_coefficient": m, "action": "add", "bias": None, "head_index": None}, ...}.  It adds m
// times the vector to the output of that module of model.base_model at every position.
std::vector<std::byte> lm_eval_file(const std::vector<Written>& vectors) {
  PickleWriter pickle;
  pickle.empty_dictionary();
  pickle.mark();
  for (std::size_t i = 0; i < vectors.size(); ++i) {
    pickle.text(fmt::format("layers.{}", vectors[i].stored->layer));
    pickle.empty_dictionary();
    pickle.mark();
    pickle.text("steering_vector");
    write_tensor(pickle, i, static_cast<std::int64_t>(vectors[i].values.size()));
    pickle.text("steering_coefficient");
    pickle.real(vectors[i].multiplier);
    pickle.text("action");
    pickle.text("add");
    pickle.text("bias");
    pickle.none();
    pickle.text("head_index");
    pickle.none();
    pickle.set_items_from_mark();
  }
  pickle.set_items_from_mark();
  return archive(pickle.finish(), vectors);
}

// The file that IBM's vLLM-Hook reads by the vector_path of a steering configuration
// (mia/workers/steer_worker.py): {"dir": tensor [D]}.
std::vector<std::byte> vllm_hook_file(const std::vector<Written>& vectors) {
  PickleWriter pickle;
  pickle.empty_dictionary();
  pickle.mark();
  pickle.text("dir");
  write_tensor(pickle, 0, static_cast<std::int64_t>(vectors[0].values.size()));
  pickle.set_items_from_mark();
  return archive(pickle.finish(), vectors);
}

std::vector<float> scaled(const std::vector<float>& values, double multiplier) {
  std::vector<float> result;
  for (const float value : values) {
    result.push_back(static_cast<float>(multiplier * static_cast<double>(value)));
    if (!std::isfinite(result.back())) {
      throw UserError(
          fmt::format("multiplier {} times {} exceeds float32; give a smaller --multiplier",
                      multiplier, value));
    }
  }
  return result;
}

nlohmann::ordered_json origin_of(const Written& written) {
  const StoredVector& vector = *written.stored;
  return {
      {"layer", fmt::format("{}", vector.layer)},
      {"site",
       fmt::format(
           "added to the output of block {} (from 0) at {}: h + m * vector", vector.layer,
           written.positions.empty() ? "every position" : "the positions " + written.positions)},
      {"sign_convention",
       "m > 0 steers towards the chosen answers of the training pairs, m < 0 towards the rejected "
       "ones"},
      {"multiplier", fmt::format("{}", written.multiplier)},
      {"multiplier_meaning", "the tensor is the trained vector times this"},
      {"epoch", fmt::format("{}", vector.epoch + 1)},
      {"epoch_counted_from", "1"},
      {"step", fmt::format("{}", vector.step)},
      {"training_settings", vector.config}};
}

// A tensor "vector" with its origin as metadata; for several, tensors "layers.L", and the origin of
// each as the JSON text of the key "layers.L".
std::vector<std::byte> safetensors_file(const std::vector<Written>& vectors) {
  const auto dumped = [](const nlohmann::ordered_json& json) {
    // Paths need not be UTF-8, JSON must.
    return json.dump(-1, ' ', /*ensure_ascii=*/false,
                     nlohmann::ordered_json::error_handler_t::replace);
  };
  const bool is_single = vectors.size() == 1;
  nlohmann::ordered_json metadata = {
      {"format", "pt"},
      {"kind", is_single ? "steering vector" : "steering vectors of several layers"},
      {"model", vectors[0].stored->model}};
  nlohmann::ordered_json tensors;
  std::string numbers;
  for (const Written& written : vectors) {
    const std::string name = is_single ? "vector" : fmt::format("layers.{}", written.stored->layer);
    if (is_single) {
      metadata.update(origin_of(written));
    } else {
      metadata[name] = dumped(origin_of(written));
    }
    const std::size_t begin = numbers.size();
    numbers += bytes_of(written.values);
    tensors[name] = {{"dtype", "F32"},
                     {"shape", {written.values.size()}},
                     {"data_offsets", {begin, numbers.size()}}};
  }
  nlohmann::ordered_json header;
  header["__metadata__"] = std::move(metadata);
  header.update(tensors);
  std::string json = dumped(header);
  align(json, sizeof(std::uint64_t), ' ');
  std::string head;
  append_number(head, static_cast<std::uint64_t>(json.size()));
  return as_bytes(head + json + numbers);
}

// Writes the head of a GGUF file of version 3.
class GgufHead {
 public:
  static constexpr std::size_t kAlignment = 32;  // of the data and of every tensor in them

  void add_text(std::string_view key, std::string_view value) {
    append_text(key);
    append_number<std::uint32_t>(bytes_, 8);  // string
    append_text(value);
  }
  void add_count(std::string_view key, std::uint32_t value) {
    append_text(key);
    append_number<std::uint32_t>(bytes_, 4);  // uint32
    append_number(bytes_, value);
  }
  // Adds a 1-D float32 tensor at `offset` of the data.
  void add_vector(std::string_view name, std::uint64_t length, std::uint64_t offset) {
    append_text(name);
    append_number<std::uint32_t>(bytes_, 1);  // dimensions
    append_number(bytes_, length);
    append_number<std::uint32_t>(bytes_, 0);  // F32
    append_number(bytes_, offset);
  }
  std::string finish(std::uint64_t tensors, std::uint64_t keys) {
    std::string head = "GGUF";
    append_number<std::uint32_t>(head, 3);
    append_number(head, tensors);
    append_number(head, keys);
    head += bytes_;
    align(head, kAlignment, '\0');  // the data begin here, as no key says otherwise
    return head;
  }

 private:
  void append_text(std::string_view value) {
    append_number(bytes_, static_cast<std::uint64_t>(value.size()));
    bytes_ += value;
  }

  std::string bytes_;
};

// Returns the text in UTF-8, as the format requires it.
std::string in_utf8(const std::string& text) {
  const nlohmann::json quoted = text;
  return nlohmann::json::parse(
      quoted.dump(-1, ' ', /*ensure_ascii=*/false, nlohmann::json::error_handler_t::replace));
}

std::vector<std::byte> gguf_file(const std::vector<Written>& vectors,
                                 const std::string& model_hint) {
  if (vectors[0].stored->layer == 0) {
    std::vector<std::int64_t> others;
    for (std::size_t i = 1; i < vectors.size(); ++i) {
      others.push_back(vectors[i].stored->layer);
    }
    throw UserError(fmt::format(
        "a vector of layer 0 cannot be a GGUF control vector: llama.cpp keeps none for block 0 and "
        "refuses a file with direction.0; export it as safetensors, pt or {}",
        others.empty()
            ? "npy"
            : fmt::format("lm-eval, or leave it out, of a run of several layers by --layer {}",
                          fmt::join(others, ","))));
  }
  GgufHead head;
  head.add_text("general.architecture", "controlvector");
  head.add_text("controlvector.model_hint", in_utf8(model_hint));
  // directions in the file, as other programs count
  head.add_count("controlvector.layer_count", static_cast<std::uint32_t>(vectors.size()));
  std::string numbers;
  for (const Written& written : vectors) {
    align(numbers, GgufHead::kAlignment, '\0');
    head.add_vector(fmt::format("direction.{}", written.stored->layer), written.values.size(),
                    numbers.size());
    numbers += bytes_of(written.values);
  }
  return as_bytes(head.finish(/*tensors=*/vectors.size(), /*keys=*/3) + numbers);
}

std::vector<std::byte> npy_file(const std::vector<Written>& vectors) {
  const std::vector<float>& values = vectors[0].values;
  std::string head("\x93NUMPY\x01\x00", 8);  // version 1.0
  std::string description =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({},), }}", values.size());
  constexpr std::size_t kLengthBytes = sizeof(std::uint16_t);
  align(description, 64, ' ', head.size() + kLengthBytes + 1);
  description += '\n';
  append_number(head, static_cast<std::uint16_t>(description.size()));
  head += description;
  head += bytes_of(values);
  return as_bytes(head);
}

// Checks the vectors, and returns them in the order of their layers.
std::vector<Written> prepared(const std::vector<ExportedVector>& vectors,
                              const std::string& format) {
  const bool keeps_multiplier = format == "lm-eval";
  std::vector<Written> written;
  for (const ExportedVector& exported : vectors) {
    const StoredVector& stored = exported.vector;
    written.push_back(
        {&stored, exported.multiplier, exported.positions,
         keeps_multiplier ? stored.value : scaled(stored.value, exported.multiplier)});
  }
  std::stable_sort(written.begin(), written.end(), [](const Written& a, const Written& b) {
    return a.stored->layer < b.stored->layer;
  });
  for (std::size_t i = 1; i < written.size(); ++i) {
    const StoredVector& before = *written[i - 1].stored;
    const StoredVector& stored = *written[i].stored;
    if (stored.value.size() != before.value.size()) {
      throw UserError(fmt::format(
          "the vectors have {} numbers for layer {} and {} for layer {}; one file is for one model",
          before.value.size(), before.layer, stored.value.size(), stored.layer));
    }
    if (stored.layer == before.layer) {
      throw UserError(fmt::format(
          "two vectors are for layer {}; a file has one for a layer: give a program both files, or "
          "export other layers together",
          stored.layer));
    }
  }
  if (written.size() > 1 && (format == "npy" || format == "vllm-hook")) {
    throw UserError(fmt::format(
        "a file of the format {} has no room for the vectors of {} layers; export one of them, of "
        "a run of several layers by --layer {}, or all as gguf, safetensors, pt or lm-eval",
        format, written.size(), written.back().stored->layer));
  }
  return written;
}

}  // namespace

bool carries_positions(const std::string& format) {
  return format == "safetensors";
}

std::vector<std::byte> exported_vectors(const std::vector<ExportedVector>& vectors,
                                        const std::string& format, const std::string& model_hint) {
  if (vectors.empty()) {
    throw BugError("no vector to export");
  }
  const std::vector<Written> written = prepared(vectors, format);
  if (format == "lm-eval") {
    return lm_eval_file(written);
  }
  if (format == "pt") {
    return torch_file(written);
  }
  if (format == "safetensors") {
    return safetensors_file(written);
  }
  if (format == "gguf") {
    return gguf_file(written, model_hint);
  }
  if (format == "npy") {
    return npy_file(written);
  }
  if (format == "vllm-hook") {
    return vllm_hook_file(written);
  }
  throw BugError(fmt::format("no export format is called {}", format));
}

}  // namespace bipo
