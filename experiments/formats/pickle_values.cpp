#include "experiments/formats/pickle_values.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <string_view>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "experiments/formats/binary_format.hpp"

namespace bipo {
namespace {

// torch.save writes about 300 bytes and 30 values for a vector.
constexpr std::size_t kMostBytes = std::size_t{1} << 20;
constexpr std::size_t kMostValues = 65536;

constexpr std::string_view kRebuildTensor = "torch._utils._rebuild_tensor_v2";
// Since torch 2.1, for types of numbers that have no class of storages.
constexpr std::string_view kRebuildTypedTensor = "torch._utils._rebuild_tensor_v3";
constexpr std::string_view kRebuildParameter = "torch._utils._rebuild_parameter";
constexpr std::string_view kOrderedDict = "collections.OrderedDict";

// The only names that a pickle may mention.  None is called; each stands for its result.
constexpr std::string_view kGlobals[] = {
    kRebuildTensor,        kRebuildTypedTensor,     kRebuildParameter,
    kOrderedDict,          "torch.FloatStorage",    "torch.DoubleStorage",
    "torch.HalfStorage",   "torch.BFloat16Storage", "torch.storage.UntypedStorage",
    "torch.float8_e4m3fn", "torch.float8_e5m2"};

// Beginnings of the names of torch's types of numbers.
constexpr std::string_view kNumberTypeNames[] = {
    "float", "bfloat", "half", "double", "uint", "int", "complex", "bool", "quint", "qint", "bits"};

// What torch.save and NumPy write for tensors that are no plain ones, and what to do about it.
struct OtherTensor {
  std::string_view global;
  const char* what;
  const char* remedy;
};
constexpr OtherTensor kOtherTensors[] = {
    {"torch._utils._rebuild_sparse_tensor", "a sparse tensor", "tensor.to_dense()"},
    {"torch._utils._rebuild_qtensor", "a quantised tensor", "tensor.dequantize()"},
    {"torch._utils._rebuild_meta_tensor_no_storage", "a tensor of the device meta, without numbers",
     "the tensor of a loaded model"},
    {"torch._utils._rebuild_nested_tensor", "a nested tensor", "one of its tensors"},
    {"torch._utils._rebuild_device_tensor_from_numpy", "a tensor of another device",
     "tensor.cpu()"},
    {"torch._utils._rebuild_device_tensor_from_cpu_tensor", "a tensor of another device",
     "tensor.cpu()"},
    {"torch._tensor._rebuild_from_type_v2", "a tensor with attributes of its own, or of a subclass",
     "tensor.detach().clone() of a plain one"},
    {"numpy.core.multiarray._reconstruct", "a NumPy array", "torch.from_numpy(array)"},
    {"numpy._core.multiarray._reconstruct", "a NumPy array", "torch.from_numpy(array)"},
};

// As in Python's pickletools.
enum Opcode : std::uint8_t {
  kMark = '(',
  kStop = '.',
  kBinFloat = 'G',
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kNone = 'N',
  kBinPersId = 'Q',
  kReduce = 'R',
  kBinUnicode = 'X',
  kAppend = 'a',
  kGlobal = 'c',
  kAppends = 'e',
  kBinGet = 'h',
  kLongBinGet = 'j',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kSetItem = 's',
  kTuple = 't',
  kSetItems = 'u',
  kEmptyTuple = ')',
  kEmptyList = ']',
  kEmptyDict = '}',
  kProto = 0x80,
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kLong1 = 0x8a,
  kShortBinUnicode = 0x8c,
  kStackGlobal = 0x93,
  kMemoize = 0x94,
  kFrame = 0x95,
};

// Opcodes that build objects of any class by running code.
constexpr std::pair<std::uint8_t, const char*> kCodeOpcodes[] = {
    {'b', "BUILD"}, {'i', "INST"},  {'o', "OBJ"},   {0x81, "NEWOBJ"},
    {0x82, "EXT1"}, {0x83, "EXT2"}, {0x84, "EXT4"}, {0x92, "NEWOBJ_EX"}};

class Interpreter {
 public:
  Interpreter(std::span<const std::byte> bytes, const std::string& name)
      : bytes_(bytes.first(std::min(bytes.size(), kMostBytes))), name_(name) {}

  Pickle run() {
    if (byte() != kProto) {
      refuse("does not begin with PROTO");
    }
    const std::uint8_t protocol = byte();
    if (protocol < 2 || protocol > 5) {
      refuse(fmt::format("has protocol {}, 2 to 5 are read", protocol));
    }
    for (std::uint8_t opcode = byte(); opcode != kStop; opcode = byte()) {
      step(opcode);
    }
    pickle_.root = pop();
    pickle_.bytes = position_;
    return std::move(pickle_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw UserError(
        fmt::format("{}: the pickle in it {} (before its byte {}); give a file that "
                    "torch.save(vector, file) wrote",
                    name_, what, position_));
  }

  [[noreturn]] void refuse_code(const std::string& what) const {
    throw UserError(
        fmt::format("{}: a pickle with code in it: it {}; no code was run, and only plain "
                    "tensors are read; do not load it elsewhere",
                    name_, what));
  }

  std::span<const std::byte> take(std::size_t count) {
    if (count > bytes_.size() - position_) {
      refuse(fmt::format("is cut short, or longer than {} bytes", kMostBytes));
    }
    const auto taken = bytes_.subspan(position_, count);
    position_ += count;
    return taken;
  }

  std::uint8_t byte() { return static_cast<std::uint8_t>(take(1)[0]); }

  template <typename Number>
  Number number() {
    return number_at<Number>(take(sizeof(Number)), 0);
  }

  std::string text(std::size_t count) { return std::string(text_of(take(count))); }

  std::string line() {
    const auto rest = bytes_.subspan(position_);
    const auto end = std::find(rest.begin(), rest.end(), std::byte{'\n'});
    std::string result = text(static_cast<std::size_t>(end - rest.begin()));
    take(1);
    return result;
  }

  PickleValue& at(PickleIndex index) { return pickle_.values[index]; }

  void push(PickleKind kind, std::int64_t integer = 0, std::string value_text = {},
            std::vector<PickleIndex> items = {}) {
    if (pickle_.values.size() == kMostValues) {
      refuse(fmt::format("holds more than {} values", kMostValues));
    }
    count_items(items.size());
    stack_.push_back(static_cast<PickleIndex>(pickle_.values.size()));
    pickle_.values.push_back({kind, integer, std::move(value_text), std::move(items), 0});
  }

  void count_items(std::size_t more) {
    if (more > kMostPickleItems - items_) {
      refuse(fmt::format("holds more than {} items in tuples, lists and dictionaries",
                         kMostPickleItems));
    }
    items_ += more;
  }

  // Returns the number of values above the last mark.
  std::size_t available() const { return stack_.size() - (marks_.empty() ? 0 : marks_.back()); }

  PickleIndex top() const {
    if (available() == 0) {
      refuse("takes a value that is missing");
    }
    return stack_.back();
  }

  PickleIndex pop() {
    const PickleIndex index = top();
    stack_.pop_back();
    return index;
  }

  std::vector<PickleIndex> pop_last(std::size_t count) {
    if (available() < count) {
      refuse("takes a value that is missing");
    }
    const std::vector<PickleIndex> items(stack_.end() - static_cast<std::ptrdiff_t>(count),
                                         stack_.end());
    stack_.resize(stack_.size() - count);
    return items;
  }

  std::vector<PickleIndex> pop_to_mark() {
    if (marks_.empty()) {
      refuse("returns to a mark that is missing");
    }
    std::vector<PickleIndex> items = pop_last(available());
    marks_.pop_back();
    return items;
  }

  void extend(PickleKind kind, const std::vector<PickleIndex>& items) {
    PickleValue& target = at(top());
    if (target.kind != kind || (kind == PickleKind::kDictionary && items.size() % 2 != 0)) {
      refuse("adds to something that is not a list or dictionary");
    }
    count_items(items.size());
    target.items.insert(target.items.end(), items.begin(), items.end());
  }

  void push_large_or_integer() {
    const std::string digits = text(byte());
    if (digits.size() > sizeof(std::int64_t)) {
      push(PickleKind::kLargeInteger, 0, digits);
      return;
    }
    const bool is_negative = !digits.empty() && (static_cast<std::uint8_t>(digits.back()) & 0x80);
    std::int64_t value = is_negative ? -1 : 0;
    std::memcpy(&value, digits.data(), digits.size());
    push(PickleKind::kInteger, value);
  }

  void push_real() {
    std::array<std::byte, sizeof(double)> bytes{};
    const auto big_endian = take(bytes.size());
    std::reverse_copy(big_endian.begin(), big_endian.end(), bytes.begin());
    push(PickleKind::kReal);
    at(top()).real = number_at<double>(bytes, 0);
  }

  void push_global(const std::string& module, const std::string& global_name) {
    std::string full = module + "." + global_name;
    if (std::find(std::begin(kGlobals), std::end(kGlobals), full) != std::end(kGlobals)) {
      push(PickleKind::kGlobal, 0, std::move(full));
      return;
    }
    const bool is_number_type =
        module == "torch" &&
        (global_name.ends_with("Storage") ||
         std::any_of(std::begin(kNumberTypeNames), std::end(kNumberTypeNames),
                     [&](std::string_view type) { return global_name.starts_with(type); }));
    if (is_number_type) {
      refuse(
          fmt::format("holds numbers of the kind {}; float32, float64, float16, bfloat16, "
                      "float8_e4m3fn and float8_e5m2 are read",
                      printable(full)));
    }
    const auto* other =
        std::find_if(std::begin(kOtherTensors), std::end(kOtherTensors),
                     [&](const OtherTensor& known) { return known.global == full; });
    if (other != std::end(kOtherTensors)) {
      throw UserError(fmt::format("{}: the pickle in it holds {} ({}); save {} by torch.save",
                                  name_, other->what, full, other->remedy));
    }
    refuse_code(fmt::format("asks for {}", printable(full)));
  }

  void stack_global() {
    const std::vector<PickleIndex> names = pop_last(2);
    const PickleValue& module = at(names[0]);
    const PickleValue& global_name = at(names[1]);
    if (module.kind != PickleKind::kText || global_name.kind != PickleKind::kText) {
      refuse("names a global by something that is not a text");
    }
    push_global(std::string(module.text), std::string(global_name.text));
  }

  void reduce() {
    const PickleIndex arguments_index = pop();
    const PickleValue& function = at(pop());
    if (function.kind != PickleKind::kGlobal) {
      refuse("calls something that is not a function");
    }
    if (at(arguments_index).kind != PickleKind::kTuple) {
      refuse("calls a function with something that is not a tuple");
    }
    const std::vector<PickleIndex>& arguments = at(arguments_index).items;
    if (function.text == kOrderedDict && arguments.empty()) {
      push(PickleKind::kDictionary);
    } else if (function.text == kRebuildTensor || function.text == kRebuildTypedTensor) {
      push(PickleKind::kTensor, /*integer=*/function.text == kRebuildTypedTensor ? 1 : 0, {},
           arguments);
    } else if (function.text == kRebuildParameter && !arguments.empty() &&
               at(arguments[0]).kind == PickleKind::kTensor) {
      stack_.push_back(arguments[0]);
    } else {
      refuse(fmt::format("calls {} with arguments of a wrong kind", function.text));
    }
  }

  void put(std::uint32_t slot) { memo_[slot] = top(); }

  void get(std::uint32_t slot) {
    const auto found = memo_.find(slot);
    if (found == memo_.end()) {
      refuse(fmt::format("uses value {} before it is defined", slot));
    }
    stack_.push_back(found->second);
  }

  void step(std::uint8_t opcode) {
    switch (opcode) {
      case kMark:
        marks_.push_back(stack_.size());
        return;
      case kNone:
        return push(PickleKind::kNone);
      case kNewTrue:
      case kNewFalse:
        return push(PickleKind::kBoolean, opcode == kNewTrue ? 1 : 0);
      case kBinInt:
        return push(PickleKind::kInteger, number<std::int32_t>());
      case kBinInt1:
        return push(PickleKind::kInteger, byte());
      case kBinInt2:
        return push(PickleKind::kInteger, number<std::uint16_t>());
      case kLong1:
        return push_large_or_integer();
      case kBinFloat:
        return push_real();
      case kBinUnicode:
        return push(PickleKind::kText, 0, text(number<std::uint32_t>()));
      case kShortBinUnicode:
        return push(PickleKind::kText, 0, text(byte()));
      case kEmptyTuple:
        return push(PickleKind::kTuple);
      case kTuple1:
      case kTuple2:
      case kTuple3:
        return push(PickleKind::kTuple, 0, {},
                    pop_last(static_cast<std::size_t>(opcode - kTuple1 + 1)));
      case kTuple:
        return push(PickleKind::kTuple, 0, {}, pop_to_mark());
      case kEmptyList:
        return push(PickleKind::kList);
      case kAppend:
        return extend(PickleKind::kList, pop_last(1));
      case kAppends:
        return extend(PickleKind::kList, pop_to_mark());
      case kEmptyDict:
        return push(PickleKind::kDictionary);
      case kSetItem:
        return extend(PickleKind::kDictionary, pop_last(2));
      case kSetItems:
        return extend(PickleKind::kDictionary, pop_to_mark());
      case kBinPut:
        return put(byte());
      case kLongBinPut:
        return put(number<std::uint32_t>());
      case kMemoize:
        return put(static_cast<std::uint32_t>(memo_.size()));
      case kBinGet:
        return get(byte());
      case kLongBinGet:
        return get(number<std::uint32_t>());
      case kFrame:
        take(sizeof(std::uint64_t));  // a hint for buffered readers
        return;
      case kGlobal: {
        const std::string module = line();
        return push_global(module, line());
      }
      case kStackGlobal:
        return stack_global();
      case kReduce:
        return reduce();
      case kBinPersId: {
        const PickleIndex tuple = pop();
        if (at(tuple).kind != PickleKind::kTuple) {
          refuse("names a storage by something that is not a tuple");
        }
        return push(PickleKind::kStorage, 0, {}, at(tuple).items);
      }
      default:
        refuse_opcode(opcode);
    }
  }

  [[noreturn]] void refuse_opcode(std::uint8_t opcode) const {
    for (const auto& [code, known] : kCodeOpcodes) {
      if (code == opcode) {
        refuse_code(fmt::format("uses the opcode {}", known));
      }
    }
    refuse(
        fmt::format("uses the opcode {:#04x}, which torch.save never needs for a tensor", opcode));
  }

  std::span<const std::byte> bytes_;
  const std::string& name_;
  std::size_t position_ = 0;
  std::size_t items_ = 0;  // of all values
  Pickle pickle_;
  std::vector<PickleIndex> stack_;
  std::vector<std::size_t> marks_;  // sizes of the stack
  std::map<std::uint32_t, PickleIndex> memo_;
};

}  // namespace

Pickle read_pickle(std::span<const std::byte> bytes, const std::string& name) {
  return Interpreter(bytes, name).run();
}

}  // namespace bipo
