#include "experiments/formats/torch_file_writer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "experiments/formats/little_endian.hpp"

namespace bipo {
namespace {

// A pickle of protocol 2, which is what torch.load(weights_only=True) reads.
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

// A tensor [length] whose numbers are the archive's entry data/0.
void write_tensor(PickleWriter& pickle, std::int64_t length) {
  pickle.global("torch._utils", "_rebuild_tensor_v2");
  pickle.mark();
  pickle.mark();
  pickle.text("storage");
  pickle.global("torch", "FloatStorage");
  pickle.text("0");
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

// A zip archive of stored entries, the data of each at a multiple of 64 bytes, as torch aligns them
// for those who map the file.
class ZipWriter {
 public:
  void add(std::string_view name, std::string_view data) {
    const std::size_t local = bytes_.size();
    std::string fields;
    append_number<std::uint16_t>(fields, 0);  // flags
    append_number<std::uint16_t>(fields, 0);  // stored
    append_number<std::uint16_t>(fields, 0);  // time
    append_number<std::uint16_t>(fields,
                                 0x21);  // 1980-01-01, so that equal vectors are equal files
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
    append_number<std::uint16_t>(directory_, 0);  // extra
    append_number<std::uint16_t>(directory_, 0);  // comment
    append_number<std::uint16_t>(directory_, 0);  // disk
    append_number<std::uint16_t>(directory_, 0);  // internal attributes
    append_number<std::uint32_t>(directory_, 0);  // external attributes
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

  // Bytes of the extra field that ends at a multiple of 64 when it begins at `position`.
  static std::size_t padding(std::size_t position) {
    constexpr std::size_t kAlignment = 64;
    const std::size_t end = (position + kExtraHeader + kAlignment - 1) / kAlignment * kAlignment;
    return end - position;
  }

  std::string bytes_;
  std::string directory_;
  std::uint16_t entries_ = 0;
};

std::vector<std::byte> archive(const std::string& pickle, std::span<const float> vector) {
  ZipWriter zip;
  zip.add("archive/data.pkl", pickle);
  zip.add("archive/byteorder", "little");
  zip.add("archive/data/0", {reinterpret_cast<const char*>(vector.data()), vector.size_bytes()});
  zip.add("archive/version", "3\n");
  const std::string bytes = zip.finish();
  const auto* begin = reinterpret_cast<const std::byte*>(bytes.data());
  return {begin, begin + bytes.size()};
}

}  // namespace

std::vector<std::byte> torch_vector_file(std::span<const float> vector) {
  PickleWriter pickle;
  write_tensor(pickle, static_cast<std::int64_t>(vector.size()));
  return archive(pickle.finish(), vector);
}

std::vector<std::byte> lm_eval_file(std::span<const float> vector, std::int64_t layer,
                                    double multiplier) {
  PickleWriter pickle;
  pickle.empty_dictionary();
  pickle.mark();
  pickle.text(fmt::format("layers.{}", layer));
  pickle.empty_dictionary();
  pickle.mark();
  pickle.text("steering_vector");
  write_tensor(pickle, static_cast<std::int64_t>(vector.size()));
  pickle.text("steering_coefficient");
  pickle.real(multiplier);
  pickle.text("action");
  pickle.text("add");
  pickle.text("bias");
  pickle.none();
  pickle.text("head_index");
  pickle.none();
  pickle.set_items_from_mark();
  pickle.set_items_from_mark();
  return archive(pickle.finish(), vector);
}

}  // namespace bipo
