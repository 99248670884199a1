#include "experiments/formats/npy_reader.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <string_view>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "experiments/formats/binary_format.hpp"
#include "trainer/model/gguf/block_quantization.hpp"

namespace bipo {
namespace {

using Bytes = std::span<const std::byte>;

constexpr std::string_view kNpyMagic = "\x93NUMPY";

[[noreturn]] void refuse_npy(const std::string& name, const std::string& what) {
  throw UserError(
      fmt::format("{}: {}; give a file that numpy.save(file, array) wrote", name, what));
}

// The description in front of the numbers: a Python literal such as
// {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }.
struct NpyDescription {
  std::string type;
  bool is_fortran = false;
  std::vector<std::int64_t> shape;
};

class NpyDescriptionReader {
 public:
  NpyDescriptionReader(std::string_view text, const std::string& name) : text_(text), name_(name) {}

  NpyDescription read() {
    NpyDescription description;
    int keys = 0;
    expect('{');
    while (!accept('}')) {
      const std::string key = quoted();
      expect(':');
      if (key == "descr") {
        if (next() == '[') {
          refuse_npy(name_, "an array of records, not of numbers");
        }
        description.type = quoted();
      } else if (key == "fortran_order") {
        description.is_fortran = truth();
      } else if (key == "shape") {
        description.shape = tuple();
      } else {
        refuse_npy(name_, fmt::format("a description with the key '{}'", printable(key)));
      }
      ++keys;
      if (!accept(',') && next() != '}') {
        refuse_form();
      }
    }
    next();  // skips the blanks behind it
    if (keys != 3 || description.type.empty() || !text_.empty()) {
      refuse_form();
    }
    return description;
  }

 private:
  [[noreturn]] void refuse_form() const {
    refuse_npy(name_,
               "a description that is not {'descr': ..., 'fortran_order': ..., 'shape': ...}");
  }

  // Returns the next character that is no blank, '\0' at the end.
  char next() {
    const std::size_t at = std::min(text_.find_first_not_of(" \t\r\n"), text_.size());
    text_.remove_prefix(at);
    return text_.empty() ? '\0' : text_.front();
  }
  bool accept(char character) {
    if (next() != character || text_.empty()) {
      return false;
    }
    text_.remove_prefix(1);
    return true;
  }
  void expect(char character) {
    if (!accept(character)) {
      refuse_form();
    }
  }
  bool accept_word(std::string_view word) {
    next();
    if (!text_.starts_with(word)) {
      return false;
    }
    text_.remove_prefix(word.size());
    return true;
  }

  std::string quoted() {
    const char quote = next();
    const std::size_t end =
        quote == '\'' || quote == '"' ? text_.find(quote, 1) : std::string_view::npos;
    if (end == std::string_view::npos) {
      refuse_form();
    }
    std::string value(text_.substr(1, end - 1));
    text_.remove_prefix(end + 1);
    return value;
  }

  bool truth() {
    const bool value = accept_word("True");
    if (!value && !accept_word("False")) {
      refuse_form();
    }
    return value;
  }

  std::vector<std::int64_t> tuple() {
    std::vector<std::int64_t> numbers;
    expect('(');
    while (!accept(')')) {
      next();
      std::int64_t number = 0;
      const auto [stop, error] = std::from_chars(text_.data(), text_.data() + text_.size(), number);
      if (error != std::errc() || number < 0 || numbers.size() == 8) {
        refuse_form();
      }
      text_.remove_prefix(static_cast<std::size_t>(stop - text_.data()));
      numbers.push_back(number);
      if (!accept(',') && next() != ')') {
        refuse_form();
      }
    }
    return numbers;
  }

  std::string_view text_;
  const std::string& name_;
};

// Returns the description, and the bytes behind it.
std::pair<NpyDescription, Bytes> read_npy_head(Bytes bytes, const std::string& name) {
  constexpr std::size_t kVersionEnd = 8;
  if (!is_npy(bytes) || bytes.size() < kVersionEnd) {
    refuse_npy(name, "not a file of numpy.save");
  }
  const auto version = static_cast<int>(bytes[kNpyMagic.size()]);
  if (version < 1 || version > 3) {
    refuse_npy(name, fmt::format("version {} of the format, where 1 to 3 are read", version));
  }
  const std::size_t length_bytes = version == 1 ? sizeof(std::uint16_t) : sizeof(std::uint32_t);
  const Bytes rest = bytes.subspan(kVersionEnd);
  if (rest.size() < length_bytes) {
    refuse_npy(name, "cut short");
  }
  const std::size_t length = version == 1 ? number_at<std::uint16_t>(rest, 0)
                                          : std::size_t{number_at<std::uint32_t>(rest, 0)};
  const Bytes behind = rest.subspan(length_bytes);
  if (length > behind.size()) {
    refuse_npy(name, "cut short before its numbers");
  }
  return {NpyDescriptionReader(text_of(behind.first(length)), name).read(), behind.subspan(length)};
}

struct NpyType {
  std::string_view name;
  GgmlType type;
  std::int64_t bytes;
};

constexpr NpyType kNpyTypes[] = {
    {"<f4", GgmlType::kF32, 4}, {"<f8", GgmlType::kF64, 8}, {"<f2", GgmlType::kF16, 2}};

const NpyType& npy_type(const std::string& type, const std::string& name) {
  const auto* found = std::find_if(std::begin(kNpyTypes), std::end(kNpyTypes),
                                   [&](const NpyType& known) { return known.name == type; });
  if (found != std::end(kNpyTypes)) {
    return *found;
  }
  if (type.ends_with('O')) {
    refuse_npy(name, "an array of Python objects, which is a pickle and is not read");
  }
  refuse_npy(name, fmt::format("numbers of the type {}, where float32, float64 and float16 in "
                               "little-endian are read (<f4, <f8, <f2)",
                               printable(type)));
}

}  // namespace

bool is_npy(Bytes bytes) {
  return text_of(bytes).starts_with(kNpyMagic);
}

NamedTensor read_npy(Bytes bytes, const std::string& name) {
  const auto [description, data] = read_npy_head(bytes, name);
  const std::vector<std::int64_t>& shape = description.shape;
  const NpyType& type = npy_type(description.type, name);
  if (shape.empty() || shape.size() > 2 ||
      std::find(shape.begin(), shape.end(), 0) != shape.end()) {
    refuse_npy(name, fmt::format("an array of shape [{}], where a vector [D] or a table [R, D] is "
                                 "needed",
                                 fmt::join(shape, ", ")));
  }
  NamedTensor tensor;
  tensor.rows = shape.size() == 1 ? 1 : shape[0];
  const std::int64_t columns = shape.back();
  std::int64_t count = 0;
  std::int64_t needed = 0;
  if (__builtin_mul_overflow(tensor.rows, columns, &count) ||
      __builtin_mul_overflow(count, type.bytes, &needed) ||
      static_cast<std::uint64_t>(needed) != data.size()) {
    refuse_npy(name, fmt::format("an array of shape [{}] with {} bytes of numbers",
                                 fmt::join(shape, ", "), data.size()));
  }
  std::vector<float> stored(static_cast<std::size_t>(count));
  const BlockFormat* format = find_block_format(static_cast<std::uint32_t>(type.type));
  dequantize(*format, data.data(), {0, count}, stored.data());
  if (!description.is_fortran || tensor.rows == 1) {
    tensor.values = std::move(stored);
    return tensor;
  }
  tensor.values.resize(stored.size());  // the file has one column behind the other
  for (std::int64_t row = 0; row < tensor.rows; ++row) {
    for (std::int64_t column = 0; column < columns; ++column) {
      tensor.values[static_cast<std::size_t>(row * columns + column)] =
          stored[static_cast<std::size_t>(column * tensor.rows + row)];
    }
  }
  return tensor;
}

}  // namespace bipo
