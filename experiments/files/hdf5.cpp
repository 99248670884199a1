// A thin layer over the serial HDF5 C API: owned handles and one checked function per thing we
// store.
#include "experiments/files/hdf5.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <span>
#include <utility>

#include "collectives/foundation/errors.hpp"

namespace bipo::hdf5 {
namespace {

constexpr hsize_t kMostRowsPerChunk = 4096;
constexpr std::size_t kMemoryGrowth = 1 << 20;

// The innermost entry of the error stack says what really failed; the outer ones repeat it.
herr_t keep_innermost(unsigned, const H5E_error2_t* entry, void* data) {
  *static_cast<std::string*>(data) = fmt::format("{} in {}", entry->desc, entry->func_name);
  return 1;
}

[[noreturn]] void throw_failure(const char* call, const std::string& object) {
  std::string message;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_innermost, &message);
  throw EnvironmentError(fmt::format("{} failed for '{}': {}", call, object,
                                     message.empty() ? "HDF5 gives no reason" : message));
}

// HDF5 reports failure by a negative number in every signed result type.
template <typename Result>
Result check(Result result, const char* call, const std::string& object) {
  if (result < 0) {
    throw_failure(call, object);
  }
  return result;
}

Handle dataspace(const std::vector<hsize_t>& dims) {
  if (dims.empty()) {
    return {check(H5Screate(H5S_SCALAR), "H5Screate", "scalar"), H5Sclose};
  }
  std::vector<hsize_t> most = dims;
  most.front() = H5S_UNLIMITED;
  const int rank = static_cast<int>(dims.size());
  return {check(H5Screate_simple(rank, dims.data(), most.data()), "H5Screate_simple", "dims"),
          H5Sclose};
}

hid_t memory_type(Scalar type) {
  switch (type) {
    case Scalar::kInt8:
      return H5T_NATIVE_INT8;
    case Scalar::kInt32:
      return H5T_NATIVE_INT32;
    case Scalar::kInt64:
      return H5T_NATIVE_INT64;
    case Scalar::kUint64:
      return H5T_NATIVE_UINT64;
    case Scalar::kFloat32:
      return H5T_NATIVE_FLOAT;
    case Scalar::kFloat64:
      break;
  }
  return H5T_NATIVE_DOUBLE;
}

hid_t file_type(Scalar type) {
  switch (type) {
    case Scalar::kInt8:
      return H5T_STD_I8LE;
    case Scalar::kInt32:
      return H5T_STD_I32LE;
    case Scalar::kInt64:
      return H5T_STD_I64LE;
    case Scalar::kUint64:
      return H5T_STD_U64LE;
    case Scalar::kFloat32:
      return H5T_IEEE_F32LE;
    case Scalar::kFloat64:
      break;
  }
  return H5T_IEEE_F64LE;
}

const char* describe(Scalar type) {
  switch (type) {
    case Scalar::kInt8:
      return "int8";
    case Scalar::kInt32:
      return "int32";
    case Scalar::kInt64:
      return "int64";
    case Scalar::kUint64:
      return "uint64";
    case Scalar::kFloat32:
      return "float32";
    case Scalar::kFloat64:
      break;
  }
  return "float64";
}

Handle compound_type(std::size_t size) {
  return {check(H5Tcreate(H5T_COMPOUND, size), "H5Tcreate", "table row"), H5Tclose};
}

Handle row_in_memory(const std::vector<Column>& columns, std::size_t row_size) {
  Handle type = compound_type(row_size);
  for (const Column& column : columns) {
    check(H5Tinsert(type.id(), column.name, column.offset, memory_type(column.type)), "H5Tinsert",
          column.name);
  }
  return type;
}

Handle row_in_file(const std::vector<Column>& columns) {
  std::size_t size = 0;
  for (const Column& column : columns) {
    size += H5Tget_size(file_type(column.type));
  }
  Handle type = compound_type(size);
  std::size_t offset = 0;
  for (const Column& column : columns) {
    const hid_t member = file_type(column.type);
    check(H5Tinsert(type.id(), column.name, offset, member), "H5Tinsert", column.name);
    offset += H5Tget_size(member);
  }
  return type;
}

// Chunked, because only chunks can grow and carry checksums; a saved file is rewritten whole, so
// that the chunk can be as small as its rows.
Handle creation_properties(const std::vector<hsize_t>& dims) {
  Handle properties(check(H5Pcreate(H5P_DATASET_CREATE), "H5Pcreate", "dataset"), H5Pclose);
  if (!dims.empty()) {
    std::vector<hsize_t> chunk = dims;
    const hsize_t most_rows = dims.size() == 1 ? kMostRowsPerChunk : 1;
    chunk.front() = std::clamp<hsize_t>(dims.front(), 1, most_rows);
    check(H5Pset_chunk(properties.id(), static_cast<int>(chunk.size()), chunk.data()),
          "H5Pset_chunk", "dataset");
    check(H5Pset_fletcher32(properties.id()), "H5Pset_fletcher32", "dataset");
  }
  return properties;
}

Handle create_dataset(const Handle& parent, const std::string& name, hid_t type,
                      const std::vector<hsize_t>& dims) {
  const Handle space = dataspace(dims);
  const Handle properties = creation_properties(dims);
  return {check(H5Dcreate2(parent.id(), name.c_str(), type, space.id(), H5P_DEFAULT,
                           properties.id(), H5P_DEFAULT),
                "H5Dcreate2", name),
          H5Dclose};
}

void write_data(const Handle& dataset, const std::string& name, hid_t type, const void* data) {
  check(H5Dwrite(dataset.id(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data), "H5Dwrite", name);
}

void read_data(const OpenDataset& dataset, hid_t type, void* data) {
  check(H5Dread(dataset.handle.id(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data), "H5Dread",
        dataset.name);
}

// A soft or external link could lead anywhere.
void require_hard_link(const Handle& parent, const std::string& name) {
  if (check(H5Lexists(parent.id(), name.c_str(), H5P_DEFAULT), "H5Lexists", name) == 0) {
    throw UserError(fmt::format("'{}' is missing", name));
  }
  H5L_info_t info{};
  check(H5Lget_info(parent.id(), name.c_str(), &info, H5P_DEFAULT), "H5Lget_info", name);
  if (info.type != H5L_TYPE_HARD) {
    throw UserError(fmt::format("'{}' is a link to somewhere else, which is not followed", name));
  }
}

// The layouts and filters that our writer uses; any other could read other files or load plugins.
void require_own_layout(const Handle& dataset, const std::string& name, std::size_t rank) {
  const Handle properties(check(H5Dget_create_plist(dataset.id()), "H5Dget_create_plist", name),
                          H5Pclose);
  const H5D_layout_t layout = check(H5Pget_layout(properties.id()), "H5Pget_layout", name);
  const int filters = check(H5Pget_nfilters(properties.id()), "H5Pget_nfilters", name);
  const int sources = check(H5Pget_external_count(properties.id()), "H5Pget_external_count", name);
  const bool known_layout = layout == (rank == 0 ? H5D_CONTIGUOUS : H5D_CHUNKED);
  const bool known_filters =
      filters == 0 ||
      (filters == 1 && H5Pget_filter_by_id2(properties.id(), H5Z_FILTER_FLETCHER32, nullptr,
                                            nullptr, nullptr, 0, nullptr, nullptr) >= 0);
  if (!known_layout || !known_filters || sources != 0) {
    throw UserError(fmt::format("'{}' is stored in a way that bipo-dist never writes", name));
  }
}

// Keeps damaged dimensions from asking for memory that no data stand behind.
std::size_t checked_count(const Handle& dataset, const std::string& name,
                          const std::vector<hsize_t>& dims, std::size_t element_size) {
  hsize_t file_size = 0;
  const Handle file(check(H5Iget_file_id(dataset.id()), "H5Iget_file_id", name), H5Fclose);
  check(H5Fget_filesize(file.id(), &file_size), "H5Fget_filesize", name);
  const hsize_t stored = std::min(file_size, H5Dget_storage_size(dataset.id()));
  hsize_t count = 1;
  for (const hsize_t extent : dims) {
    if (extent != 0 && count > stored / element_size / extent) {
      throw UserError(fmt::format("'{}' claims more elements than the file holds", name));
    }
    count *= extent;
  }
  return count;
}

OpenDataset open_dataset(const Handle& parent, const std::string& name, std::size_t rank) {
  require_hard_link(parent, name);
  OpenDataset opened;
  opened.name = name;
  opened.handle =
      Handle(check(H5Dopen2(parent.id(), name.c_str(), H5P_DEFAULT), "H5Dopen2", name), H5Dclose);
  const Handle space(check(H5Dget_space(opened.handle.id()), "H5Dget_space", name), H5Sclose);
  const int found =
      check(H5Sget_simple_extent_ndims(space.id()), "H5Sget_simple_extent_ndims", name);
  if (static_cast<std::size_t>(found) != rank) {
    throw UserError(fmt::format("'{}' has {} dimensions, expected {}", name, found, rank));
  }
  require_own_layout(opened.handle, name, rank);
  opened.dims.resize(rank);
  check(H5Sget_simple_extent_dims(space.id(), opened.dims.data(), nullptr),
        "H5Sget_simple_extent_dims", name);
  return opened;
}

Handle type_of(const OpenDataset& dataset) {
  return {check(H5Dget_type(dataset.handle.id()), "H5Dget_type", dataset.name), H5Tclose};
}

void require_type(hid_t found, Scalar expected, const std::string& what) {
  if (check(H5Tequal(found, file_type(expected)), "H5Tequal", what) == 0) {
    throw UserError(fmt::format("{} is not little-endian {}", what, describe(expected)));
  }
}

void require_column(const Handle& row, const Column& column, const std::string& table) {
  const std::string what = fmt::format("column '{}' of '{}'", column.name, table);
  const int index = H5Tget_member_index(row.id(), column.name);
  if (index < 0) {
    throw UserError(fmt::format("{} is missing", what));
  }
  const Handle member(
      check(H5Tget_member_type(row.id(), static_cast<unsigned>(index)), "H5Tget_member_type", what),
      H5Tclose);
  require_type(member.id(), column.type, what);
}

Handle text_type() {
  Handle type(check(H5Tcopy(H5T_C_S1), "H5Tcopy", "text"), H5Tclose);
  check(H5Tset_size(type.id(), H5T_VARIABLE), "H5Tset_size", "text");
  check(H5Tset_cset(type.id(), H5T_CSET_UTF8), "H5Tset_cset", "text");
  return type;
}

Handle fixed_text_type(std::size_t size) {
  Handle type(check(H5Tcopy(H5T_C_S1), "H5Tcopy", "text"), H5Tclose);
  check(H5Tset_size(type.id(), size), "H5Tset_size", "text");
  check(H5Tset_cset(type.id(), H5T_CSET_UTF8), "H5Tset_cset", "text");
  check(H5Tset_strpad(type.id(), H5T_STR_NULLPAD), "H5Tset_strpad", "text");
  return type;
}

template <typename T>
constexpr Scalar kScalarOf = Scalar::kFloat64;
template <>
constexpr Scalar kScalarOf<std::int64_t> = Scalar::kInt64;
template <>
constexpr Scalar kScalarOf<std::uint64_t> = Scalar::kUint64;

// The values of one column, as bytes to put into the rows.
struct EncodedColumn {
  std::string name;
  Handle in_file;
  Handle in_memory;              // of the same size
  std::vector<std::byte> bytes;  // `size` for each row
  std::size_t size = 0;
};

EncodedColumn encode(const std::string& name, const std::vector<std::string>& texts) {
  std::size_t longest = 1;  // HDF5 knows no empty type
  for (const std::string& text : texts) {
    longest = std::max(longest, text.size());
  }
  EncodedColumn column{name, fixed_text_type(longest), fixed_text_type(longest), {}, longest};
  column.bytes.resize(texts.size() * longest);
  for (std::size_t row = 0; row < texts.size(); ++row) {
    std::memcpy(column.bytes.data() + row * longest, texts[row].data(), texts[row].size());
  }
  return column;
}

template <typename T>
EncodedColumn encode(const std::string& name, const std::vector<T>& values) {
  constexpr Scalar type = kScalarOf<T>;
  EncodedColumn column{name,
                       Handle(check(H5Tcopy(file_type(type)), "H5Tcopy", name), H5Tclose),
                       Handle(check(H5Tcopy(memory_type(type)), "H5Tcopy", name), H5Tclose),
                       {},
                       sizeof(T)};
  const auto bytes = std::as_bytes(std::span(values));
  column.bytes.assign(bytes.begin(), bytes.end());
  return column;
}

Handle packed_row(const std::vector<EncodedColumn>& columns, Handle EncodedColumn::*type,
                  std::size_t row_size) {
  Handle row = compound_type(row_size);
  std::size_t offset = 0;
  for (const EncodedColumn& column : columns) {
    check(H5Tinsert(row.id(), column.name.c_str(), offset, (column.*type).id()), "H5Tinsert",
          column.name);
    offset += column.size;
  }
  return row;
}

std::vector<std::byte> interleave(const std::vector<EncodedColumn>& columns, std::size_t row_size,
                                  std::size_t count) {
  std::vector<std::byte> rows(row_size * count);
  std::size_t offset = 0;
  for (const EncodedColumn& column : columns) {
    for (std::size_t row = 0; row < count; ++row) {
      std::memcpy(rows.data() + row * row_size + offset, column.bytes.data() + row * column.size,
                  column.size);
    }
    offset += column.size;
  }
  return rows;
}

// A member of a table's rows as they lie in the file.
struct StoredColumn {
  std::string name;
  std::size_t offset = 0;
  std::size_t size = 0;
  std::optional<Scalar> type;  // none: a text of fixed length
};

std::optional<Scalar> value_type(hid_t type, const std::string& what) {
  for (const Scalar scalar : {Scalar::kInt64, Scalar::kUint64, Scalar::kFloat64}) {
    if (check(H5Tequal(type, file_type(scalar)), "H5Tequal", what) > 0) {
      return scalar;
    }
  }
  if (H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) != 0) {
    throw UserError(fmt::format("{} is no text of fixed length and no 64-bit number", what));
  }
  return std::nullopt;
}

// Throws UserError for members that do not lie in the row one after the other.
std::vector<StoredColumn> stored_columns(const Handle& row, const std::string& table) {
  std::vector<StoredColumn> columns;
  std::size_t offset = 0;
  const int members = check(H5Tget_nmembers(row.id()), "H5Tget_nmembers", table);
  for (int i = 0; i < members; ++i) {
    const auto index = static_cast<unsigned>(i);
    char* text = H5Tget_member_name(row.id(), index);
    const std::string name = text == nullptr ? "" : text;
    H5free_memory(text);
    const std::string what = fmt::format("column '{}' of '{}'", name, table);
    const Handle member(check(H5Tget_member_type(row.id(), index), "H5Tget_member_type", what),
                        H5Tclose);
    const std::size_t size = H5Tget_size(member.id());
    if (H5Tget_member_offset(row.id(), index) != offset) {
      throw UserError(fmt::format("{} does not follow the one before it", what));
    }
    columns.push_back({name, offset, size, value_type(member.id(), what)});
    offset += size;
  }
  if (offset != H5Tget_size(row.id())) {
    throw UserError(fmt::format("the columns of '{}' do not fill its rows", table));
  }
  return columns;
}

template <typename T>
std::vector<T> decode_numbers(const StoredColumn& column, std::span<const std::byte> rows,
                              std::size_t row_size) {
  std::vector<T> values(rows.size() / row_size);
  for (std::size_t row = 0; row < values.size(); ++row) {
    std::memcpy(&values[row], rows.data() + row * row_size + column.offset, sizeof(T));
  }
  return values;
}

std::vector<std::string> decode_texts(const StoredColumn& column, std::span<const std::byte> rows,
                                      std::size_t row_size) {
  std::vector<std::string> texts;
  for (std::size_t row = 0; row < rows.size() / row_size; ++row) {
    const auto* begin = reinterpret_cast<const char*>(rows.data() + row * row_size + column.offset);
    texts.emplace_back(begin, std::find(begin, begin + column.size, '\0'));
  }
  return texts;
}

// The machine is little-endian as the file is: a row's bytes are its values.
decltype(ValueColumn::values) decode(const StoredColumn& column, std::span<const std::byte> rows,
                                     std::size_t row_size) {
  if (!column.type) {
    return decode_texts(column, rows, row_size);
  }
  switch (*column.type) {
    case Scalar::kInt64:
      return decode_numbers<std::int64_t>(column, rows, row_size);
    case Scalar::kUint64:
      return decode_numbers<std::uint64_t>(column, rows, row_size);
    default:
      return decode_numbers<double>(column, rows, row_size);
  }
}

void write_attribute_data(const Handle& object, const std::string& name, hid_t in_file,
                          hid_t in_memory, const void* data) {
  const Handle space = dataspace({});
  const Handle attribute(
      check(H5Acreate2(object.id(), name.c_str(), in_file, space.id(), H5P_DEFAULT, H5P_DEFAULT),
            "H5Acreate2", name),
      H5Aclose);
  check(H5Awrite(attribute.id(), in_memory, data), "H5Awrite", name);
}

Handle open_scalar_attribute(const Handle& object, const std::string& name) {
  if (check(H5Aexists(object.id(), name.c_str()), "H5Aexists", name) == 0) {
    throw UserError(fmt::format("attribute '{}' is missing", name));
  }
  Handle attribute(check(H5Aopen(object.id(), name.c_str(), H5P_DEFAULT), "H5Aopen", name),
                   H5Aclose);
  const Handle space(check(H5Aget_space(attribute.id()), "H5Aget_space", name), H5Sclose);
  if (H5Sget_simple_extent_type(space.id()) != H5S_SCALAR) {
    throw UserError(fmt::format("attribute '{}' is not a scalar", name));
  }
  return attribute;
}

}  // namespace

Handle::Handle(Handle&& other) noexcept
    : id_(std::exchange(other.id_, H5I_INVALID_HID)), close_(other.close_) {
}

Handle& Handle::operator=(Handle&& other) noexcept {
  std::swap(id_, other.id_);
  std::swap(close_, other.close_);
  return *this;
}

// Nothing hangs on the result: data are on disk only after the caller's own write and fsync.
Handle::~Handle() {
  if (id_ >= 0) {
    close_(id_);
  }
}

ErrorPrintingOff::ErrorPrintingOff() {
  H5Eget_auto2(H5E_DEFAULT, &function_, &data_);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

ErrorPrintingOff::~ErrorPrintingOff() {
  H5Eset_auto2(H5E_DEFAULT, function_, data_);
}

Handle create_memory_file() {
  const Handle access(check(H5Pcreate(H5P_FILE_ACCESS), "H5Pcreate", "file access"), H5Pclose);
  const hbool_t write_to_disk = 0;
  check(H5Pset_fapl_core(access.id(), kMemoryGrowth, write_to_disk), "H5Pset_fapl_core", "memory");
  return {
      check(H5Fcreate("memory", H5F_ACC_TRUNC, H5P_DEFAULT, access.id()), "H5Fcreate", "memory"),
      H5Fclose};
}

// Relies on HDF5's default file format: H5Fget_file_image of 1.10 spoils the superblock checksum
// that later formats carry.
std::vector<std::byte> file_image(const Handle& file) {
  check(H5Fflush(file.id(), H5F_SCOPE_LOCAL), "H5Fflush", "memory");
  const ssize_t size =
      check(H5Fget_file_image(file.id(), nullptr, 0), "H5Fget_file_image", "memory");
  std::vector<std::byte> image(static_cast<std::size_t>(size));
  check(H5Fget_file_image(file.id(), image.data(), image.size()), "H5Fget_file_image", "memory");
  return image;
}

Handle open_file(const std::string& path) {
  const Handle access(check(H5Pcreate(H5P_FILE_ACCESS), "H5Pcreate", "file access"), H5Pclose);
  const hbool_t use_locks = 0;
  const hbool_t ignore_missing_locks = 1;
  check(H5Pset_file_locking(access.id(), use_locks, ignore_missing_locks), "H5Pset_file_locking",
        path);
  return {check(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.id()), "H5Fopen", path), H5Fclose};
}

Handle create_group(const Handle& parent, const std::string& name) {
  return {check(H5Gcreate2(parent.id(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
                "H5Gcreate2", name),
          H5Gclose};
}

Handle open_group(const Handle& parent, const std::string& name) {
  require_hard_link(parent, name);
  return {check(H5Gopen2(parent.id(), name.c_str(), H5P_DEFAULT), "H5Gopen2", name), H5Gclose};
}

void write_attribute(const Handle& object, const std::string& name, std::int64_t value) {
  write_attribute_data(object, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
}

void write_attribute(const Handle& object, const std::string& name, const std::string& value) {
  if (value.find('\0') != std::string::npos) {
    throw BugError(fmt::format("the text of attribute '{}' holds a NUL at {} of {} bytes", name,
                               value.find('\0'), value.size()));
  }
  const Handle type = text_type();
  const char* text = value.c_str();
  write_attribute_data(object, name, type.id(), type.id(), &text);
}

std::int64_t read_integer_attribute(const Handle& object, const std::string& name) {
  const Handle attribute = open_scalar_attribute(object, name);
  const Handle type(check(H5Aget_type(attribute.id()), "H5Aget_type", name), H5Tclose);
  require_type(type.id(), Scalar::kInt64, fmt::format("attribute '{}'", name));
  std::int64_t value = 0;
  check(H5Aread(attribute.id(), H5T_NATIVE_INT64, &value), "H5Aread", name);
  return value;
}

std::string read_text_attribute(const Handle& object, const std::string& name) {
  const Handle attribute = open_scalar_attribute(object, name);
  const Handle found(check(H5Aget_type(attribute.id()), "H5Aget_type", name), H5Tclose);
  if (H5Tget_class(found.id()) != H5T_STRING || H5Tis_variable_str(found.id()) <= 0) {
    throw UserError(fmt::format("attribute '{}' is not a text of variable length", name));
  }
  const Handle type = text_type();
  char* text = nullptr;
  check(H5Aread(attribute.id(), type.id(), &text), "H5Aread", name);
  const std::string value = text == nullptr ? "" : text;
  H5free_memory(text);
  return value;
}

Handle write_array(const Handle& parent, const std::string& name, Scalar type,
                   const std::vector<hsize_t>& dims, const void* data) {
  Handle dataset = create_dataset(parent, name, file_type(type), dims);
  const bool empty = std::find(dims.begin(), dims.end(), hsize_t{0}) != dims.end();
  if (!empty) {
    write_data(dataset, name, memory_type(type), data);
  }
  return dataset;
}

Handle write_table(const Handle& parent, const std::string& name,
                   const std::vector<Column>& columns, std::size_t row_size, const void* rows,
                   std::size_t count) {
  const Handle in_file = row_in_file(columns);
  Handle dataset = create_dataset(parent, name, in_file.id(), {count});
  if (count > 0) {
    const Handle in_memory = row_in_memory(columns, row_size);
    write_data(dataset, name, in_memory.id(), rows);
  }
  return dataset;
}

Handle write_columns(const Handle& parent, const std::string& name,
                     const std::vector<ValueColumn>& columns, std::size_t count) {
  std::vector<EncodedColumn> encoded;
  std::size_t row_size = 0;
  for (const ValueColumn& column : columns) {
    encoded.push_back(
        std::visit([&](const auto& values) { return encode(column.name, values); }, column.values));
    row_size += encoded.back().size;
    if (encoded.back().bytes.size() != count * encoded.back().size) {
      throw BugError(fmt::format("column '{}' of '{}' has {} bytes for {} rows of {}", column.name,
                                 name, encoded.back().bytes.size(), count, encoded.back().size));
    }
  }
  const Handle in_file = packed_row(encoded, &EncodedColumn::in_file, row_size);
  Handle dataset = create_dataset(parent, name, in_file.id(), {count});
  if (count > 0) {
    const Handle in_memory = packed_row(encoded, &EncodedColumn::in_memory, row_size);
    write_data(dataset, name, in_memory.id(), interleave(encoded, row_size, count).data());
  }
  return dataset;
}

void copy_file(const Handle& file, const Handle& parent, const std::string& name) {
  check(H5Ocopy(file.id(), "/", parent.id(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT), "H5Ocopy",
        name);
}

void copy_object(const Handle& from, const std::string& name, const Handle& to) {
  require_hard_link(from, name);
  check(H5Ocopy(from.id(), name.c_str(), to.id(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT),
        "H5Ocopy", name);
}

std::vector<ValueColumn> read_columns(const Handle& parent, const std::string& name) {
  const OpenDataset table = open_dataset(parent, name, 1);
  const Handle row = type_of(table);
  if (H5Tget_class(row.id()) != H5T_COMPOUND) {
    throw UserError(fmt::format("'{}' is not a table", name));
  }
  const std::size_t row_size = H5Tget_size(row.id());
  const std::vector<StoredColumn> stored = stored_columns(row, name);
  const std::size_t count = checked_count(table.handle, name, table.dims, row_size);
  std::vector<std::byte> rows(count * row_size);
  if (count > 0) {
    read_data(table, row.id(), rows.data());
  }
  std::vector<ValueColumn> columns;
  for (const StoredColumn& column : stored) {
    columns.push_back({column.name, decode(column, rows, row_size)});
  }
  return columns;
}

OpenDataset open_array(const Handle& parent, const std::string& name, Scalar type,
                       std::size_t rank) {
  OpenDataset opened = open_dataset(parent, name, rank);
  const Handle found = type_of(opened);
  require_type(found.id(), type, fmt::format("'{}'", name));
  opened.count = checked_count(opened.handle, name, opened.dims, H5Tget_size(found.id()));
  return opened;
}

OpenDataset open_table(const Handle& parent, const std::string& name,
                       const std::vector<Column>& columns) {
  OpenDataset opened = open_dataset(parent, name, 1);
  const Handle row = type_of(opened);
  if (H5Tget_class(row.id()) != H5T_COMPOUND) {
    throw UserError(fmt::format("'{}' is not a table", name));
  }
  for (const Column& column : columns) {
    require_column(row, column, name);
  }
  // Also what no column shows: HDF5 trusts damaged offsets when it converts rows.
  const Handle expected = row_in_file(columns);
  if (check(H5Tequal(row.id(), expected.id()), "H5Tequal", name) == 0) {
    throw UserError(fmt::format("the columns of '{}' lie in another order or place", name));
  }
  opened.count = checked_count(opened.handle, name, opened.dims, H5Tget_size(row.id()));
  return opened;
}

void read_elements(const OpenDataset& array, Scalar type, void* values) {
  if (array.count > 0) {
    read_data(array, memory_type(type), values);
  }
}

void read_rows(const OpenDataset& table, const std::vector<Column>& columns, std::size_t row_size,
               void* rows) {
  if (table.count > 0) {
    const Handle in_memory = row_in_memory(columns, row_size);
    read_data(table, in_memory.id(), rows);
  }
}

}  // namespace bipo::hdf5
