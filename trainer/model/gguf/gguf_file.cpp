#include "trainer/model/gguf/gguf_file.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/gguf/gguf_parts.hpp"

namespace bipo {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr std::uint32_t kOldestVersion = 2;
constexpr std::uint32_t kNewestVersion = 3;
constexpr std::uint64_t kDefaultAlignment = 32;
constexpr std::uint32_t kMostDimensions = 4;
constexpr std::uint64_t kLongestKey = 65535;
constexpr std::uint64_t kLongestTensorName = 64;

// Reads the header in order; checks every step against the file's end.
class HeaderReader {
 public:
  HeaderReader(std::span<const std::byte> bytes, const std::string& file)
      : bytes_(bytes), file_(file) {}

  std::uint64_t position() const { return position_; }
  std::uint64_t remaining() const { return bytes_.size() - position_; }

  [[noreturn]] void refuse(const std::string& what) const {
    throw UserError(fmt::format("{}: {}", file_, what));
  }

  std::span<const std::byte> take(std::uint64_t count, const std::string& what) {
    if (count > remaining()) {
      refuse(fmt::format(
          "{} at byte {} needs {} bytes, but the file ends after {}: it is damaged or was cut "
          "short, get it again",
          what, position_, count, remaining()));
    }
    const auto taken = bytes_.subspan(position_, count);
    position_ += count;
    return taken;
  }

  template <typename T>
  T number(const std::string& what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }

  // Reads a name, which must be printable, since messages contain it.
  std::string name(const std::string& what, std::uint64_t longest) {
    const auto length = number<std::uint64_t>(what);
    if (length == 0 || length > longest) {
      refuse(fmt::format("{} at byte {} has {} bytes, must have 1 to {}: the file is damaged", what,
                         position_, length, longest));
    }
    const auto taken = take(length, what);
    const std::string text(reinterpret_cast<const char*>(taken.data()), taken.size());
    if (!std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c <= '~'; })) {
      refuse(fmt::format("{} that ends at byte {} is not printable ASCII: the file is damaged",
                         what, position_));
    }
    return text;
  }

  void skip_string(const std::string& what) {
    const auto length = number<std::uint64_t>(what);
    take(length, what);
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& file_;
  std::uint64_t position_ = 0;
};

void check_magic_and_version(HeaderReader& reader) {
  const auto magic = reader.take(kMagic.size(), "the magic number");
  if (std::memcmp(magic.data(), kMagic.data(), kMagic.size()) != 0) {
    reader.refuse("is not a GGUF file: it does not begin with \"GGUF\"");
  }
  const auto version = reader.number<std::uint32_t>("the version");
  const std::uint32_t swapped = __builtin_bswap32(version);
  if (version > kNewestVersion && swapped >= 1 && swapped <= kNewestVersion) {
    reader.refuse(
        "is a big-endian GGUF file; only little-endian ones are supported, convert it with "
        "gguf-py's gguf_convert_endian.py");
  }
  if (version < kOldestVersion || version > kNewestVersion) {
    reader.refuse(fmt::format(
        "is of GGUF version {}; versions {} and {} are supported{}", version, kOldestVersion,
        kNewestVersion,
        version == 1 ? "; get a newer file of the model, or convert it from its directory again"
                     : ""));
  }
}

void check_truth_values(const HeaderReader& reader, std::span<const std::byte> values,
                        const std::string& what) {
  if (std::any_of(values.begin(), values.end(), [](std::byte b) { return b > std::byte{1}; })) {
    reader.refuse(fmt::format("{} is neither true nor false: the file is damaged", what));
  }
}

// Skips `count` elements.
void skip_elements(HeaderReader& reader, GgufType type, std::uint64_t count,
                   const std::string& what) {
  if (type == GgufType::kString) {
    for (std::uint64_t i = 0; i < count; ++i) {
      reader.skip_string(what);
    }
    return;
  }
  const std::uint64_t width = scalar_bytes(type);
  if (width == 0) {
    reader.refuse(fmt::format("{} has type {}, which is {}", what, static_cast<std::uint32_t>(type),
                              type == GgufType::kArray ? "an array of arrays and not supported"
                                                       : "unknown: the file is damaged"));
  }
  if (count > reader.remaining() / width) {
    reader.refuse(
        fmt::format("{} claims {} elements of {} bytes, but the file has {} bytes left: it is "
                    "damaged or was cut short, get it again",
                    what, count, width, reader.remaining()));
  }
  const auto values = reader.take(count * width, what);
  if (type == GgufType::kBool) {
    check_truth_values(reader, values, what);
  }
}

GgufValue parse_value(HeaderReader& reader, std::span<const std::byte> bytes,
                      const std::string& key) {
  const std::string what = fmt::format("metadata {}", key);
  auto type = static_cast<GgufType>(reader.number<std::uint32_t>(what));
  const bool is_array = type == GgufType::kArray;
  std::uint64_t count = 1;
  if (is_array) {
    type = static_cast<GgufType>(reader.number<std::uint32_t>(what));
    count = reader.number<std::uint64_t>(what);
  }
  const std::uint64_t begin = reader.position();
  skip_elements(reader, type, count, what);
  return {type, is_array, count, bytes.subspan(begin, reader.position() - begin)};
}

// A tensor as the header describes it.
struct TensorInfo {
  std::string name;
  BlockFormat format;
  std::vector<std::int64_t> shape;
  std::uint64_t offset = 0;  // bytes, from the start of the data
  std::uint64_t bytes = 0;
};

std::vector<std::int64_t> parse_shape(HeaderReader& reader, const std::string& what) {
  const auto dimensions = reader.number<std::uint32_t>(what);
  if (dimensions == 0 || dimensions > kMostDimensions) {
    reader.refuse(fmt::format("{} has {} dimensions, must have 1 to {}: the file is damaged", what,
                              dimensions, kMostDimensions));
  }
  std::vector<std::int64_t> shape;
  for (std::uint32_t i = 0; i < dimensions; ++i) {
    const auto extent = reader.number<std::uint64_t>(what);
    if (extent == 0 || extent > std::numeric_limits<std::int64_t>::max()) {
      reader.refuse(fmt::format("{} has an extent of {}: the file is damaged", what, extent));
    }
    shape.push_back(static_cast<std::int64_t>(extent));
  }
  std::reverse(shape.begin(), shape.end());
  return shape;
}

std::uint64_t bytes_of(const HeaderReader& reader, const BlockFormat& format,
                       const std::vector<std::int64_t>& shape, const std::string& what) {
  if (shape.back() % format.elements != 0) {
    reader.refuse(fmt::format("{} of type {} has rows of {}, not a multiple of its blocks of {}",
                              what, format.name, shape.back(), format.elements));
  }
  std::int64_t bytes = format.bytes;
  bool overflows = __builtin_mul_overflow(bytes, shape.back() / format.elements, &bytes);
  for (std::size_t i = 0; i + 1 < shape.size(); ++i) {
    overflows = overflows || __builtin_mul_overflow(bytes, shape[i], &bytes);
  }
  if (overflows) {
    reader.refuse(fmt::format("{} with shape [{}] is too large for any file: the file is damaged",
                              what, fmt::join(shape, ", ")));
  }
  return static_cast<std::uint64_t>(bytes);
}

TensorInfo parse_tensor_info(HeaderReader& reader) {
  TensorInfo info;
  info.name = reader.name("a tensor's name", kLongestTensorName);
  const std::string what = fmt::format("tensor {}", info.name);
  info.shape = parse_shape(reader, what);
  const auto type = reader.number<std::uint32_t>(what);
  const BlockFormat* format = find_block_format(type);
  if (format == nullptr) {
    reader.refuse(fmt::format("{} is of type {}, which is not supported; supported: {}", what,
                              ggml_type_name(type), decodable_type_names()));
  }
  info.format = *format;
  info.bytes = bytes_of(reader, info.format, info.shape, what);
  info.offset = reader.number<std::uint64_t>(what);
  return info;
}

std::uint64_t alignment_of(const HeaderReader& reader, const GgufContents& contents) {
  const auto found = contents.metadata.find("general.alignment");
  if (found == contents.metadata.end()) {
    return kDefaultAlignment;
  }
  const std::int64_t alignment = found->second.integer().value_or(0);
  if (alignment < 1 || alignment > std::numeric_limits<std::uint32_t>::max() ||
      !std::has_single_bit(static_cast<std::uint64_t>(alignment))) {
    reader.refuse("general.alignment is not a power of two of 32 bits: the file is damaged");
  }
  return static_cast<std::uint64_t>(alignment);
}

void check_place(const HeaderReader& reader, const TensorInfo& info, std::uint64_t alignment,
                 std::uint64_t data_size) {
  if (info.offset % alignment != 0) {
    reader.refuse(fmt::format("tensor {} begins at byte {} of the data, not a multiple of {}",
                              info.name, info.offset, alignment));
  }
  if (info.offset > data_size || info.bytes > data_size - info.offset) {
    reader.refuse(fmt::format(
        "tensor {} takes {} bytes from byte {} of the data, but the file has {}: it is damaged or "
        "was cut short, get it again",
        info.name, info.bytes, info.offset, data_size));
  }
}

void check_overlaps(const HeaderReader& reader, std::vector<TensorInfo> tensors) {
  std::sort(tensors.begin(), tensors.end(),
            [](const TensorInfo& a, const TensorInfo& b) { return a.offset < b.offset; });
  for (std::size_t i = 1; i < tensors.size(); ++i) {
    const TensorInfo& before = tensors[i - 1];
    if (tensors[i].offset < before.offset + before.bytes) {
      reader.refuse(
          fmt::format("tensors {} and {} overlap at byte {} of the data: the file is "
                      "damaged",
                      before.name, tensors[i].name, tensors[i].offset));
    }
  }
}

void parse_metadata(HeaderReader& reader, std::span<const std::byte> bytes, std::uint64_t count,
                    GgufContents& contents) {
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::string key = reader.name("a metadata key", kLongestKey);
    if (contents.metadata.contains(key)) {
      reader.refuse(fmt::format("metadata {} appears twice: the file is damaged", key));
    }
    contents.metadata.emplace(key, parse_value(reader, bytes, key));
  }
}

// Returns where the tensors' data begins.
std::uint64_t aligned(std::uint64_t position, std::uint64_t alignment) {
  return (position + alignment - 1) / alignment * alignment;
}

}  // namespace

GgufContents parse_gguf(std::span<const std::byte> bytes, const std::string& name) {
  HeaderReader reader(bytes, name);
  check_magic_and_version(reader);
  const auto tensor_count = reader.number<std::uint64_t>("the number of tensors");
  const auto key_count = reader.number<std::uint64_t>("the number of metadata keys");
  GgufContents contents;
  parse_metadata(reader, bytes, key_count, contents);

  std::vector<TensorInfo> tensors;
  for (std::uint64_t i = 0; i < tensor_count; ++i) {
    tensors.push_back(parse_tensor_info(reader));
  }
  contents.header = bytes.first(reader.position());
  const std::uint64_t alignment = alignment_of(reader, contents);
  const std::uint64_t data_begin = std::min(aligned(reader.position(), alignment), bytes.size());
  const auto data = bytes.subspan(data_begin);
  for (const TensorInfo& info : tensors) {
    check_place(reader, info, alignment, data.size());
    const GgufTensor tensor{info.format, info.shape, data.subspan(info.offset, info.bytes)};
    if (!contents.tensors.emplace(info.name, tensor).second) {
      reader.refuse(fmt::format("tensor {} appears twice: the file is damaged", info.name));
    }
  }
  check_overlaps(reader, std::move(tensors));
  return contents;
}

GgufFile::GgufFile(const std::filesystem::path& path) : parts_(open_gguf_parts(path)) {
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    for (const auto& [name, tensor] : parts_[i].contents.tensors) {
      tensors_.emplace(name, tensor).first->second.part = i;
    }
  }
}

const GgufValue* GgufFile::find_value(std::string_view key) const {
  const auto found = metadata().find(key);
  return found == metadata().end() ? nullptr : &found->second;
}

const GgufTensor* GgufFile::find_tensor(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

std::vector<const MappedFile*> GgufFile::files() const {
  std::vector<const MappedFile*> files;
  for (const GgufPart& part : parts_) {
    files.push_back(part.file.get());
  }
  return files;
}

std::uint64_t GgufFile::fingerprint() const {
  constexpr std::size_t kSample = 1024;
  ContentHash hash;
  for (const GgufPart& part : parts_) {
    hash.add_bytes(part.contents.header.data(), part.contents.header.size());
  }
  for (const auto& [name, tensor] : tensors_) {
    const std::size_t count = std::min(tensor.data.size(), kSample);
    hash.add_bytes(tensor.data.data(), count);
    hash.add_bytes(tensor.data.data() + tensor.data.size() - count, count);
  }
  return hash.value();
}

}  // namespace bipo
