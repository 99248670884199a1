// A thin layer over the serial HDF5 C API: owned handles, and one checked function for each kind of
// object that the program stores.
//
// A failed HDF5 call throws EnvironmentError with the call and HDF5's own message.  The functions
// that read throw UserError for an object that is missing or has an unexpected type or shape, and
// ContentChanged for one that does not match its checksum.  They follow no link out of the file and
// load no filter plugin.
//
// HDF5 may crash or loop on damaged metadata, and takes a moved chunk for one that was never
// written.  Three things guard against it: the seal of the file (file_seal.hpp), which is checked
// before HDF5 sees the file; a trial process (trial_process.hpp), which reads a file without a seal
// first; and checksums of what is stored, as attributes "checksum", which copies of the file keep:
//
//   of a dataset  the Checksum of "NAME[D0,D1]" (its name and dimensions) and of its elements
//   of the root   "CHECKSUM:NAME,NAME,...": the attributes that it covers, and the Checksum of
//                 "NAME\0VALUE\0" of each, numbers in decimal
//
// Files of earlier versions have none.
#pragma once

#include <hdf5.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <mutex>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace bipo::hdf5 {

// What was stored is not what was written: damage, or a change by another program.
class ContentChanged : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The file is sound, but holds something that its next version could not hold; what() says what.
class CannotKeep : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Owns one HDF5 identifier.
class Handle {
 public:
  using Closer = herr_t (*)(hid_t);

  Handle() = default;
  Handle(hid_t id, Closer close) : id_(id), close_(close) {}
  Handle(Handle&& other) noexcept;
  Handle& operator=(Handle&& other) noexcept;
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle();

  hid_t id() const { return id_; }

 private:
  hid_t id_ = H5I_INVALID_HID;
  Closer close_ = nullptr;
};

// Keeps HDF5 from printing its error stack to stderr while the object lives; exceptions carry it.
// Other threads that make one wait until it is gone: the library is for one thread at a time, so
// whoever uses it on a thread that is not alone makes one first and lets it outlive every Handle.
class ErrorPrintingOff {
 public:
  ErrorPrintingOff();
  ErrorPrintingOff(const ErrorPrintingOff&) = delete;
  ErrorPrintingOff& operator=(const ErrorPrintingOff&) = delete;
  ~ErrorPrintingOff();

 private:
  std::unique_lock<std::recursive_mutex> lock_;
  H5E_auto2_t function_ = nullptr;
  void* data_ = nullptr;
};

// Creates a file that exists in memory only, so that writing it meets no disk error inside HDF5.
Handle create_memory_file();

// Returns the bytes of a memory file as they would be on disk after closing it, without a seal.
std::vector<std::byte> file_image(const Handle& file);

// Returns the same with its seal: what is written to disk.
std::vector<std::byte> sealed_image(const Handle& file);

// Opens an image for reading; copies it.
Handle open_image(std::span<const std::byte> image);

// Opens a file for reading, without a lock, so that file systems without locks can be read too.
// HDF5 gets the file unchecked: read files by a Reading.
Handle open_file(const std::string& path);

// Returns its bytes, with what follows the end that HDF5 knows.
hsize_t file_size(const Handle& file);

// Whether the group, or the root of the file, has a link of that name.
bool has_link(const Handle& parent, const std::string& name);

Handle create_group(const Handle& parent, const std::string& name);
Handle open_group(const Handle& parent, const std::string& name);

// Copies a whole file, including the attributes of its root, to the new group `name`.  Links that
// lead out of the file are copied as links.
void copy_file(const Handle& file, const Handle& parent, const std::string& name);

// Copies the group `from_name` to the new group `to_name`.
void copy_group(const Handle& from, const std::string& from_name, const Handle& to,
                const std::string& to_name);

// Reads a 1-D dataset, and throws ContentChanged unless it matches its checksum.
void check_dataset(const Handle& parent, const std::string& name);

// A kind of file: how it identifies itself, and what messages say about it.
struct FileKind {
  const char* noun;        // e.g. "a run file"
  const char* command;     // the command that writes it; null: a missing file counts as damaged
  const char* kind;        // its attribute "kind"; null: it has none
  std::int64_t schema;     // schema_version that is written, and the newest that is read
  const char* if_foreign;  // ends the message about a file of another kind or schema
  const char* if_damaged;  // ends the message about a damaged file
};

// Writes schema_version and kind to the root.
void write_identity(const Handle& file, const FileKind& kind);

// Writes the checksum of all attributes that the root has by now.
void write_attributes_checksum(const Handle& file);

// See Reading, which calls both.
void add_trial(const char* name, const FileKind& kind,
               const std::function<void(const Handle& file)>& read);
void read_file(const std::filesystem::path& path, const FileKind& kind, const char* trial,
               const std::function<void(const Handle& file)>& read);

// How files of one kind are read: in a trial process first where they have no seal.  An object of
// namespace scope; its name is that of the trial.
template <typename Content>
class Reading {
 public:
  using Function = Content (*)(const Handle& file);

  // `kind` must outlive the object.
  Reading(const char* name, const FileKind& kind, Function read)
      : name_(name), kind_(kind), read_(read) {
    add_trial(name, kind, [read](const Handle& file) { read(file); });
  }

  // Checks the file's bytes and identity, and returns what the function makes of it.  Throws
  // UserError, naming the file and the remedy, for a file that is missing, unreadable, damaged,
  // locked by another process (where HDF5_USE_FILE_LOCKING asks for locks), of another kind or a
  // newer schema or HDF5 format, and where the function throws any of the errors named above;
  // EnvironmentError where the trial process cannot be started.
  Content from(const std::filesystem::path& path) const {
    std::optional<Content> content;
    read_file(path, kind_, name_, [&](const Handle& file) { content.emplace(read_(file)); });
    return std::move(*content);
  }

 private:
  const char* name_;
  const FileKind& kind_;
  Function read_;
};

// Attributes are int64 scalars and variable-length UTF-8 texts.

void write_attribute(const Handle& object, const std::string& name, std::int64_t value);
void write_attribute(const Handle& object, const std::string& name, const std::string& value);
// Returns the names of the object's attributes, in their order.
std::vector<std::string> attribute_names(const Handle& object);

std::int64_t read_integer_attribute(const Handle& object, const std::string& name);
std::string read_text_attribute(const Handle& object, const std::string& name);

// An attribute that holds a member of T.
template <typename T>
struct Attribute {
  const char* name;
  std::variant<std::int64_t T::*, std::string T::*> member;
  std::int64_t minimum = std::numeric_limits<std::int64_t>::min();  // checked by the reader of T
};

template <typename T>
void write_attributes(const Handle& object, std::span<const Attribute<T>> attributes,
                      const T& values) {
  for (const Attribute<T>& attribute : attributes) {
    std::visit([&](auto member) { write_attribute(object, attribute.name, values.*member); },
               attribute.member);
  }
}

template <typename T>
void read_attributes(const Handle& object, std::span<const Attribute<T>> attributes, T& values) {
  for (const Attribute<T>& attribute : attributes) {
    if (const auto* integer = std::get_if<0>(&attribute.member)) {
      values.*(*integer) = read_integer_attribute(object, attribute.name);
    } else {
      values.*std::get<1>(attribute.member) = read_text_attribute(object, attribute.name);
    }
  }
}

// Datasets are little-endian on disk, with checksums of their chunks and of the whole; their first
// dimension can grow.

enum class Type { kInt8, kInt32, kInt64, kUint64, kFloat32, kFloat64, kText };

template <typename T>
constexpr Type type_for() {
  constexpr bool kIsText = std::is_same_v<T, std::string>;
  static_assert(kIsText || std::is_same_v<T, std::int8_t> || std::is_same_v<T, std::int32_t> ||
                std::is_same_v<T, std::int64_t> || std::is_same_v<T, std::uint64_t> ||
                std::is_same_v<T, float> || std::is_same_v<T, double>);
  if constexpr (kIsText) {
    return Type::kText;
  } else if constexpr (std::is_floating_point_v<T>) {
    return sizeof(T) == sizeof(float) ? Type::kFloat32 : Type::kFloat64;
  } else if constexpr (std::is_unsigned_v<T>) {
    return Type::kUint64;
  } else {
    return sizeof(T) == 1 ? Type::kInt8 : sizeof(T) == 4 ? Type::kInt32 : Type::kInt64;
  }
}

// Numbers of one type, row-major; an array without dimensions is a scalar.
template <typename T>
struct Array {
  std::vector<hsize_t> dims;
  std::vector<T> values;  // product(dims)
};

// Stored as the attributes "units" and "dims"; a scalar has no "dims".
struct ArrayText {
  const char* units;
  const char* dims = nullptr;
};

void write_elements(const Handle& parent, const std::string& name, Type type,
                    const std::vector<hsize_t>& dims, const void* data, const ArrayText& text);

// Calls `allocate(count)` for the memory of the elements, and returns the dimensions.
std::vector<hsize_t> read_elements(const Handle& parent, const std::string& name, Type type,
                                   std::size_t rank,
                                   const std::function<void*(std::size_t count)>& allocate);

// `data`: product(dims) elements, row-major.
template <typename T>
void write_array(const Handle& parent, const std::string& name, const std::vector<hsize_t>& dims,
                 const T* data, const ArrayText& text) {
  write_elements(parent, name, type_for<T>(), dims, data, text);
}

template <typename T>
Array<T> read_array(const Handle& parent, const std::string& name, std::size_t rank) {
  Array<T> array;
  array.dims = read_elements(parent, name, type_for<T>(), rank, [&](std::size_t count) {
    array.values.resize(count);
    return array.values.data();
  });
  return array;
}

struct Column {
  std::string name;
  Type type;
  const char* unit;  // null: the table's documentation leaves the column out
  const char* meaning;
};

// `cell` returns the address of a value: a number, or a std::string for Type::kText.
void write_cells(const Handle& parent, const std::string& name, const std::vector<Column>& columns,
                 std::size_t rows,
                 const std::function<const void*(std::size_t row, std::size_t column)>& cell);

// Calls `resize(rows)`, then `cell` for the address at which to store each value.
void read_cells(const Handle& parent, const std::string& name, const std::vector<Column>& columns,
                const std::function<void(std::size_t rows)>& resize,
                const std::function<void*(std::size_t row, std::size_t column)>& cell);

// One of the numbers of a struct that takes several columns of a table.
template <typename Struct>
struct Part {
  const char* suffix;  // of the column's name
  double Struct::*member;
  const char* meaning = nullptr;  // null: that of the whole struct
};

// Describes a 1-D compound table, each column once: writes it, reads it, and documents it as a JSON
// object (column -> unit and meaning) in the table's attribute "units".  Texts are UTF-8 of fixed
// length, the column's longest, padded with NULs; reading ends them at their first NUL.
template <typename Row>
class Table {
 public:
  explicit Table(const char* name) : name_(name) {}

  // `access`: a member of Row, or a function from a row, const or not, to a reference into it.
  template <typename Access>
  Table& column(const std::string& name, const char* unit, const char* meaning, Access access) {
    using Value = std::remove_cvref_t<std::invoke_result_t<const Access&, Row&>>;
    columns_.push_back({name, type_for<Value>(), unit, meaning});
    sources_.push_back(
        [access](const Row& row) -> const void* { return &std::invoke(access, row); });
    places_.push_back([access](Row& row) -> void* { return &std::invoke(access, row); });
    return *this;
  }

  // The same for a member of a member.
  template <typename Whole, typename Value>
  Table& column(const std::string& name, const char* unit, const char* meaning, Whole Row::*whole,
                Value Whole::*member) {
    return column(
        name, unit, meaning, [=](auto& row) -> auto& { return row.*whole.*member; });
  }

  // A column for each part of a member.
  template <typename Whole>
  Table& parts(const std::string& name, const char* unit, const char* meaning, Whole Row::*whole,
               std::span<const Part<Whole>> parts) {
    for (const Part<Whole>& part : parts) {
      column(name + part.suffix, unit, part.meaning == nullptr ? meaning : part.meaning, whole,
             part.member);
    }
    return *this;
  }

  bool has_column(const std::string& name) const {
    return std::any_of(columns_.begin(), columns_.end(),
                       [&](const Column& column) { return column.name == name; });
  }

  void write(const Handle& parent, const std::vector<Row>& rows) const {
    write_cells(parent, name_, columns_, rows.size(),
                [&](std::size_t row, std::size_t column) { return sources_[column](rows[row]); });
  }

  std::vector<Row> read(const Handle& parent) const {
    std::vector<Row> rows;
    read_cells(
        parent, name_, columns_, [&](std::size_t count) { rows.resize(count); },
        [&](std::size_t row, std::size_t column) { return places_[column](rows[row]); });
    return rows;
  }

 private:
  const char* name_;
  std::vector<Column> columns_;
  std::vector<std::function<const void*(const Row&)>> sources_;  // of the columns
  std::vector<std::function<void*(Row&)>> places_;
};

}  // namespace bipo::hdf5
