// Stands in for the reader where the program is built without Arrow.
#ifndef BIPO_HAVE_ARROW

#include <fmt/format.h>

#include "collectives/foundation/errors.hpp"
#include "datasets/arrow/arrow_rows.hpp"

namespace bipo {

void for_each_arrow_row(
    const std::filesystem::path& path,
    const std::function<void(const std::vector<std::string>& names, const std::string& where)>&,
    const std::function<void(const std::function<nlohmann::ordered_json()>& make,
                             const std::string& where)>&) {
  throw UserError(fmt::format(
      "{0}: this program was built without Arrow and reads neither Parquet nor Arrow files; build "
      "it with pyarrow beside torch, or convert the file: python -c \"import datasets; "
      "datasets.load_dataset('{1}', data_files='{0}', split='train').to_json('rows.jsonl')\"",
      path.string(), path.extension() == ".parquet" ? "parquet" : "arrow"));
}

std::string arrow_version() {
  return "";
}

}  // namespace bipo

#endif  // BIPO_HAVE_ARROW
