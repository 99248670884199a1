#include "experiments/formats/torch_file_reader.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

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

// How the numbers of a storage become float32.
enum class Decoding { kGgml, kDouble, kFloat8E4M3, kFloat8E5M2 };

struct NumberType {
  std::string_view name;  // the class of the storage, or the type of a tensor without one
  Decoding decoding = Decoding::kGgml;
  GgmlType type = GgmlType::kF32;
  std::int64_t bytes = 4;
};

constexpr NumberType kStorageTypes[] = {
    {"torch.FloatStorage", Decoding::kGgml, GgmlType::kF32, 4},
    {"torch.HalfStorage", Decoding::kGgml, GgmlType::kF16, 2},
    {"torch.BFloat16Storage", Decoding::kGgml, GgmlType::kBF16, 2},
    {"torch.DoubleStorage", Decoding::kDouble, GgmlType::kF64, 8}};

// The numbers of an UntypedStorage are bytes; the tensor says what they mean.
constexpr std::string_view kUntyped = "torch.storage.UntypedStorage";
constexpr NumberType kTensorTypes[] = {
    {"torch.float8_e4m3fn", Decoding::kFloat8E4M3, GgmlType::kF32, 1},
    {"torch.float8_e5m2", Decoding::kFloat8E5M2, GgmlType::kF32, 1}};

template <std::size_t count>
const NumberType* find_type(const NumberType (&types)[count], const std::string& name) {
  const auto* found = std::find_if(std::begin(types), std::end(types),
                                   [&](const NumberType& known) { return known.name == name; });
  return found == std::end(types) ? nullptr : found;
}

// A storage as a pickle describes it.
struct StoragePlace {
  std::string type;
  std::string key;
  std::int64_t elements = 0;

  // Returns the bytes of an element, 0 for a class that is not read.
  std::int64_t element_bytes() const {
    const NumberType* found = find_type(kStorageTypes, type);
    return found != nullptr ? found->bytes : (type == kUntyped ? 1 : 0);
  }
};

// A tensor as a pickle describes it: elements `offset + row * row_stride + i * stride` of a
// storage.
struct TensorPlace {
  StoragePlace storage;
  const NumberType* type = nullptr;
  std::int64_t offset = 0;
  std::int64_t rows = 1;
  std::int64_t row_stride = 0;
  std::int64_t length = 0;  // D
  std::int64_t stride = 1;
};

[[noreturn]] void refuse(const std::string& name, const std::string& what) {
  throw UserError(
      fmt::format("{}: {}; give a file that torch.save(vector, file) wrote", name, what));
}

// Reads a pickle as the description of tensors.
class TensorDescriptions {
 public:
  TensorDescriptions(const Pickle& pickle, const std::string& name)
      : pickle_(pickle), name_(name) {}

  // A tensor's place, and what is known of it but for its values.
  struct Described {
    TensorPlace place;
    NamedTensor tensor;
  };

  std::vector<Described> read() const {
    const PickleValue& root = pickle_[pickle_.root];
    if (root.kind == PickleKind::kTensor) {
      return {{read_tensor(root), {}}};
    }
    if (root.kind != PickleKind::kDictionary) {
      refuse(name_, "holds something other than a tensor, or a dictionary of tensors");
    }
    return read_dictionary(root, /*is_outermost=*/true);
  }

  // Returns the storages of the whole pickle, by key.
  std::map<std::string, StoragePlace> storages() const {
    std::map<std::string, StoragePlace> found;
    for (const PickleValue& value : pickle_.values) {
      if (value.kind == PickleKind::kStorage) {
        StoragePlace place = read_storage(value);
        std::string key = place.key;
        found.emplace(std::move(key), std::move(place));
      }
    }
    return found;
  }

 private:
  const PickleValue& item(const PickleValue& value, std::size_t index) const {
    return pickle_[value.items[index]];
  }

  std::size_t entries(const PickleValue& dictionary) const { return dictionary.items.size() / 2; }
  const PickleValue& key(const PickleValue& dictionary, std::size_t i) const {
    return item(dictionary, 2 * i);
  }
  const PickleValue& value(const PickleValue& dictionary, std::size_t i) const {
    return item(dictionary, 2 * i + 1);
  }
  const PickleValue* find(const PickleValue& dictionary, std::string_view name) const {
    for (std::size_t i = 0; i < entries(dictionary); ++i) {
      const PickleValue& candidate = key(dictionary, i);
      if (candidate.kind == PickleKind::kText && candidate.text == name) {
        return &value(dictionary, i);
      }
    }
    return nullptr;
  }

  std::optional<LayerName> layer_name(const PickleValue& value) const {
    if (value.kind == PickleKind::kInteger && value.integer >= 0) {
      return LayerName{value.integer, {}};
    }
    return value.kind == PickleKind::kText ? read_layer_name(value.text) : std::nullopt;
  }

  static std::string shown_key(const PickleValue& key) {
    if (key.kind == PickleKind::kInteger) {
      return fmt::format("{}", key.integer);
    }
    return key.kind == PickleKind::kText ? printable(key.text) : "(neither number nor text)";
  }

  std::vector<Described> read_dictionary(const PickleValue& dictionary, bool is_outermost) const {
    std::vector<std::size_t> tensors;
    std::vector<std::size_t> inner;
    bool is_of_lm_eval = false;
    for (std::size_t i = 0; i < entries(dictionary); ++i) {
      const PickleValue& candidate = value(dictionary, i);
      if (candidate.kind == PickleKind::kTensor) {
        tensors.push_back(i);
      } else if (candidate.kind == PickleKind::kDictionary) {
        inner.push_back(i);
        is_of_lm_eval = is_of_lm_eval || find(candidate, "steering_vector") != nullptr;
      }
    }
    if (is_of_lm_eval) {
      return read_lm_eval(dictionary);
    }
    if (!tensors.empty()) {
      return read_tensors(dictionary, tensors);
    }
    if (is_outermost && inner.size() == 1) {
      return read_dictionary(value(dictionary, inner[0]), /*is_outermost=*/false);
    }
    refuse(name_, "holds a dictionary without a tensor, or with several dictionaries");
  }

  std::vector<Described> read_tensors(const PickleValue& dictionary,
                                      const std::vector<std::size_t>& places) const {
    std::vector<Described> found;
    std::vector<std::string> keys;
    bool are_layers = true;
    for (const std::size_t i : places) {
      const PickleValue& label = key(dictionary, i);
      const auto layer = layer_name(label);
      are_layers = are_layers && layer;
      keys.push_back(shown_key(label));
      Described described{read_tensor(value(dictionary, i)), {}};
      described.tensor.name = keys.back();
      if (layer) {
        described.tensor.layer = layer->layer;
        described.tensor.part = layer->part;
      }
      found.push_back(std::move(described));
    }
    if (are_layers) {
      return found;
    }
    if (found.size() > 1) {
      refuse(name_, fmt::format("holds a dictionary of tensors whose keys are not all layers ({}): "
                                "save the one tensor by itself, or {{layer: tensor}}",
                                fmt::join(keys, ", ")));
    }
    if (const PickleValue* layer = find(dictionary, "layer")) {
      const auto named = layer_name(*layer);
      if (!named) {
        refuse(name_, "its \"layer\" is not a block's number or name");
      }
      found[0].tensor.layer = named->layer;
      found[0].tensor.part = named->part;
    }
    return found;
  }

  std::vector<Described> read_lm_eval(const PickleValue& dictionary) const {
    std::vector<Described> found;
    for (std::size_t i = 0; i < entries(dictionary); ++i) {
      const std::string module = shown_key(key(dictionary, i));
      const PickleValue& entry = value(dictionary, i);
      const auto layer = layer_name(key(dictionary, i));
      const PickleValue* vector =
          entry.kind == PickleKind::kDictionary ? find(entry, "steering_vector") : nullptr;
      if (!layer || vector == nullptr || vector->kind != PickleKind::kTensor) {
        refuse(name_, fmt::format("its entry {} is not a steering_vector for the output of a block "
                                  "(layers.L)",
                                  module));
      }
      const PickleValue* action = find(entry, "action");
      if (action == nullptr || action->kind != PickleKind::kText || action->text != "add") {
        refuse(name_, fmt::format("the action of its entry {} is not \"add\"", module));
      }
      for (const char* absent : {"bias", "head_index"}) {
        const PickleValue* other = find(entry, absent);
        if (other != nullptr && other->kind != PickleKind::kNone) {
          refuse(name_, fmt::format("its entry {} has a {}, which a vector for a whole block has "
                                    "not",
                                    module, absent));
        }
      }
      Described described{read_tensor(*vector), {}};
      described.tensor.name = module;
      described.tensor.layer = layer->layer;
      described.tensor.part = layer->part;
      described.tensor.coefficient = coefficient(find(entry, "steering_coefficient"), module);
      found.push_back(std::move(described));
    }
    return found;
  }

  double coefficient(const PickleValue* value, const std::string& module) const {
    if (value != nullptr && value->kind == PickleKind::kInteger) {
      return static_cast<double>(value->integer);
    }
    if (value == nullptr || value->kind != PickleKind::kReal) {
      refuse(name_, fmt::format("its entry {} has no number as steering_coefficient", module));
    }
    return value->real;
  }

  TensorPlace read_tensor(const PickleValue& tensor) const {
    // storage, offset, size, stride, requires_grad, backward_hooks, the type where the storage has
    // none, and metadata where it has some
    const std::size_t fixed = tensor.integer == 1 ? 7 : 6;
    if (tensor.items.size() < fixed || tensor.items.size() > fixed + 1) {
      refuse(name_, fmt::format("a tensor with {} arguments", tensor.items.size()));
    }
    TensorPlace place;
    place.storage = read_storage(item(tensor, 0));
    place.type = read_type(tensor, place.storage);
    place.offset = integer(item(tensor, 1));
    read_shape(integers(item(tensor, 2)), integers(item(tensor, 3)), place);
    if (has_entries(item(tensor, 5)) ||
        (tensor.items.size() > fixed && has_entries(item(tensor, fixed)))) {
      refuse(name_, "a tensor with hooks or flags of its own (conjugated, negated): save a clone");
    }
    require_within(place);
    return place;
  }

  const NumberType* read_type(const PickleValue& tensor, const StoragePlace& storage) const {
    const bool is_untyped = storage.type == kUntyped;
    if (is_untyped != (tensor.integer == 1)) {
      refuse(name_, "a tensor and its storage that disagree about who names the numbers' type");
    }
    const std::string& named = is_untyped ? item(tensor, 6).text : storage.type;
    const NumberType* found =
        is_untyped ? find_type(kTensorTypes, named) : find_type(kStorageTypes, named);
    if (found == nullptr) {
      refuse(name_, fmt::format("a tensor of the type {}", printable(named)));
    }
    return found;
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
  StoragePlace read_storage(const PickleValue& storage) const {
    const std::size_t parts = storage.items.size();
    if (storage.kind != PickleKind::kStorage || parts < 5 || parts > 6 ||
        text(item(storage, 0)) != "storage" || item(storage, 1).kind != PickleKind::kGlobal) {
      refuse(name_, "a tensor without a storage");
    }
    if (parts == 6 && item(storage, 5).kind != PickleKind::kNone) {
      refuse(name_, "a storage that is a view of another: save a clone");
    }
    StoragePlace place{item(storage, 1).text, text(item(storage, 2)), integer(item(storage, 4))};
    if (place.element_bytes() == 0) {
      refuse(name_, fmt::format("a storage of class {}", printable(place.type)));
    }
    return place;
  }

  void read_shape(const std::vector<std::int64_t>& shape, const std::vector<std::int64_t>& strides,
                  TensorPlace& place) const {
    if (shape.empty() || shape.size() > 2 ||
        std::find(shape.begin(), shape.end(), 0) != shape.end()) {
      refuse(name_, fmt::format("a tensor of shape [{}], where a vector [D] or a table [R, D] is "
                                "needed",
                                fmt::join(shape, ", ")));
    }
    if (strides.size() != shape.size()) {
      refuse(name_, fmt::format("a tensor of {} dimensions with {} strides", shape.size(),
                                strides.size()));
    }
    place.rows = shape.size() == 1 ? 1 : shape[0];
    place.row_stride = shape.size() == 1 ? 0 : strides[0];
    place.length = shape.back();
    place.stride = strides.back();
  }

  bool has_entries(const PickleValue& value) const {
    return value.kind != PickleKind::kNone && !value.items.empty();
  }

  void require_within(const TensorPlace& place) const {
    std::int64_t along_rows = 0;
    std::int64_t last = 0;
    std::int64_t count = 0;
    const bool overflows = __builtin_mul_overflow(place.rows - 1, place.row_stride, &along_rows) ||
                           __builtin_mul_overflow(place.length - 1, place.stride, &last) ||
                           __builtin_add_overflow(last, along_rows, &last) ||
                           __builtin_add_overflow(last, place.offset, &last) ||
                           __builtin_mul_overflow(place.rows, place.length, &count);
    const bool repeats =
        (place.stride == 0 && place.length > 1) || (place.row_stride == 0 && place.rows > 1);
    if (overflows || last >= place.storage.elements || count > place.storage.elements || repeats) {
      refuse(name_, fmt::format("{} vectors of {} numbers from {} on, {} apart, the numbers {} "
                                "apart, are not within its storage of {}",
                                place.rows, place.length, place.offset, place.row_stride,
                                place.stride, place.storage.elements));
    }
  }

  const Pickle& pickle_;
  const std::string& name_;
};

// 1 sign, 4 exponent and 3 fraction bits, bias 7, no infinities.
float decode_e4m3(std::uint8_t bits) {
  const int exponent = (bits >> 3) & 15;
  const int fraction = bits & 7;
  if (exponent == 15 && fraction == 7) {
    return std::numeric_limits<float>::quiet_NaN();
  }
  const float size = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -9)
                                   : std::ldexp(static_cast<float>(8 + fraction), exponent - 10);
  return (bits & 0x80) != 0 ? -size : size;
}

float decode_number(const NumberType& type, const std::byte* source) {
  float value = 0;
  switch (type.decoding) {
    case Decoding::kDouble:
      return static_cast<float>(number_at<double>({source, sizeof(double)}, 0));
    case Decoding::kFloat8E4M3:
      return decode_e4m3(static_cast<std::uint8_t>(*source));
    case Decoding::kFloat8E5M2: {
      const std::byte half[] = {std::byte{0}, *source};  // the upper byte of a float16
      dequantize(*find_block_format(static_cast<std::uint32_t>(GgmlType::kF16)), half, {0, 1},
                 &value);
      return value;
    }
    case Decoding::kGgml:
      dequantize(*find_block_format(static_cast<std::uint32_t>(type.type)), source, {0, 1}, &value);
  }
  return value;
}

void require_size(const StoragePlace& place, Bytes storage, const std::string& name) {
  std::int64_t expected = 0;
  if (__builtin_mul_overflow(place.elements, place.element_bytes(), &expected) ||
      static_cast<std::uint64_t>(expected) != storage.size()) {
    refuse(name,
           fmt::format("a storage of {} numbers with {} bytes", place.elements, storage.size()));
  }
}

std::vector<float> decode(const TensorPlace& place, double coefficient, Bytes storage) {
  std::vector<float> values;
  values.reserve(static_cast<std::size_t>(place.rows * place.length));
  for (std::int64_t row = 0; row < place.rows; ++row) {
    for (std::int64_t i = 0; i < place.length; ++i) {
      const std::int64_t element = place.offset + row * place.row_stride + i * place.stride;
      const float value = decode_number(*place.type, storage.data() + element * place.type->bytes);
      values.push_back(coefficient == 1.0 ? value : static_cast<float>(coefficient * value));
    }
  }
  return values;
}

using StorageData = std::map<std::string, Bytes>;  // by key

std::vector<NamedTensor> decode_all(std::vector<TensorDescriptions::Described> described,
                                    const StorageData& storages, std::size_t file_bytes,
                                    const std::string& name) {
  std::size_t numbers = 0;
  std::vector<NamedTensor> tensors;
  for (auto& [place, tensor] : described) {
    // Many tensors may show the same numbers.
    numbers += static_cast<std::size_t>(place.rows * place.length);
    if (numbers > file_bytes) {
      refuse(name, "tensors that have more numbers than the file has bytes");
    }
    const auto storage = storages.find(place.storage.key);
    if (storage == storages.end()) {
      refuse(name, fmt::format("the storage {} is missing", printable(place.storage.key)));
    }
    require_size(place.storage, storage->second, name);
    tensor.rows = place.rows;
    tensor.values = decode(place, tensor.coefficient, storage->second);
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

std::vector<NamedTensor> read_zip(Bytes bytes, const std::string& name) {
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
  const Pickle pickle = read_pickle(main->second, name);
  StorageData storages;
  const std::string data = prefix + "data/";
  for (const auto& [entry, content] : entries) {
    if (entry.starts_with(data)) {
      storages.emplace(entry.substr(data.size()), content);
    }
  }
  return decode_all(TensorDescriptions(pickle, name).read(), storages, bytes.size(), name);
}

// Reads each storage after its count of elements, in the order of the list of keys.
StorageData read_legacy_storages(const Pickle& keys,
                                 const std::map<std::string, StoragePlace>& places, Bytes rest,
                                 const std::string& name) {
  const PickleValue& list = keys[keys.root];
  if (list.kind != PickleKind::kList || list.items.size() != places.size()) {
    refuse(name, "its list of storages is not that of its tensors");
  }
  StorageData storages;
  for (const PickleIndex index : list.items) {
    const auto place = places.find(keys[index].text);
    if (keys[index].kind != PickleKind::kText || place == places.end()) {
      refuse(name, "its list of storages is not that of its tensors");
    }
    if (rest.size() < sizeof(std::int64_t)) {
      refuse(name, "cut short before its numbers");
    }
    const auto count = number_at<std::int64_t>(rest, 0);
    rest = rest.subspan(sizeof(count));
    const StoragePlace& described = place->second;
    if (count != described.elements) {
      refuse(name, fmt::format("a storage of {} numbers that says {}", described.elements, count));
    }
    std::int64_t size = 0;
    const bool is_whole = !__builtin_mul_overflow(count, described.element_bytes(), &size) &&
                          static_cast<std::uint64_t>(size) <= rest.size();
    if (!is_whole) {
      refuse(name, fmt::format("a storage of {} numbers with {} bytes", count, rest.size()));
    }
    if (!storages.emplace(place->first, rest.first(static_cast<std::size_t>(size))).second) {
      refuse(name, "its list of storages names one twice");
    }
    rest = rest.subspan(static_cast<std::size_t>(size));
  }
  if (!rest.empty()) {
    refuse(name, fmt::format("{} bytes behind its last storage", rest.size()));
  }
  return storages;
}

// Reads the form before torch 1.6: pickles of a magic number, a protocol, the machine's sizes, the
// object and the storages' keys; then each storage after its count of elements.
std::vector<NamedTensor> read_legacy(Bytes bytes, const std::string& name) {
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
  const Pickle object = next();
  const TensorDescriptions descriptions(object, name);
  std::vector<TensorDescriptions::Described> described = descriptions.read();
  const Pickle keys = next();
  return decode_all(
      std::move(described),
      read_legacy_storages(keys, descriptions.storages(), bytes.subspan(position), name),
      bytes.size(), name);
}

}  // namespace

bool is_torch_file(Bytes bytes) {
  constexpr std::byte kPickleBeginning{0x80};
  return is_zip(bytes) || (!bytes.empty() && bytes[0] == kPickleBeginning);
}

std::vector<NamedTensor> read_torch_tensors(Bytes bytes, const std::string& name) {
  return is_zip(bytes) ? read_zip(bytes, name) : read_legacy(bytes, name);
}

}  // namespace bipo
