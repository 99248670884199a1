// Builds files of torch.save byte by byte, also such as it would not write.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <vector>

namespace bipo::testing {

// Pickle opcodes with their operands, from Python's pickletools.

inline const std::string kProtocol2("\x80\x02", 2);

inline std::string pickled(std::int64_t value) {
  std::string bytes("\x8a\x08", 2);
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
  return bytes;
}

inline std::string pickled(const std::string& text) {
  const auto size = static_cast<std::uint32_t>(text.size());
  std::string bytes = "X";
  bytes.append(reinterpret_cast<const char*>(&size), sizeof(size));
  return bytes + text;
}

inline std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}

inline std::string tuple(const std::vector<std::string>& items) {
  std::string bytes = "(";
  for (const std::string& item : items) {
    bytes += item;
  }
  return bytes + "t";
}

// A pickle of one value.
inline std::string whole(const std::string& value) {
  return kProtocol2 + value + ".";
}

// The arguments of a tensor of four float32 numbers 0, 1, 2, 3.
struct TensorBytes {
  std::string function = global("torch._utils", "_rebuild_tensor_v2");
  std::string storage_class = global("torch", "FloatStorage");
  std::string key = pickled("0");
  std::string elements = pickled(4);
  std::string view = "N";
  std::string offset = pickled(0);
  std::string size = tuple({pickled(4)});
  std::string stride = tuple({pickled(1)});
  std::string hooks = global("collections", "OrderedDict") + ")R";

  std::string value() const {
    const std::string storage =
        tuple({pickled("storage"), storage_class, key, pickled("cpu"), elements, view}) + "Q";
    return function + tuple({storage, offset, size, stride, "\x89", hooks}) + "R";
  }
};

inline std::string four_numbers() {
  const float values[] = {0, 1, 2, 3};
  return {reinterpret_cast<const char*>(values), sizeof(values)};
}

// The form before torch 1.6.
struct LegacyFile {
  std::string magic = std::string("\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19");
  std::string protocol = pickled(1001);
  std::string machine = "}(" + pickled("little_endian") + "\x88u";
  std::string object = TensorBytes().value();
  std::string keys = "](" + pickled("0") + "e";
  std::int64_t count = 4;
  std::string data = four_numbers();

  std::string build() const {
    std::string bytes;
    for (const std::string& value : {magic, protocol, machine, object, keys}) {
      bytes += whole(value);
    }
    bytes.append(reinterpret_cast<const char*>(&count), sizeof(count));
    return bytes + data;
  }
};

inline std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// What tests/fuzz/make_binary_seeds.py had torch.save write.
inline std::string torch_seed(const std::string& name) {
  const std::string path = std::string(BIPO_SOURCE_DIR) + "/tests/fuzz/seeds/torch_file/" + name;
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace bipo::testing
