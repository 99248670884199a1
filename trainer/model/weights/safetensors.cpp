#include "trainer/model/weights/safetensors.hpp"

#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/files/strict_json.hpp"

namespace bipo {
namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kLargestHeader = 100'000'000;

struct TypeInfo {
  const char* name;
  at::ScalarType type;
  std::uint64_t width;
};

constexpr TypeInfo kTypes[] = {{"F64", at::kDouble, 8}, {"F32", at::kFloat, 4},
                               {"F16", at::kHalf, 2},   {"BF16", at::kBFloat16, 2},
                               {"I64", at::kLong, 8},   {"I32", at::kInt, 4},
                               {"I16", at::kShort, 2},  {"I8", at::kChar, 1},
                               {"U8", at::kByte, 1},    {"BOOL", at::kBool, 1}};

const TypeInfo* find_type(const std::string& name) {
  const auto* found = std::find_if(std::begin(kTypes), std::end(kTypes),
                                   [&](const TypeInfo& info) { return name == info.name; });
  return found == std::end(kTypes) ? nullptr : found;
}

std::optional<std::uint64_t> checked_product(std::uint64_t a, std::uint64_t b) {
  std::uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) {
    return std::nullopt;
  }
  return product;
}

SafetensorsFile::Entry parse_entry(const std::string& name, const Json& json,
                                   std::uint64_t data_size, const std::string& file) {
  const auto refuse = [&](const std::string& what) {
    throw UserError(fmt::format(
        "{}: tensor {}: {}; the file is damaged or was cut short, get it again", file, name, what));
  };
  if (!json.is_object() || !json.contains("dtype") || !json["dtype"].is_string() ||
      !json.contains("shape") || !json["shape"].is_array() || !json.contains("data_offsets") ||
      !json["data_offsets"].is_array() || json["data_offsets"].size() != 2) {
    refuse("needs dtype, shape and two data_offsets");
  }
  const TypeInfo* type = find_type(json["dtype"].get<std::string>());
  if (type == nullptr) {
    refuse(fmt::format("type {} is unknown", json["dtype"].dump()));
  }
  SafetensorsFile::Entry entry;
  entry.type = type->type;
  std::optional<std::uint64_t> bytes = type->width;
  for (const Json& extent : json["shape"]) {
    if (!extent.is_number_unsigned()) {
      refuse(fmt::format("shape {} is not made of sizes", json["shape"].dump()));
    }
    const auto count = extent.get<std::uint64_t>();
    if (count > std::numeric_limits<std::int64_t>::max()) {
      refuse(fmt::format("an extent of {} is too large for any file", count));
    }
    bytes = bytes ? checked_product(*bytes, count) : bytes;
    entry.shape.push_back(static_cast<std::int64_t>(count));
  }
  for (const Json& offset : json["data_offsets"]) {
    if (!offset.is_number_unsigned()) {
      refuse(fmt::format("data_offsets {} are not offsets", json["data_offsets"].dump()));
    }
  }
  entry.begin = json["data_offsets"][0].get<std::uint64_t>();
  entry.end = json["data_offsets"][1].get<std::uint64_t>();
  if (entry.begin > entry.end || entry.end > data_size) {
    refuse(fmt::format("data_offsets [{}, {}] lie outside the file's {} bytes of data", entry.begin,
                       entry.end, data_size));
  }
  if (!bytes || *bytes != entry.end - entry.begin) {
    refuse(fmt::format("{} {} does not fit its {} bytes", json["dtype"].get<std::string>(),
                       json["shape"].dump(), entry.end - entry.begin));
  }
  return entry;
}

void check_tiling(const std::map<std::string, SafetensorsFile::Entry>& entries,
                  std::uint64_t data_size, const std::string& file) {
  std::vector<std::pair<std::uint64_t, std::pair<std::uint64_t, std::string>>> spans;
  for (const auto& [name, entry] : entries) {
    spans.push_back({entry.begin, {entry.end, name}});
  }
  std::sort(spans.begin(), spans.end());
  std::uint64_t covered = 0;
  for (const auto& [begin, rest] : spans) {
    if (begin != covered) {
      throw UserError(fmt::format(
          "{}: tensor {} begins at byte {} of the data, but the tensors before it end at {}: {}; "
          "refusing a malformed file",
          file, rest.second, begin, covered, begin < covered ? "they overlap" : "there is a hole"));
    }
    covered = rest.first;
  }
  if (covered != data_size) {
    throw UserError(
        fmt::format("{}: the tensors end at byte {} of {} bytes of data; refusing a malformed file",
                    file, covered, data_size));
  }
}

std::map<std::string, std::string> parse_metadata(const Json& json) {
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : json.items()) {
    if (value.is_string()) {
      metadata.emplace(key, value.get<std::string>());
    }
  }
  return metadata;
}

// Whether the file is what a clone of a repository holds in place of a large file.
bool is_lfs_pointer(std::span<const std::byte> bytes) {
  constexpr std::string_view kBeginning = "version https://git-lfs";
  return bytes.size() >= kBeginning.size() &&
         std::memcmp(bytes.data(), kBeginning.data(), kBeginning.size()) == 0;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  const std::string file = path.string();
  const std::span<const std::byte> bytes = file_.bytes();
  if (bytes.size() < kLengthBytes) {
    throw UserError(
        fmt::format("{}: {} bytes are too few for a safetensors file", file, bytes.size()));
  }
  if (is_lfs_pointer(bytes)) {
    throw UserError(fmt::format(
        "{}: is a pointer to the file, not the file itself: fetch it with `git lfs pull`", file));
  }
  std::uint64_t header_size = 0;
  std::memcpy(&header_size, bytes.data(), kLengthBytes);  // little-endian, as this machine is
  if (header_size > kLargestHeader || header_size > bytes.size() - kLengthBytes) {
    throw UserError(
        fmt::format("{}: the header claims {} bytes, but the file has {} (limit {}): it is "
                    "damaged, cut short, or not a safetensors file",
                    file, header_size, bytes.size() - kLengthBytes, kLargestHeader));
  }
  data_ = bytes.subspan(kLengthBytes + header_size);
  const auto header = parse_strict_json<Json>(
      {reinterpret_cast<const char*>(bytes.data() + kLengthBytes), header_size}, file + ": header");
  if (!header.is_object()) {
    throw UserError(fmt::format("{}: header is not a JSON object", file));
  }
  for (const auto& [name, json] : header.items()) {
    if (name == "__metadata__") {
      metadata_ = parse_metadata(json);
    } else {
      entries_.emplace(name, parse_entry(name, json, data_.size(), file));
    }
  }
  check_tiling(entries_, data_.size(), file);
}

void SafetensorsFile::add_sample(const std::string& name, ContentHash& hash) const {
  constexpr std::uint64_t kSample = 1024;
  const Entry& entry = entries_.at(name);
  const std::byte* data = data_.data() + entry.begin;
  const std::uint64_t size = entry.end - entry.begin;
  const std::uint64_t count = std::min(size, kSample);
  hash.add_bytes(data, count);
  hash.add_bytes(data + size - count, count);
}

bool SafetensorsFile::holds_same(const std::string& name, const SafetensorsFile& other,
                                 const std::string& other_name) const {
  constexpr std::uint64_t kPiece = 1 << 24;
  const Entry& entry = entries_.at(name);
  const Entry& other_entry = other.entries_.at(other_name);
  if (entry.type != other_entry.type || entry.shape != other_entry.shape) {
    return false;
  }
  for (std::uint64_t at = entry.begin; at < entry.end; at += kPiece) {
    const std::uint64_t size = std::min(kPiece, entry.end - at);
    const auto mine = data_.subspan(at, size);
    const auto theirs = other.data_.subspan(other_entry.begin + (at - entry.begin), size);
    const bool same = std::memcmp(mine.data(), theirs.data(), size) == 0;
    file_.let_go(mine);
    other.file_.let_go(theirs);
    if (!same) {
      return false;
    }
  }
  return true;
}

at::Tensor SafetensorsFile::read(const std::string& name, const Slice& slice) const {
  const Entry& entry = entries_.at(name);
  const bool matrix = entry.shape.size() > 1;
  const std::int64_t row_length = matrix ? entry.shape.back() : 1;
  const Range columns = matrix ? slice.columns : Range{0, 1};
  const auto options = at::TensorOptions().dtype(entry.type);
  const at::Tensor result = matrix ? at::empty({slice.rows.size(), columns.size()}, options)
                                   : at::empty({slice.rows.size()}, options);
  if (result.numel() == 0) {
    return result;  // has no memory
  }
  const auto width = static_cast<std::int64_t>(result.element_size());
  const std::byte* source = data_.data() + entry.begin;
  auto* target = static_cast<std::byte*>(result.data_ptr());
  const std::int64_t run = columns.size() * width;
  const std::int64_t row_bytes = row_length * width;
  const std::byte* first_row = source + slice.rows.begin * row_bytes;
  const auto touched = static_cast<std::size_t>(slice.rows.size() * row_bytes);
  if (columns.size() == row_length) {
    std::memcpy(target, first_row, touched);
  } else {
    for (std::int64_t row = 0; row < slice.rows.size(); ++row) {
      std::memcpy(target + row * run, first_row + row * row_bytes + columns.begin * width,
                  static_cast<std::size_t>(run));
    }
  }
  file_.let_go({first_row, touched});
  return result;
}

at::Tensor SafetensorsFile::read(const std::string& name, const std::vector<Range>& rows,
                                 Range columns) const {
  if (rows.size() == 1) {
    return read(name, {rows.front(), columns});
  }
  std::vector<at::Tensor> parts;
  for (const Range& part : rows) {
    parts.push_back(read(name, {part, columns}));
  }
  return parts.empty() ? read(name, {{0, 0}, columns}) : at::cat(parts);
}

}  // namespace bipo
