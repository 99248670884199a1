// A thin layer over the serial HDF5 C API: owned handles and one checked function per thing we
// store.
//
// A failed HDF5 call throws EnvironmentError with the call and HDF5's own message.  The read
// functions throw UserError for an object that is there but has another type or shape than asked
// for.  They follow no link out of the file and use no filter plugin.
#pragma once

#include <hdf5.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace bipo::hdf5 {

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

// Keeps HDF5 from printing its error stack to stderr while it lives; our exceptions carry it.
class ErrorPrintingOff {
 public:
  ErrorPrintingOff();
  ErrorPrintingOff(const ErrorPrintingOff&) = delete;
  ErrorPrintingOff& operator=(const ErrorPrintingOff&) = delete;
  ~ErrorPrintingOff();

 private:
  H5E_auto2_t function_ = nullptr;
  void* data_ = nullptr;
};

enum class Scalar { kInt8, kInt32, kInt64, kUint64, kFloat32, kFloat64 };

// One column of a table, as a member of the row struct in memory.
struct Column {
  const char* name;
  std::size_t offset;  // in the row struct, bytes
  Scalar type;
  const char* unit;
  const char* meaning;
};

// A file that exists in memory only, so that writing it meets no disk error inside HDF5.
Handle create_memory_file();

// The bytes of a memory file, as they would lie on disk after closing it.
std::vector<std::byte> file_image(const Handle& file);

// Read only, without a lock, so that file systems that know no locks can be read too.
Handle open_file(const std::string& path);

Handle create_group(const Handle& parent, const std::string& name);
Handle open_group(const Handle& parent, const std::string& name);

// Attributes are int64 scalars and variable-length UTF-8 texts.

void write_attribute(const Handle& object, const std::string& name, std::int64_t value);
void write_attribute(const Handle& object, const std::string& name, const std::string& value);
std::int64_t read_integer_attribute(const Handle& object, const std::string& name);
std::string read_text_attribute(const Handle& object, const std::string& name);

// Datasets are little-endian on disk, with checksums; the first dimension can grow.

// `data` is row-major, product(dims) elements; no dims make a scalar.  Returns the dataset, for
// attributes.
Handle write_array(const Handle& parent, const std::string& name, Scalar type,
                   const std::vector<hsize_t>& dims, const void* data);

// A 1-D compound table of `count` rows of `row_size` bytes.
Handle write_table(const Handle& parent, const std::string& name,
                   const std::vector<Column>& columns, std::size_t row_size, const void* rows,
                   std::size_t count);

// A column that is known at run time only, with one value for each row.
struct ValueColumn {
  std::string name;
  std::variant<std::vector<std::string>, std::vector<std::int64_t>, std::vector<std::uint64_t>,
               std::vector<double>>
      values;
};

// A 1-D compound table of `count` rows.  Texts become UTF-8 of fixed length, the column's longest,
// padded with NULs.  Throws BugError for a column of another length.
Handle write_columns(const Handle& parent, const std::string& name,
                     const std::vector<ValueColumn>& columns, std::size_t count);

// Copies a whole file, the attributes of its root included, to the new group `name`.  Links that
// lead out of the file are copied as links.
void copy_file(const Handle& file, const Handle& parent, const std::string& name);

// Copies the dataset or group `name` of one file or group into another, under the same name.
void copy_object(const Handle& from, const std::string& name, const Handle& to);

template <typename T>
struct Array {
  std::vector<hsize_t> dims;
  std::vector<T> values;  // row-major
};

// A dataset opened and checked for reading: its raw data lie in this file and are as many as it
// claims.
struct OpenDataset {
  Handle handle;
  std::string name;
  std::vector<hsize_t> dims;
  std::size_t count = 0;  // product(dims)
};

OpenDataset open_array(const Handle& parent, const std::string& name, Scalar type,
                       std::size_t rank);
OpenDataset open_table(const Handle& parent, const std::string& name,
                       const std::vector<Column>& columns);
void read_elements(const OpenDataset& array, Scalar type, void* values);
void read_rows(const OpenDataset& table, const std::vector<Column>& columns, std::size_t row_size,
               void* rows);

// What write_columns() wrote, of the same types; texts end at their first NUL.
std::vector<ValueColumn> read_columns(const Handle& parent, const std::string& name);

template <typename T>
Array<T> read_array(const Handle& parent, const std::string& name, Scalar type, std::size_t rank) {
  const OpenDataset dataset = open_array(parent, name, type, rank);
  Array<T> array{dataset.dims, std::vector<T>(dataset.count)};
  read_elements(dataset, type, array.values.data());
  return array;
}

template <typename Row>
std::vector<Row> read_table(const Handle& parent, const std::string& name,
                            const std::vector<Column>& columns) {
  const OpenDataset table = open_table(parent, name, columns);
  std::vector<Row> rows(table.count);
  read_rows(table, columns, sizeof(Row), rows.data());
  return rows;
}

}  // namespace bipo::hdf5
