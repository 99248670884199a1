// A thin layer over the serial HDF5 C API: owned handles, and one checked function for each kind of
// object that the program stores.
#include "experiments/files/hdf5.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string_view>
#include <system_error>

#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/file_descriptor.hpp"
#include "collectives/foundation/input_file.hpp"
#include "experiments/files/checksum.hpp"
#include "experiments/files/file_seal.hpp"
#include "experiments/files/hdf5_call.hpp"
#include "experiments/files/trial_process.hpp"

namespace bipo::hdf5 {
namespace {

constexpr hsize_t kMostRowsPerChunk = 4096;
constexpr std::size_t kMemoryGrowth = 1 << 20;
constexpr const char* kChecksum = "checksum";

// Debian builds the library without locks of its own.
std::recursive_mutex& library_mutex() {
  static auto* const mutex = new std::recursive_mutex;  // other threads may outlive main()
  return *mutex;
}

// The innermost entry of the error stack holds the cause; the outer ones repeat it.
herr_t keep_innermost(unsigned, const H5E_error2_t* entry, void* data) {
  *static_cast<std::string*>(data) = fmt::format("{} in {}", entry->desc, entry->func_name);
  return 1;
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

struct NumberType {
  const char* name;
  hid_t id;  // the same on disk and, on a little-endian machine, in memory
};

static_assert(std::endian::native == std::endian::little);

NumberType number_type(Type type) {
  switch (type) {
    case Type::kInt8:
      return {"int8", H5T_STD_I8LE};
    case Type::kInt32:
      return {"int32", H5T_STD_I32LE};
    case Type::kInt64:
      return {"int64", H5T_STD_I64LE};
    case Type::kUint64:
      return {"uint64", H5T_STD_U64LE};
    case Type::kFloat32:
      return {"float32", H5T_IEEE_F32LE};
    case Type::kFloat64:
      return {"float64", H5T_IEEE_F64LE};
    case Type::kText:
      break;
  }
  throw BugError("an array of texts");
}

// Chunks, because only they can grow and carry checksums.  A save rewrites the whole file, so a
// chunk need not be larger than the rows.
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

// A dataset opened and checked for reading.
struct OpenDataset {
  std::string name;
  Handle handle;
  Handle type;  // of its elements
  std::vector<hsize_t> dims;
};

// Returns the names of a table's columns, none for other types.
std::vector<std::string> column_names(hid_t type, const std::string& table) {
  std::vector<std::string> names;
  const bool is_table = H5Tget_class(type) == H5T_COMPOUND;
  const int count = is_table ? check(H5Tget_nmembers(type), "H5Tget_nmembers", table) : 0;
  for (int i = 0; i < count; ++i) {
    char* name = H5Tget_member_name(type, static_cast<unsigned>(i));
    names.emplace_back(name == nullptr ? "" : name);
    H5free_memory(name);
  }
  return names;
}

std::string checksum_of(const std::string& name, const std::vector<hsize_t>& dims, hid_t type,
                        std::span<const std::byte> elements) {
  Checksum checksum;
  checksum.add(fmt::format("{}[{}]{}", name, fmt::join(dims, ","),
                           fmt::join(column_names(type, name), ",")));
  checksum.add(elements);
  return checksum.text();
}

std::span<const std::byte> elements_of(const void* data, std::size_t count, std::size_t size) {
  return {static_cast<const std::byte*>(data), count * size};
}

bool has_checksum(hid_t object, const std::string& name) {
  return check(H5Aexists(object, kChecksum), "H5Aexists", name) > 0;
}

bool is_in_file_with_checksums(const OpenDataset& dataset) {
  const Handle file(check(H5Iget_file_id(dataset.handle.id()), "H5Iget_file_id", dataset.name),
                    H5Fclose);
  return has_checksum(file.id(), dataset.name);
}

// A file has checksums everywhere or nowhere: a lost one is damage too.
void require_unchanged(const OpenDataset& dataset, std::span<const std::byte> elements) {
  const bool is_checked = has_checksum(dataset.handle.id(), dataset.name);
  if (is_checked != is_in_file_with_checksums(dataset)) {
    throw ContentChanged(
        fmt::format("the checksum of {} is missing",
                    is_checked ? "the attributes" : fmt::format("'{}'", dataset.name)));
  }
  if (is_checked && read_text_attribute(dataset.handle, kChecksum) !=
                        checksum_of(dataset.name, dataset.dims, dataset.type.id(), elements)) {
    throw ContentChanged(fmt::format("'{}' does not match its checksum", dataset.name));
  }
}

void read_data(const OpenDataset& dataset, void* data) {
  check(H5Dread(dataset.handle.id(), dataset.type.id(), H5S_ALL, H5S_ALL, H5P_DEFAULT, data),
        "H5Dread", dataset.name);
}

// Soft and external links could lead anywhere.
void require_hard_link(const Handle& parent, const std::string& name) {
  if (check(H5Lexists(parent.id(), name.c_str(), H5P_DEFAULT), "H5Lexists", name) == 0) {
    throw UserError(fmt::format("'{}' is missing", name));
  }
  H5L_info_t info{};
  check(H5Lget_info(parent.id(), name.c_str(), &info, H5P_DEFAULT), "H5Lget_info", name);
  if (info.type != H5L_TYPE_HARD) {
    throw UserError(fmt::format("'{}' is a link, which is not followed", name));
  }
}

// Accepts only the layouts and filters that this program writes; others could read other files or
// load plugins.
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

// Returns product(dims).  Keeps damaged dimensions from allocating memory for data that the file
// does not hold.
std::size_t checked_count(const OpenDataset& dataset) {
  const hid_t id = dataset.handle.id();
  const Handle file(check(H5Iget_file_id(id), "H5Iget_file_id", dataset.name), H5Fclose);
  const hsize_t stored = std::min(file_size(file), H5Dget_storage_size(id));
  hsize_t count = 1;
  for (const hsize_t extent : dataset.dims) {
    if (extent != 0 && count > stored / H5Tget_size(dataset.type.id()) / extent) {
      throw UserError(fmt::format("'{}' claims more elements than the file holds", dataset.name));
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
  opened.type = Handle(check(H5Dget_type(opened.handle.id()), "H5Dget_type", name), H5Tclose);
  return opened;
}

void require_type(hid_t found, Type expected, const std::string& what) {
  const NumberType type = number_type(expected);
  if (check(H5Tequal(found, type.id), "H5Tequal", what) == 0) {
    throw UserError(fmt::format("{} is not little-endian {}", what, type.name));
  }
}

Handle text_type(std::size_t size) {
  Handle type(check(H5Tcopy(H5T_C_S1), "H5Tcopy", "text"), H5Tclose);
  check(H5Tset_size(type.id(), size), "H5Tset_size", "text");
  check(H5Tset_cset(type.id(), H5T_CSET_UTF8), "H5Tset_cset", "text");
  if (size != H5T_VARIABLE) {
    check(H5Tset_strpad(type.id(), H5T_STR_NULLPAD), "H5Tset_strpad", "text");
  }
  return type;
}

using Cell = std::function<const void*(std::size_t row, std::size_t column)>;

// Bytes of each column in a row.
std::vector<std::size_t> column_sizes(const std::vector<Column>& columns, std::size_t rows,
                                      const Cell& cell) {
  std::vector<std::size_t> sizes;
  for (std::size_t column = 0; column < columns.size(); ++column) {
    if (columns[column].type != Type::kText) {
      sizes.push_back(H5Tget_size(number_type(columns[column].type).id));
      continue;
    }
    sizes.push_back(1);  // HDF5 has no empty type
    for (std::size_t row = 0; row < rows; ++row) {
      sizes.back() =
          std::max(sizes.back(), static_cast<const std::string*>(cell(row, column))->size());
    }
  }
  return sizes;
}

// The columns one after the other, without gaps.
Handle row_type(const std::vector<Column>& columns, const std::vector<std::size_t>& sizes) {
  const std::size_t row_size = std::accumulate(sizes.begin(), sizes.end(), std::size_t{0});
  Handle row(check(H5Tcreate(H5T_COMPOUND, row_size), "H5Tcreate", "table row"), H5Tclose);
  std::size_t offset = 0;
  for (std::size_t i = 0; i < columns.size(); ++i) {
    const auto& [name, type, unit, meaning] = columns[i];
    const Handle text = text_type(sizes[i]);
    check(H5Tinsert(row.id(), name.c_str(), offset,
                    type == Type::kText ? text.id() : number_type(type).id),
          "H5Tinsert", name);
    offset += sizes[i];
  }
  return row;
}

// Returns the bytes of each column in a row.  Throws UserError for other columns than `columns`,
// and for columns that do not follow each other without gaps.
std::vector<std::size_t> stored_sizes(const Handle& row, const std::vector<Column>& columns,
                                      const std::string& table) {
  std::vector<std::size_t> sizes;
  std::size_t offset = 0;
  bool is_packed = H5Tget_nmembers(row.id()) == static_cast<int>(columns.size());
  for (const Column& column : columns) {
    const std::string what = fmt::format("column '{}' of '{}'", column.name, table);
    const int index = H5Tget_member_index(row.id(), column.name.c_str());
    if (index < 0) {
      throw UserError(fmt::format("{} is missing", what));
    }
    const auto member = static_cast<unsigned>(index);
    const Handle type(check(H5Tget_member_type(row.id(), member), "H5Tget_member_type", what),
                      H5Tclose);
    if (column.type != Type::kText) {
      require_type(type.id(), column.type, what);
    } else if (H5Tget_class(type.id()) != H5T_STRING || H5Tis_variable_str(type.id()) != 0) {
      throw UserError(fmt::format("{} is not a text of fixed length", what));
    }
    is_packed =
        is_packed && member == sizes.size() && H5Tget_member_offset(row.id(), member) == offset;
    sizes.push_back(H5Tget_size(type.id()));
    offset += sizes.back();
  }
  if (!is_packed || offset != H5Tget_size(row.id())) {
    throw UserError(
        fmt::format("'{}' has further columns, or its columns are in another order", table));
  }
  return sizes;
}

// Returns a JSON object: column -> unit and meaning.
std::string describe(const std::vector<Column>& columns) {
  nlohmann::ordered_json units;
  for (const Column& column : columns) {
    if (column.unit != nullptr) {
      units[column.name] = {{"unit", column.unit}, {"meaning", column.meaning}};
    }
  }
  return units.dump();
}

nlohmann::ordered_json finite_or_null(double number) {
  return std::isfinite(number) ? nlohmann::ordered_json(number) : nlohmann::ordered_json();
}

nlohmann::ordered_json cell_as_json(Type type, const void* value) {
  switch (type) {
    case Type::kInt8:
      return *static_cast<const std::int8_t*>(value);
    case Type::kInt32:
      return *static_cast<const std::int32_t*>(value);
    case Type::kInt64:
      return *static_cast<const std::int64_t*>(value);
    case Type::kUint64:
      return *static_cast<const std::uint64_t*>(value);
    case Type::kFloat32:
      return finite_or_null(*static_cast<const float*>(value));
    case Type::kFloat64:
      return finite_or_null(*static_cast<const double*>(value));
    case Type::kText:
      return *static_cast<const std::string*>(value);
  }
  throw BugError("a cell of an unknown type");
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

std::string attribute_value(const Handle& object, const std::string& name) {
  const Handle attribute = open_scalar_attribute(object, name);
  const Handle type(check(H5Aget_type(attribute.id()), "H5Aget_type", name), H5Tclose);
  return H5Tget_class(type.id()) == H5T_STRING
             ? read_text_attribute(object, name)
             : fmt::format("{}", read_integer_attribute(object, name));
}

// Returns the root's checksum: of these attributes, which it names.
std::string attributes_checksum(const Handle& file, const std::vector<std::string>& names) {
  Checksum checksum;
  for (const std::string& name : names) {
    checksum.add(name + '\0' + attribute_value(file, name) + '\0');
  }
  return fmt::format("{}:{}", checksum.text(), fmt::join(names, ","));
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts(1);
  for (const char letter : text) {
    if (letter == separator) {
      parts.emplace_back();
    } else {
      parts.back() += letter;
    }
  }
  return parts;
}

void require_attributes_unchanged(const Handle& file) {
  if (!has_checksum(file.id(), "attributes")) {
    return;
  }
  const std::string stored = read_text_attribute(file, kChecksum);
  const std::string names = stored.substr(std::min(stored.size(), stored.find(':') + 1));
  if (attributes_checksum(file, split(names, ',')) != stored) {
    throw ContentChanged("its attributes do not match their checksum");
  }
}

Handle memory_access() {
  Handle access(check(H5Pcreate(H5P_FILE_ACCESS), "H5Pcreate", "file access"), H5Pclose);
  const hbool_t write_to_disk = 0;
  check(H5Pset_fapl_core(access.id(), kMemoryGrowth, write_to_disk), "H5Pset_fapl_core", "memory");
  return access;
}

// HDF5 takes two open files of one name for the same file, in memory too.
std::string memory_name() {
  static std::atomic<int> count = 0;
  return fmt::format("memory {}", ++count);
}

// Opens `place`, which messages call `path`.
Handle open_as(const std::string& place, const std::string& path) {
  const Handle access(check(H5Pcreate(H5P_FILE_ACCESS), "H5Pcreate", "file access"), H5Pclose);
  const hbool_t use_locks = 0;
  const hbool_t ignore_missing_locks = 1;
  check(H5Pset_file_locking(access.id(), use_locks, ignore_missing_locks), "H5Pset_file_locking",
        path);
  return {check(H5Fopen(place.c_str(), H5F_ACC_RDONLY, access.id()), "H5Fopen", path), H5Fclose};
}

// The largest file that is read into memory whole: what the library gets are then the bytes that
// were checked, whatever happens to the file meanwhile.
constexpr std::uint64_t kLargestImage = std::uint64_t{256} << 20;

// A file that is open; read once, where it is not too large for that.
class OpenedFile {
 public:
  // Throws EnvironmentError.
  explicit OpenedFile(int file) : file_(file) {
    struct stat status {};
    if (::fstat(file, &status) != 0 || static_cast<std::uint64_t>(status.st_size) > kLargestImage) {
      return;
    }
    image_.emplace(static_cast<std::size_t>(status.st_size));
    const ssize_t count = read_at(file, *image_, 0);
    if (count != status.st_size) {
      throw EnvironmentError(count < 0 ? fmt::format("read failed: {}", std::strerror(errno))
                                       : std::string("it became shorter while it was read"));
    }
  }

  Seal seal(const InputFile& file) const { return image_ ? check_seal(*image_) : check_seal(file); }

  // The library knows files by name only, and refuses the name in /proc of one that another process
  // has replaced.
  Handle open(const std::string& path) const {
    return image_ ? open_image(*image_) : open_as(fmt::format("/proc/self/fd/{}", file_), path);
  }

 private:
  int file_;
  std::optional<std::vector<std::byte>> image_;
};

// HDF5's own messages for these cases are about its internals.
void require_readable(const std::filesystem::path& path, const FileKind& kind) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) {
    throw UserError(fmt::format("{}: no such file; name {} that `bipo-dist {}` wrote",
                                path.string(), kind.noun, kind.command));
  }
  if (!std::filesystem::is_regular_file(status)) {
    throw UserError(fmt::format("{}: is not a file; name {}", path.string(), kind.noun));
  }
  if (::access(path.c_str(), R_OK) != 0) {
    throw UserError(fmt::format("{}: cannot be read: {}; change its permissions or name another",
                                path.string(), std::generic_category().message(errno)));
  }
}

// Returns the version of the superblock, which says how old a library can read the file; nothing
// where the file has none.  HDF5 looks for it in the same places.
std::optional<int> superblock_version(int file) {
  constexpr std::string_view kSignature = "\x89HDF\r\n\x1a\n";
  std::array<char, kSignature.size() + 1> bytes{};
  off_t place = 0;
  while (::pread(file, bytes.data(), bytes.size(), place) == static_cast<ssize_t>(bytes.size())) {
    if (std::string_view(bytes.data(), kSignature.size()) == kSignature) {
      return static_cast<unsigned char>(bytes.back());
    }
    place = place == 0 ? 512 : 2 * place;
  }
  return std::nullopt;
}

// Takes a shared lock until the file is closed.  Returns false where another process has the file
// open for writing and locked it; file systems without locks lock nothing.
bool take_lock(int file) {
  return ::flock(file, LOCK_SH | LOCK_NB) == 0 || errno != EWOULDBLOCK;
}

// HDF5's own variable; by default files are read without locks.
bool asks_for_locks() {
  const char* value = std::getenv("HDF5_USE_FILE_LOCKING");
  const std::string_view text = value == nullptr ? "" : value;
  return text == "TRUE" || text == "1" || text == "BEST_EFFORT";
}

[[noreturn]] void refuse_locked(const std::string& path) {
  throw UserError(fmt::format(
      "{}: another process has it open for writing and holds a lock on it; close it there, then "
      "try again",
      path));
}

std::string library_version() {
  unsigned major = 0;
  unsigned minor = 0;
  unsigned release = 0;
  H5get_libversion(&major, &minor, &release);
  return fmt::format("{}.{}.{}", major, minor, release);
}

const char* damage_remedy(const FileKind& kind) {
  return *kind.if_damaged == '\0' ? "; take an intact copy" : kind.if_damaged;
}

[[noreturn]] void refuse_damaged(const std::string& path, const FileKind& kind,
                                 const std::string& reason) {
  throw UserError(fmt::format("{}: damaged: {}{}", path, reason, damage_remedy(kind)));
}

// Says why HDF5 failed.
[[noreturn]] void refuse_unreadable(const std::string& path, const FileKind& kind, int file,
                                    const std::string& reason) {
  constexpr int kNewestKnown = 3;   // superblock of HDF5 1.10 to 1.14
  constexpr int kFirstChecked = 2;  // from here on, metadata carry checksums: they are not damaged
  const int version = superblock_version(file).value_or(0);
  const bool is_about_version = reason.find("version") != std::string::npos;
  if (version > kNewestKnown || (version >= kFirstChecked && is_about_version)) {
    throw UserError(fmt::format(
        "{}: in a newer format than HDF5 {} of this program reads: {}; write its content with h5py "
        "to a new file opened with libver=\"earliest\"",
        path, library_version(), reason));
  }
  if (!take_lock(file)) {
    refuse_locked(path);
  }
  refuse_damaged(path, kind,
                 is_about_version
                     ? fmt::format("{}, unless a program with a newer HDF5 than {} changed it",
                                   reason, library_version())
                     : reason);
}

// Naming what was made of run files, in place of one, is a likely mistake.
void require_no_result_of_runs(const std::string& path, const Handle& file) {
  if (check(H5Aexists(file.id(), "kind"), "H5Aexists", "kind") == 0) {
    return;
  }
  const std::string found = read_text_attribute(file, "kind");
  if (found == "evaluation" || found == "sweep") {
    throw UserError(fmt::format("it is {}; `bipo-dist report {} --out page.html` shows it",
                                found == "sweep" ? "a collected sweep" : "an evaluation file",
                                path));
  }
  if (found == "conceptor") {
    throw UserError(
        "it holds a conceptor, a matrix that activations are multiplied by, and no vector; "
        "--vector "
        "of generate and evaluate takes it");
  }
}

void require_identity(const std::string& path, const Handle& file, const FileKind& kind) {
  if (kind.kind != nullptr) {
    const std::string found = read_text_attribute(file, "kind");
    if (found != kind.kind) {
      throw UserError(fmt::format("its kind is '{}', not '{}'", found, kind.kind));
    }
  } else {
    require_no_result_of_runs(path, file);
  }
  const std::int64_t schema = read_integer_attribute(file, "schema_version");
  if (schema > kind.schema) {
    throw UserError(fmt::format(
        "its schema_version is {}, and this program reads up to {}; use a newer bipo-dist", schema,
        kind.schema));
  }
  if (schema < 1) {
    throw UserError(fmt::format("its schema_version is {}, the first is 1", schema));
  }
}

// Reads the open file with HDF5.
void read_open_file(const std::string& path, const FileKind& kind, int file,
                    const OpenedFile& content,
                    const std::function<void(const Handle& file)>& read) {
  try {
    const Handle opened = content.open(path);
    require_identity(path, opened, kind);
    require_attributes_unchanged(opened);
    read(opened);
  } catch (const UserError& error) {
    throw UserError(fmt::format("{}: not {} of bipo-dist, or not one this program can read: {}{}",
                                path, kind.noun, error.what(), kind.if_foreign));
  } catch (const ContentChanged& change) {
    throw UserError(fmt::format(
        "{}: damaged, or changed by another program after bipo-dist wrote it: {}{}; docs/files.md "
        "says how to keep a change of your own",
        path, change.what(), damage_remedy(kind)));
  } catch (const CannotKeep& error) {
    throw UserError(fmt::format("{}: {}", path, error.what()));
  } catch (const EnvironmentError& error) {
    refuse_unreadable(path, kind, file, error.what());
  }
}

[[noreturn]] void throw_unreadable(const std::string& path, const EnvironmentError& error) {
  throw UserError(
      fmt::format("{}: cannot be read: {}; take an intact copy, or try again", path, error.what()));
}

OpenedFile read_content(const std::string& path, int file) {
  try {
    return OpenedFile(file);
  } catch (const EnvironmentError& error) {
    throw_unreadable(path, error);
  }
}

Seal seal_of(const std::string& path, const OpenedFile& content, const InputFile& file) {
  try {
    return content.seal(file);
  } catch (const EnvironmentError& error) {
    throw_unreadable(path, error);
  }
}

}  // namespace

[[noreturn]] void throw_failure(const char* call, const std::string& object) {
  std::string message;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_innermost, &message);
  throw EnvironmentError(fmt::format("{} failed for '{}': {}", call, object,
                                     message.empty() ? "HDF5 gives no reason" : message));
}

Handle::Handle(Handle&& other) noexcept
    : id_(std::exchange(other.id_, H5I_INVALID_HID)), close_(other.close_) {
}

Handle& Handle::operator=(Handle&& other) noexcept {
  std::swap(id_, other.id_);
  std::swap(close_, other.close_);
  return *this;
}

// Ignores the result: data are on disk only after the caller's own write and fsync.
Handle::~Handle() {
  if (id_ >= 0) {
    close_(id_);
  }
}

ErrorPrintingOff::ErrorPrintingOff() : lock_(library_mutex()) {
  H5Eget_auto2(H5E_DEFAULT, &function_, &data_);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

ErrorPrintingOff::~ErrorPrintingOff() {
  H5Eset_auto2(H5E_DEFAULT, function_, data_);
}

Handle create_memory_file() {
  const Handle access = memory_access();
  const std::string name = memory_name();
  return {
      check(H5Fcreate(name.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.id()), "H5Fcreate", name),
      H5Fclose};
}

// Relies on HDF5's default file format: H5Fget_file_image of HDF5 1.10 spoils the superblock
// checksum of later formats.
std::vector<std::byte> file_image(const Handle& file) {
  check(H5Fflush(file.id(), H5F_SCOPE_LOCAL), "H5Fflush", "memory");
  const ssize_t size =
      check(H5Fget_file_image(file.id(), nullptr, 0), "H5Fget_file_image", "memory");
  std::vector<std::byte> image(static_cast<std::size_t>(size));
  check(H5Fget_file_image(file.id(), image.data(), image.size()), "H5Fget_file_image", "memory");
  return image;
}

std::vector<std::byte> sealed_image(const Handle& file) {
  std::vector<std::byte> image = file_image(file);
  add_seal(image);
  return image;
}

Handle open_image(std::span<const std::byte> image) {
  const Handle access = memory_access();
  const std::string name = memory_name();
  std::vector<std::byte> copy(image.begin(), image.end());  // the call takes no const bytes
  check(H5Pset_file_image(access.id(), copy.data(), copy.size()), "H5Pset_file_image", name);
  return {check(H5Fopen(name.c_str(), H5F_ACC_RDONLY, access.id()), "H5Fopen", name), H5Fclose};
}

Handle open_file(const std::string& path) {
  const InputFile checked(path);  // the library would wait for the other end of a pipe
  return open_as(path, path);
}

hsize_t file_size(const Handle& file) {
  hsize_t size = 0;
  check(H5Fget_filesize(file.id(), &size), "H5Fget_filesize", "file");
  return size;
}

bool has_link(const Handle& parent, const std::string& name) {
  return check(H5Lexists(parent.id(), name.c_str(), H5P_DEFAULT), "H5Lexists", name) > 0;
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

Handle open_dataset(const Handle& parent, const std::string& name) {
  require_hard_link(parent, name);
  return {check(H5Dopen2(parent.id(), name.c_str(), H5P_DEFAULT), "H5Dopen2", name), H5Dclose};
}

void copy_file(const Handle& file, const Handle& parent, const std::string& name) {
  copy_group(file, "/", parent, name);
}

void copy_group(const Handle& from, const std::string& from_name, const Handle& to,
                const std::string& to_name) {
  check(H5Ocopy(from.id(), from_name.c_str(), to.id(), to_name.c_str(), H5P_DEFAULT, H5P_DEFAULT),
        "H5Ocopy", to_name);
}

void check_dataset(const Handle& parent, const std::string& name) {
  const OpenDataset opened = open_dataset(parent, name, 1);
  std::vector<std::byte> elements(checked_count(opened) * H5Tget_size(opened.type.id()));
  if (!elements.empty()) {
    read_data(opened, elements.data());
  }
  require_unchanged(opened, elements);
}

// Returns what the file begins like, if that is known.
const char* other_format(const InputFile& file) {
  constexpr std::size_t kBeginning =
      9;  // safetensors: the length of the header, and its first byte
  std::string bytes(kBeginning, '\0');
  const ssize_t count = ::pread(file.get(), bytes.data(), bytes.size(), 0);
  if (count < static_cast<ssize_t>(bytes.size())) {
    return nullptr;
  }
  if (bytes.starts_with("GGUF")) {
    return "a GGUF file";
  }
  if (bytes.starts_with("PK\x03\x04")) {
    return "a zip archive, as torch.save writes";
  }
  if (bytes.starts_with("\x93NUMPY")) {
    return "a file of numpy";
  }
  if (bytes[kBeginning - 1] == '{') {
    return "a safetensors file";
  }
  return nullptr;
}

void write_identity(const Handle& file, const FileKind& kind) {
  write_attribute(file, "schema_version", kind.schema);
  if (kind.kind != nullptr) {
    write_attribute(file, "kind", kind.kind);
  }
}

void write_attributes_checksum(const Handle& file) {
  write_attribute(file, kChecksum, attributes_checksum(file, attribute_names(file)));
}

void add_trial(const char* name, const FileKind& kind,
               const std::function<void(const Handle& file)>& read) {
  register_trial(name, [&kind, read](const std::string& path, int file) {
    const ErrorPrintingOff quiet;
    read_open_file(path, kind, file, read_content(path, file), read);
  });
}

void read_file(const std::filesystem::path& path, const FileKind& kind, const char* trial,
               const std::function<void(const Handle& file)>& read) {
  if (kind.command != nullptr) {
    require_readable(path, kind);
  }
  const ErrorPrintingOff quiet;
  const std::string name = path.string();
  std::optional<InputFile> opened;
  try {
    opened.emplace(path);
  } catch (const UserError& error) {
    throw UserError(error.what() + std::string(kind.if_damaged));
  }
  const InputFile& file = *opened;
  if (asks_for_locks() && !take_lock(file.get())) {
    refuse_locked(name);
  }
  const OpenedFile content = read_content(name, file.get());
  const Seal seal = seal_of(name, content, file);
  if (seal == Seal::kBroken) {
    refuse_damaged(name, kind, "its bytes do not match the checksum at its end");
  }
  if (seal == Seal::kNone && !superblock_version(file.get())) {
    if (const char* other = other_format(file)) {
      throw UserError(
          fmt::format("{}: is {}, not an HDF5 file; `bipo-dist import` makes a run file of a "
                      "vector in another format",
                      name, other));
    }
    throw UserError(fmt::format("{}: damaged, or not an HDF5 file: it does not begin like one{}",
                                name, damage_remedy(kind)));
  }
  if (seal == Seal::kNone) {
    try {
      try_reading(trial, name, file);
    } catch (const TrialFailure& failure) {
      refuse_damaged(name, kind, failure.what());
    }
  }
  read_open_file(name, kind, file.get(), content, read);
}

void write_attribute(const Handle& object, const std::string& name, std::int64_t value) {
  write_attribute_data(object, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
}

void write_attribute(const Handle& object, const std::string& name, const std::string& value) {
  if (value.find('\0') != std::string::npos) {
    throw BugError(fmt::format("the text of attribute '{}' holds a NUL at {} of {} bytes", name,
                               value.find('\0'), value.size()));
  }
  const Handle type = text_type(H5T_VARIABLE);
  const char* text = value.c_str();
  write_attribute_data(object, name, type.id(), type.id(), &text);
}

std::vector<std::string> attribute_names(const Handle& object) {
  std::vector<std::string> names;
  const auto add = [](hid_t, const char* name, const H5A_info_t*, void* data) -> herr_t {
    static_cast<std::vector<std::string>*>(data)->emplace_back(name);
    return 0;
  };
  hsize_t place = 0;
  check(H5Aiterate2(object.id(), H5_INDEX_NAME, H5_ITER_INC, &place, add, &names), "H5Aiterate2",
        "attributes");
  return names;
}

std::int64_t read_integer_attribute(const Handle& object, const std::string& name) {
  const Handle attribute = open_scalar_attribute(object, name);
  const Handle type(check(H5Aget_type(attribute.id()), "H5Aget_type", name), H5Tclose);
  require_type(type.id(), Type::kInt64, fmt::format("attribute '{}'", name));
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
  const Handle type = text_type(H5T_VARIABLE);
  char* text = nullptr;
  check(H5Aread(attribute.id(), type.id(), &text), "H5Aread", name);
  const std::string value = text == nullptr ? "" : text;
  H5free_memory(text);
  return value;
}

void write_elements(const Handle& parent, const std::string& name, Type type,
                    const std::vector<hsize_t>& dims, const void* data, const ArrayText& text) {
  const hid_t element = number_type(type).id;
  const Handle dataset = create_dataset(parent, name, element, dims);
  if (std::find(dims.begin(), dims.end(), hsize_t{0}) == dims.end()) {
    write_data(dataset, name, element, data);
  }
  write_attribute(dataset, "units", text.units);
  if (text.dims != nullptr) {
    write_attribute(dataset, "dims", text.dims);
  }
  const std::size_t count =
      std::accumulate(dims.begin(), dims.end(), std::size_t{1}, std::multiplies<>());
  write_attribute(dataset, kChecksum,
                  checksum_of(name, dims, element, elements_of(data, count, H5Tget_size(element))));
}

std::vector<hsize_t> read_elements(const Handle& parent, const std::string& name, Type type,
                                   std::size_t rank,
                                   const std::function<void*(std::size_t count)>& allocate) {
  const OpenDataset opened = open_dataset(parent, name, rank);
  require_type(opened.type.id(), type, fmt::format("'{}'", name));
  const std::size_t count = checked_count(opened);
  void* values = allocate(count);
  if (count > 0) {
    read_data(opened, values);
  }
  require_unchanged(opened, elements_of(values, count, H5Tget_size(opened.type.id())));
  return opened.dims;
}

void write_cells(const Handle& parent, const std::string& name, const std::vector<Column>& columns,
                 std::size_t rows, const Cell& cell) {
  const std::vector<std::size_t> sizes = column_sizes(columns, rows, cell);
  const Handle row_in_file = row_type(columns, sizes);
  const Handle dataset = create_dataset(parent, name, row_in_file.id(), {rows});
  std::vector<std::byte> bytes(rows * H5Tget_size(row_in_file.id()));
  std::byte* place = bytes.data();
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t column = 0; column < columns.size(); ++column) {
      const void* value = cell(row, column);
      if (columns[column].type == Type::kText) {
        const auto& text = *static_cast<const std::string*>(value);
        std::memcpy(place, text.data(), text.size());
      } else {
        std::memcpy(place, value, sizes[column]);
      }
      place += sizes[column];
    }
  }
  if (rows > 0) {
    write_data(dataset, name, row_in_file.id(), bytes.data());
  }
  write_attribute(dataset, "units", describe(columns));
  write_attribute(dataset, kChecksum, checksum_of(name, {rows}, row_in_file.id(), bytes));
}

nlohmann::ordered_json cells_as_json(const std::vector<Column>& columns, std::size_t rows,
                                     const Cell& cell) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (std::size_t row = 0; row < rows; ++row) {
    nlohmann::ordered_json object = nlohmann::ordered_json::object();
    for (std::size_t column = 0; column < columns.size(); ++column) {
      object[columns[column].name] = cell_as_json(columns[column].type, cell(row, column));
    }
    list.push_back(std::move(object));
  }
  return list;
}

void read_cells(const Handle& parent, const std::string& name, const std::vector<Column>& columns,
                const std::function<void(std::size_t rows)>& resize,
                const std::function<void*(std::size_t row, std::size_t column)>& cell) {
  const OpenDataset table = open_dataset(parent, name, 1);
  if (H5Tget_class(table.type.id()) != H5T_COMPOUND) {
    throw UserError(fmt::format("'{}' is not a table", name));
  }
  const std::vector<std::size_t> sizes = stored_sizes(table.type, columns, name);
  const std::size_t rows = checked_count(table);
  std::vector<std::byte> bytes(rows * H5Tget_size(table.type.id()));
  if (rows > 0) {
    read_data(table, bytes.data());
  }
  require_unchanged(table, bytes);
  resize(rows);
  const std::byte* source = bytes.data();
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t column = 0; column < columns.size(); ++column) {
      void* place = cell(row, column);
      if (columns[column].type == Type::kText) {
        const auto* text = reinterpret_cast<const char*>(source);
        static_cast<std::string*>(place)->assign(text, std::find(text, text + sizes[column], '\0'));
      } else {
        std::memcpy(place, source, sizes[column]);
      }
      source += sizes[column];
    }
  }
}

}  // namespace bipo::hdf5
