#include "experiments/formats/exported_vector.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>

#include "collectives/foundation/errors.hpp"
#include "experiments/formats/little_endian.hpp"
#include "experiments/formats/torch_file_writer.hpp"

namespace bipo {
namespace {

// Fills up with `filler` until `bytes` and `more` bytes after them end at a multiple of
// `alignment`.
void align(std::string& bytes, std::size_t alignment, char filler, std::size_t more = 0) {
  const std::size_t over = (bytes.size() + more) % alignment;
  bytes.append(over == 0 ? 0 : alignment - over, filler);
}

std::vector<std::byte> with_numbers(const std::string& head, std::span<const float> values) {
  std::vector<std::byte> bytes(head.size() + values.size_bytes());
  std::memcpy(bytes.data(), head.data(), head.size());
  std::memcpy(bytes.data() + head.size(), values.data(), values.size_bytes());
  return bytes;
}

std::vector<float> scaled(const std::vector<float>& values, double multiplier) {
  std::vector<float> result;
  for (const float value : values) {
    result.push_back(static_cast<float>(multiplier * static_cast<double>(value)));
    if (!std::isfinite(result.back())) {
      throw UserError(fmt::format(
          "multiplier {} times {} is more than float32 can hold; give a smaller --multiplier",
          multiplier, value));
    }
  }
  return result;
}

std::vector<std::byte> safetensors_file(const StoredVector& vector, double multiplier,
                                        std::span<const float> values) {
  nlohmann::ordered_json header;
  header["__metadata__"] = {
      {"format", "pt"},
      {"kind", "steering vector"},
      {"model", vector.model},
      {"layer", fmt::format("{}", vector.layer)},
      {"site", fmt::format("added to the output of block {} (from 0) at every position: "
                           "h + m * vector",
                           vector.layer)},
      {"sign_convention",
       "m > 0 steers towards the chosen answers of the training pairs, m < 0 towards the rejected "
       "ones"},
      {"multiplier", fmt::format("{}", multiplier)},
      {"multiplier_meaning", "the tensor is the trained vector times this"},
      {"epoch", fmt::format("{}", vector.epoch)},
      {"step", fmt::format("{}", vector.step)},
      {"training_settings", vector.config}};
  header["vector"] = {
      {"dtype", "F32"}, {"shape", {values.size()}}, {"data_offsets", {0, values.size_bytes()}}};
  // Paths need not be UTF-8, JSON must.
  std::string json = header.dump(-1, ' ', /*ensure_ascii=*/false,
                                 nlohmann::ordered_json::error_handler_t::replace);
  align(json, sizeof(std::uint64_t), ' ');
  std::string head;
  append_number(head, static_cast<std::uint64_t>(json.size()));
  return with_numbers(head + json, values);
}

// A GGUF file of version 3.
class GgufHead {
 public:
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
  // A 1-D float32 tensor at the beginning of the data.
  void add_vector(std::string_view name, std::uint64_t length) {
    append_text(name);
    append_number<std::uint32_t>(bytes_, 1);  // dimensions
    append_number(bytes_, length);
    append_number<std::uint32_t>(bytes_, 0);  // F32
    append_number<std::uint64_t>(bytes_, 0);  // offset
  }
  std::string finish(std::uint64_t tensors, std::uint64_t keys) {
    std::string head = "GGUF";
    append_number<std::uint32_t>(head, 3);
    append_number(head, tensors);
    append_number(head, keys);
    head += bytes_;
    align(head, 32, '\0');  // where the data begin, unless a key says otherwise
    return head;
  }

 private:
  void append_text(std::string_view value) {
    append_number(bytes_, static_cast<std::uint64_t>(value.size()));
    bytes_ += value;
  }

  std::string bytes_;
};

// The directory's name, which is what tells models apart; in UTF-8, as the format wants it.
std::string model_hint(const StoredVector& vector) {
  const std::filesystem::path path = std::filesystem::path(vector.model).lexically_normal();
  const std::string name = (path.has_filename() ? path : path.parent_path()).filename().string();
  const nlohmann::json quoted = name;
  return nlohmann::json::parse(
      quoted.dump(-1, ' ', /*ensure_ascii=*/false, nlohmann::json::error_handler_t::replace));
}

std::vector<std::byte> gguf_file(const StoredVector& vector, std::span<const float> values) {
  if (vector.layer == 0) {
    throw UserError(
        "a vector of layer 0 cannot be a GGUF control vector: llama.cpp keeps none for block 0 and "
        "refuses a file with direction.0; export it as safetensors, pt or npy");
  }
  GgufHead head;
  head.add_text("general.architecture", "controlvector");
  head.add_text("controlvector.model_hint", model_hint(vector));
  head.add_count("controlvector.layer_count", 1);  // directions in the file, as others write it
  head.add_vector(fmt::format("direction.{}", vector.layer), values.size());
  return with_numbers(head.finish(/*tensors=*/1, /*keys=*/3), values);
}

std::vector<std::byte> npy_file(std::span<const float> values) {
  std::string head("\x93NUMPY\x01\x00", 8);  // version 1.0
  std::string description =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({},), }}", values.size());
  constexpr std::size_t kLengthBytes = sizeof(std::uint16_t);
  align(description, 64, ' ', head.size() + kLengthBytes + 1);
  description += '\n';
  append_number(head, static_cast<std::uint16_t>(description.size()));
  return with_numbers(head + description, values);
}

}  // namespace

std::vector<std::byte> exported_vector(const StoredVector& vector, double multiplier,
                                       const std::string& format) {
  if (format == "lm-eval") {
    return lm_eval_file(vector.value, vector.layer, multiplier);
  }
  const std::vector<float> values = scaled(vector.value, multiplier);
  if (format == "pt") {
    return torch_vector_file(values);
  }
  if (format == "safetensors") {
    return safetensors_file(vector, multiplier, values);
  }
  if (format == "gguf") {
    return gguf_file(vector, values);
  }
  if (format == "npy") {
    return npy_file(values);
  }
  throw BugError(fmt::format("no export format is called {}", format));
}

}  // namespace bipo
