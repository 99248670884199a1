#include "experiments/formats/torch_file_reader.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "collectives/foundation/errors.hpp"
#include "experiments/formats/binary_format.hpp"
#include "experiments/formats/pickle_values.hpp"
#include "experiments/formats/stored_zip.hpp"
#include "trainer/model/gguf/block_quantization.hpp"

namespace bipo {
namespace {

using Bytes = std::span<const std::byte>;

// 0x1950a86a20f9469cfc6c, with which torch.save began files before torch 1.6.
constexpr std::string_view kLegacyMagic = "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
constexpr std::int64_t kLegacyProtocol = 1001;

struct NumberType {
  std::string_view storage;
  GgmlType type;  // GGML has no float64
  std::int64_t bytes;
  bool is_double = false;
};

constexpr NumberType kNumberTypes[] = {{"torch.FloatStorage", GgmlType::kF32, 4},
                                       {"torch.HalfStorage", GgmlType::kF16, 2},
                                       {"torch.BFloat16Storage", GgmlType::kBF16, 2},
                                       {"torch.DoubleStorage", GgmlType::kF32, 8, true}};

// A vector as a pickle describes it: elements `offset + i * stride` of a storage.
struct VectorPlace {
  const NumberType* type = nullptr;
  std::string key;            // of the storage
  std::int64_t elements = 0;  // of the storage
  std::int64_t offset = 0;
  std::int64_t stride = 1;
  std::int64_t length = 0;  // D
};

[[noreturn]] void refuse(const std::string& name, const std::string& what) {
  throw UserError(
      fmt::format("{}: {}; give a file that torch.save(vector, file) wrote", name, what));
}

// Reads a pickle as the description of one vector.
class VectorDescription {
 public:
  VectorDescription(const Pickle& pickle, const std::string& name) : pickle_(pickle), name_(name) {}

  VectorPlace read() const {
    const PickleValue& root = pickle_[pickle_.root];
    if (root.kind == PickleKind::kDictionary) {
      refuse(name_, "holds a dictionary, not a tensor: save the one tensor by itself");
    }
    if (root.kind != PickleKind::kTensor) {
      refuse(name_, "holds something other than a tensor");
    }
    // storage, offset, size, stride, requires_grad, backward_hooks, and metadata where it has some
    if (root.items.size() < 6 || root.items.size() > 7) {
      refuse(name_, fmt::format("a tensor with {} arguments", root.items.size()));
    }
    VectorPlace place;
    read_storage(item(root, 0), place);
    place.offset = integer(item(root, 1));
    read_shape(integers(item(root, 2)), integers(item(root, 3)), place);
    if (has_entries(item(root, 5)) || (root.items.size() == 7 && has_entries(item(root, 6)))) {
      refuse(name_, "a tensor with hooks or flags of its own (conjugated, negated): save a clone");
    }
    require_within(place);
    return place;
  }

 private:
  const PickleValue& item(const PickleValue& value, std::size_t index) const {
    return pickle_[value.items[index]];
  }

  std::int64_t integer(const PickleValue& value) const {
    if (value.kind != PickleKind::kInteger || value.integer < 0) {
      refuse(name_, "a tensor with a size, stride or offset that is not a number from 0");
    }
    return value.integer;
  }

  std::vector<std::int64_t> integers(const PickleValue& value) const {
    if (value.kind != PickleKind::kTuple || value.items.size() > 8) {
      refuse(name_, "a tensor whose shape is not a tuple of at most 8 numbers");
    }
    std::vector<std::int64_t> numbers;
    for (std::size_t i = 0; i < value.items.size(); ++i) {
      numbers.push_back(integer(item(value, i)));
    }
    return numbers;
  }

  const std::string& text(const PickleValue& value) const {
    if (value.kind != PickleKind::kText) {
      refuse(name_, "a storage whose description is not a text");
    }
    return value.text;
  }

  // ("storage", class, key, device, elements), and in old files a view, which is always None.
  void read_storage(const PickleValue& storage, VectorPlace& place) const {
    const std::size_t parts = storage.items.size();
    if (storage.kind != PickleKind::kStorage || parts < 5 || parts > 6 ||
        text(item(storage, 0)) != "storage" || item(storage, 1).kind != PickleKind::kGlobal) {
      refuse(name_, "a tensor without a storage");
    }
    if (parts == 6 && item(storage, 5).kind != PickleKind::kNone) {
      refuse(name_, "a storage that is a view of another: save a clone");
    }
    const std::string& type = item(storage, 1).text;
    const auto* found =
        std::find_if(std::begin(kNumberTypes), std::end(kNumberTypes),
                     [&](const NumberType& known) { return known.storage == type; });
    if (found == std::end(kNumberTypes)) {
      refuse(name_, fmt::format("a storage of class {}", printable(type)));
    }
    place.type = found;
    place.key = text(item(storage, 2));
    place.elements = integer(item(storage, 4));
  }

  void read_shape(const std::vector<std::int64_t>& shape, const std::vector<std::int64_t>& strides,
                  VectorPlace& place) const {
    const bool is_row = shape.size() == 2 && shape[0] == 1;
    if ((shape.size() != 1 && !is_row) || shape.back() == 0) {
      refuse(name_, fmt::format("a tensor of shape [{}], where a vector [D] or [1, D] is needed",
                                fmt::join(shape, ", ")));
    }
    if (strides.size() != shape.size()) {
      refuse(name_, fmt::format("a tensor of {} dimensions with {} strides", shape.size(),
                                strides.size()));
    }
    place.length = shape.back();
    place.stride = strides.back();
  }

  bool has_entries(const PickleValue& value) const {
    return value.kind != PickleKind::kNone && !value.items.empty();
  }

  void require_within(const VectorPlace& place) const {
    std::int64_t last = 0;
    const bool overflows = __builtin_mul_overflow(place.length - 1, place.stride, &last) ||
                           __builtin_add_overflow(last, place.offset, &last);
    if (overflows || last >= place.elements || (place.stride == 0 && place.length > 1)) {
      refuse(name_, fmt::format("a vector of {} numbers from {} on, {} apart, is not within its "
                                "storage of {}",
                                place.length, place.offset, place.stride, place.elements));
    }
  }

  const Pickle& pickle_;
  const std::string& name_;
};

std::vector<float> decode(const VectorPlace& place, Bytes storage, const std::string& name) {
  std::int64_t expected = 0;
  if (__builtin_mul_overflow(place.elements, place.type->bytes, &expected) ||
      static_cast<std::uint64_t>(expected) != storage.size()) {
    refuse(name,
           fmt::format("a storage of {} numbers with {} bytes", place.elements, storage.size()));
  }
  std::vector<float> values(static_cast<std::size_t>(place.length));
  const BlockFormat* format = find_block_format(static_cast<std::uint32_t>(place.type->type));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::int64_t element = place.offset + static_cast<std::int64_t>(i) * place.stride;
    const std::byte* source = storage.data() + element * place.type->bytes;
    if (place.type->is_double) {
      values[i] = static_cast<float>(number_at<double>({source, sizeof(double)}, 0));
    } else {
      dequantize(*format, source, {0, 1}, &values[i]);
    }
  }
  return values;
}

// A vector's description, and the storage that holds its numbers.
struct FoundVector {
  VectorPlace place;
  Bytes storage;
};

FoundVector read_zip(Bytes bytes, const std::string& name) {
  constexpr std::string_view kPickleName = "/data.pkl";
  const auto entries = read_stored_zip(bytes, name);
  const auto main = std::find_if(entries.begin(), entries.end(), [&](const auto& entry) {
    return entry.first.ends_with(kPickleName) &&
           entry.first.find('/') == entry.first.size() - kPickleName.size();
  });
  if (main == entries.end()) {
    refuse(name, "a zip archive without data.pkl");
  }
  const std::string prefix = main->first.substr(0, main->first.find('/') + 1);
  if (entries.contains(prefix + "constants.pkl")) {
    refuse(name, "a TorchScript archive, which holds a program");
  }
  const auto order = entries.find(prefix + "byteorder");
  if (order != entries.end() && text_of(order->second) != "little") {
    refuse(name, "written on a big-endian machine");
  }
  const VectorPlace place = VectorDescription(read_pickle(main->second, name), name).read();
  const auto storage = entries.find(prefix + "data/" + place.key);
  if (storage == entries.end()) {
    refuse(name, fmt::format("the storage {} is missing", printable(place.key)));
  }
  return {place, storage->second};
}

// Reads the form before torch 1.6: pickles of a magic number, a protocol, the machine's sizes, the
// object and the storages' keys; then each storage after its count of elements.
FoundVector read_legacy(Bytes bytes, const std::string& name) {
  std::size_t position = 0;
  const auto next = [&] {
    Pickle pickle = read_pickle(bytes.subspan(position), name);
    position += pickle.bytes;
    return pickle;
  };
  const Pickle magic = next();
  if (magic[magic.root].kind != PickleKind::kLargeInteger ||
      magic[magic.root].text != kLegacyMagic) {
    refuse(name, "a pickle without the magic number of torch.save");
  }
  const Pickle protocol = next();
  if (protocol[protocol.root].kind != PickleKind::kInteger ||
      protocol[protocol.root].integer != kLegacyProtocol) {
    refuse(name, fmt::format("another protocol than {}", kLegacyProtocol));
  }
  const Pickle machine = next();
  const PickleValue& sizes = machine[machine.root];
  for (std::size_t i = 0; sizes.kind == PickleKind::kDictionary && i + 1 < sizes.items.size();
       i += 2) {
    if (machine[sizes.items[i]].text == "little_endian" &&
        machine[sizes.items[i + 1]].integer == 0) {
      refuse(name, "written on a big-endian machine");
    }
  }
  const VectorPlace place = VectorDescription(next(), name).read();
  const Pickle keys = next();
  const PickleValue& list = keys[keys.root];
  if (list.kind != PickleKind::kList || list.items.size() != 1 ||
      keys[list.items[0]].kind != PickleKind::kText || keys[list.items[0]].text != place.key) {
    refuse(name, "its list of storages is not that of one tensor");
  }
  const Bytes rest = bytes.subspan(position);
  if (rest.size() < sizeof(std::int64_t)) {
    refuse(name, "cut short before its numbers");
  }
  const auto count = number_at<std::int64_t>(rest, 0);
  if (count != place.elements) {
    refuse(name, fmt::format("a storage of {} numbers that says {}", place.elements, count));
  }
  return {place, rest.subspan(sizeof(count))};
}

}  // namespace

bool is_torch_file(Bytes bytes) {
  constexpr std::byte kPickleBeginning{0x80};
  return is_zip(bytes) || (!bytes.empty() && bytes[0] == kPickleBeginning);
}

std::vector<float> read_torch_vector(Bytes bytes, const std::string& name) {
  const FoundVector found = is_zip(bytes) ? read_zip(bytes, name) : read_legacy(bytes, name);
  return decode(found.place, found.storage, name);
}

}  // namespace bipo
