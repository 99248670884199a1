#ifdef BIPO_HAVE_ARROW

#include "datasets/arrow/arrow_rows.hpp"

#include <arrow/api.h>
#include <arrow/extension_type.h>
#include <arrow/io/file.h>
#include <arrow/ipc/reader.h>
#include <arrow/util/key_value_metadata.h>
#include <fmt/format.h>
#include <parquet/arrow/reader.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/input_file.hpp"
#include "datasets/text/data_text.hpp"
#include "datasets/text/untrusted_json.hpp"

namespace bipo {
namespace {

using Json = nlohmann::ordered_json;

void checked(const arrow::Status& status, const std::string& file) {
  if (!status.ok()) {
    throw UserError(fmt::format("{}: cannot be read ({}); get or write the file again", file,
                                status.message()));
  }
}

template <typename Value>
Value checked_result(arrow::Result<Value> result, const std::string& file) {
  checked(result.status(), file);
  return *std::move(result);
}

// One batch's values as JSON.  `feature` describes a column to datasets: null, or what its metadata
// hold.  Members of type Json are stored as text.
class ValueReader {
 public:
  explicit ValueReader(std::string where) : where_(std::move(where)) {}

  Json value(const arrow::Array& array, std::int64_t at, const Json& feature) const {
    if (array.IsNull(at)) {
      return nullptr;
    }
    switch (array.type_id()) {
      case arrow::Type::BOOL:
        return static_cast<const arrow::BooleanArray&>(array).Value(at);
      case arrow::Type::INT8:
        return static_cast<const arrow::Int8Array&>(array).Value(at);
      case arrow::Type::INT16:
        return static_cast<const arrow::Int16Array&>(array).Value(at);
      case arrow::Type::INT32:
        return static_cast<const arrow::Int32Array&>(array).Value(at);
      case arrow::Type::INT64:
        return static_cast<const arrow::Int64Array&>(array).Value(at);
      case arrow::Type::UINT8:
        return static_cast<const arrow::UInt8Array&>(array).Value(at);
      case arrow::Type::UINT16:
        return static_cast<const arrow::UInt16Array&>(array).Value(at);
      case arrow::Type::UINT32:
        return static_cast<const arrow::UInt32Array&>(array).Value(at);
      case arrow::Type::UINT64:
        return static_cast<const arrow::UInt64Array&>(array).Value(at);
      case arrow::Type::FLOAT:
        return static_cast<const arrow::FloatArray&>(array).Value(at);
      case arrow::Type::DOUBLE:
        return static_cast<const arrow::DoubleArray&>(array).Value(at);
      case arrow::Type::STRING:
        return text(static_cast<const arrow::StringArray&>(array).GetView(at), feature);
      case arrow::Type::LARGE_STRING:
        return text(static_cast<const arrow::LargeStringArray&>(array).GetView(at), feature);
      case arrow::Type::STRING_VIEW:
        return text(static_cast<const arrow::StringViewArray&>(array).GetView(at), feature);
      case arrow::Type::LIST:
        return list(*static_cast<const arrow::ListArray&>(array).value_slice(at), feature);
      case arrow::Type::LARGE_LIST:
        return list(*static_cast<const arrow::LargeListArray&>(array).value_slice(at), feature);
      case arrow::Type::FIXED_SIZE_LIST:
        return list(*static_cast<const arrow::FixedSizeListArray&>(array).value_slice(at), feature);
      case arrow::Type::LIST_VIEW:
        return list(*static_cast<const arrow::ListViewArray&>(array).value_slice(at), feature);
      case arrow::Type::STRUCT:
        return object(static_cast<const arrow::StructArray&>(array), at, feature);
      case arrow::Type::DICTIONARY: {
        const auto& indexed = static_cast<const arrow::DictionaryArray&>(array);
        return value(*indexed.dictionary(), indexed.GetValueIndex(at), feature);
      }
      case arrow::Type::EXTENSION: {
        const auto& extended = static_cast<const arrow::ExtensionArray&>(array);
        const auto& type = static_cast<const arrow::ExtensionType&>(*extended.type());
        static const Json json_feature = {{"_type", "Json"}};
        return value(*extended.storage(), at,
                     type.extension_name() == "arrow.json" ? json_feature : feature);
      }
      case arrow::Type::BINARY:
      case arrow::Type::LARGE_BINARY:
      case arrow::Type::BINARY_VIEW:
      case arrow::Type::FIXED_SIZE_BINARY:
        return "(bytes)";
      default: {  // dates, decimals: never part of a conversation
        const std::string shown = checked_result(array.GetScalar(at), where_)->ToString();
        return Json(shown.substr(0, 1000));
      }
    }
  }

 private:
  Json text(std::string_view text, const Json& feature) const {
    require_text(text, where_);
    if (feature.is_object() && feature.value("_type", Json()) == "Json") {
      return parse_ordered_json(text, where_, "a member of type Json must hold JSON");
    }
    return std::string(text);
  }

  Json list(const arrow::Array& values, const Json& feature) const {
    auto result = Json::array();
    const Json element = element_feature(feature);
    for (std::int64_t i = 0; i < values.length(); ++i) {
      result.push_back(value(values, i, element));
    }
    return result;
  }

  Json object(const arrow::StructArray& members, std::int64_t at, const Json& feature) const {
    auto result = Json::object();
    for (int i = 0; i < members.num_fields(); ++i) {
      const std::string& name = members.struct_type()->field(i)->name();
      result[name] = value(*members.field(i), at, member_feature(feature, name));
    }
    return result;
  }

  // datasets writes {"_type": "List", "feature": ...}, earlier versions [...] or "Sequence".
  static Json element_feature(const Json& feature) {
    if (feature.is_array() && !feature.empty()) {
      return feature.front();
    }
    return feature.is_object() ? feature.value("feature", Json()) : Json();
  }

  static Json member_feature(const Json& feature, const std::string& name) {
    return feature.is_object() ? feature.value(name, Json()) : Json();
  }

  std::string where_;
};

// Returns datasets' description of the columns; null if the file has none.
Json features_of(const arrow::Schema& schema, const std::string& file) {
  if (!schema.metadata() || !schema.metadata()->Contains("huggingface")) {
    return nullptr;
  }
  const Json described =
      parse_ordered_json(checked_result(schema.metadata()->Get("huggingface"), file),
                         file + ": metadata", "remove it");
  const auto info = described.is_object() ? described.value("info", Json()) : Json();
  return info.is_object() ? info.value("features", Json()) : Json();
}

std::shared_ptr<arrow::RecordBatchReader> open_parquet(
    const std::shared_ptr<arrow::io::RandomAccessFile>& input,
    std::unique_ptr<parquet::arrow::FileReader>& parquet, const std::string& file) {
  parquet = checked_result(parquet::arrow::OpenFile(input, arrow::default_memory_pool()), file);
  return checked_result(parquet->GetRecordBatchReader(), file);
}

// Arrow's file format begins with a mark, its stream format does not.
std::shared_ptr<arrow::RecordBatchReader> open_arrow(
    const std::shared_ptr<arrow::io::RandomAccessFile>& input, const std::string& file) {
  constexpr std::string_view kMark = "ARROW1";
  const std::shared_ptr<arrow::Buffer> begin =
      checked_result(input->ReadAt(0, static_cast<std::int64_t>(kMark.size())), file);
  if (begin->ToString() != kMark) {
    checked(input->Seek(0), file);  // wanted after ReadAt()
    return checked_result(arrow::ipc::RecordBatchStreamReader::Open(input), file);
  }
  const auto reader = checked_result(arrow::ipc::RecordBatchFileReader::Open(input), file);
  std::vector<std::shared_ptr<arrow::RecordBatch>> batches;
  for (int i = 0; i < reader->num_record_batches(); ++i) {
    batches.push_back(checked_result(reader->ReadRecordBatch(i), file));
  }
  return checked_result(arrow::RecordBatchReader::Make(std::move(batches), reader->schema()), file);
}

}  // namespace

void for_each_arrow_row(
    const std::filesystem::path& path,
    const std::function<void(const std::vector<std::string>& names, const std::string& where)>&
        columns,
    const std::function<void(const std::function<Json()>& make, const std::string& where)>& row) {
  const std::string file = path.string();
  if (!std::filesystem::exists(path)) {
    throw UserError(fmt::format("{}: no such data file", file));
  }
  const std::shared_ptr<arrow::io::ReadableFile> input =
      checked_result(arrow::io::ReadableFile::Open(::dup(InputFile(path).get())), file);
  std::unique_ptr<parquet::arrow::FileReader> parquet;  // must outlive its batches' reader
  const std::shared_ptr<arrow::RecordBatchReader> reader = data_suffix(path) == ".parquet"
                                                               ? open_parquet(input, parquet, file)
                                                               : open_arrow(input, file);
  columns(reader->schema()->field_names(), file);
  const Json features = features_of(*reader->schema(), file);
  std::size_t number = 0;
  while (const std::shared_ptr<arrow::RecordBatch> batch = checked_result(reader->Next(), file)) {
    checked(batch->ValidateFull(), file);  // offsets of a damaged file lead outside of its buffers
    for (std::int64_t at = 0; at < batch->num_rows(); ++at) {
      const std::string where = fmt::format("{}:{}", file, ++number);
      row(
          [&] {
            const ValueReader values(where);
            auto object = Json::object();
            for (int i = 0; i < batch->num_columns(); ++i) {
              const std::string& name = batch->column_name(i);
              const Json feature = features.is_object() ? features.value(name, Json()) : Json();
              object[name] = values.value(*batch->column(i), at, feature);
            }
            return object;
          },
          where);
    }
  }
}

std::string arrow_version() {
  return arrow::GetBuildInfo().version_string;
}

}  // namespace bipo

#endif  // BIPO_HAVE_ARROW
