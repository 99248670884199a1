#include "experiments/runs/conceptor_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <system_error>

#include "collectives/foundation/errors.hpp"
#include "experiments/files/atomic_file.hpp"
#include "experiments/files/hdf5.hpp"

namespace bipo {
namespace {

using hdf5::Handle;

constexpr const char* kMatrix = "conceptor";
constexpr const char* kAperture = "aperture";
constexpr const char* kAbsoluteAperture = "absolute_aperture";

// Eigenvalues between 0 and 1 leave no number of a symmetric matrix beyond 1, and none of its
// diagonal below 0; the logic of conceptors may add rounding.
constexpr double kRounding = 1e-6;

constexpr hdf5::Attribute<ConceptorAttributes> kConceptorAttributes[] = {
    {"layer", &ConceptorAttributes::layer, 0}};

constexpr hdf5::FileKind kConceptorFileKind = {
    "a conceptor file",
    "extract --method conceptor",
    "conceptor",
    kConceptorFileSchema,
    "; name a file that `bipo-dist extract --method conceptor` wrote",
    "; take an intact copy, or extract it anew"};

// A newer one is a conceptor's file, too.
constexpr hdf5::FileKind kAnyConceptorFile = {
    kConceptorFileKind.noun,       kConceptorFileKind.command,
    kConceptorFileKind.kind,       std::numeric_limits<std::int64_t>::max(),
    kConceptorFileKind.if_foreign, kConceptorFileKind.if_damaged};

// Attributes are integers and texts: a number is the shortest text that stands for it.
void write_number(const Handle& file, const char* name, std::optional<double> number) {
  if (number) {
    hdf5::write_attribute(file, name, fmt::format("{}", *number));
  }
}

std::optional<double> read_number(const Handle& file, const char* name) {
  const std::vector<std::string> names = hdf5::attribute_names(file);
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    return std::nullopt;
  }
  const std::string text = hdf5::read_text_attribute(file, name);
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) {
    throw UserError(fmt::format("attribute '{}' is '{}', not a number", name, text));
  }
  return number;
}

// The same rules apply to what is written and to what is read.
void check_conceptor(const ConceptorRecord& record) {
  const auto hidden = static_cast<std::size_t>(record.attributes.hidden_size);
  if (record.attributes.layer < 0 || record.attributes.hidden_size < 1) {
    throw UserError(fmt::format("layer is {} and hidden_size {}", record.attributes.layer,
                                record.attributes.hidden_size));
  }
  if (!nlohmann::json::parse(record.attributes.config, nullptr, /*allow_exceptions=*/false)
           .is_object()) {
    throw UserError("config is not a JSON object");
  }
  for (const std::optional<double>& aperture :
       {record.attributes.aperture, record.attributes.absolute_aperture}) {
    if (aperture && !(std::isfinite(*aperture) && *aperture > 0)) {
      throw UserError(fmt::format("an aperture is {}, not a finite number above 0", *aperture));
    }
  }
  if (record.matrix.size() != hidden * hidden) {
    throw UserError(fmt::format("the conceptor has {} numbers, hidden_size is {}",
                                record.matrix.size(), hidden));
  }
  for (std::size_t i = 0; i < hidden; ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      const double number = record.matrix[i * hidden + j];
      if (!std::isfinite(number) || number != record.matrix[j * hidden + i]) {
        throw UserError(
            fmt::format("the conceptor is not symmetric and finite: its row {} has {} in column "
                        "{}, where row {} has {} in column {}",
                        i, number, j, j, record.matrix[j * hidden + i], i));
      }
      const double least = i == j ? 0 : -1;
      if (number < least - kRounding || number > 1 + kRounding) {
        throw UserError(fmt::format(
            "the conceptor has {} in row {}, column {}, where eigenvalues between 0 and 1 leave {} "
            "to 1: it is another matrix",
            number, i, j, least));
      }
    }
  }
}

ConceptorRecord read_conceptor(const Handle& file) {
  ConceptorRecord record;
  ConceptorAttributes& attributes = record.attributes;
  hdf5::read_attributes<ConceptorAttributes>(file, kConceptorAttributes, attributes);
  hdf5::read_attributes<JobAttributes>(file, kJobAttributes, attributes);
  attributes.aperture = read_number(file, kAperture);
  attributes.absolute_aperture = read_number(file, kAbsoluteAperture);
  record.matrix = hdf5::read_array<double>(file, kMatrix, 2).values;
  check_conceptor(record);
  return record;
}

// Its kind alone decides, so that nothing else of the file is read.
bool read_is_conceptor(const Handle& /*file*/) {
  return true;
}

const hdf5::Reading<ConceptorRecord> kConceptor("conceptor", kConceptorFileKind, read_conceptor);
const hdf5::Reading<bool> kIsConceptor("kind of conceptor", kAnyConceptorFile, read_is_conceptor);

}  // namespace

void write_conceptor_file(const std::filesystem::path& path, const ConceptorRecord& record) {
  try {
    check_conceptor(record);
  } catch (const UserError& error) {
    throw BugError(fmt::format("refusing to write {}: {}", path.string(), error.what()));
  }
  const hdf5::ErrorPrintingOff quiet;
  const Handle file = hdf5::create_memory_file();
  const ConceptorAttributes& attributes = record.attributes;
  hdf5::write_identity(file, kConceptorFileKind);
  hdf5::write_attributes<ConceptorAttributes>(file, kConceptorAttributes, attributes);
  hdf5::write_attributes<JobAttributes>(file, kJobAttributes, attributes);
  write_number(file, kAperture, attributes.aperture);
  write_number(file, kAbsoluteAperture, attributes.absolute_aperture);
  hdf5::write_attributes_checksum(file);
  const auto hidden = static_cast<hsize_t>(attributes.hidden_size);
  hdf5::write_array(file, kMatrix, {hidden, hidden}, record.matrix.data(),
                    {"1", "hidden dimension, hidden dimension"});
  replace_file(path, hdf5::sealed_image(file));
}

ConceptorRecord read_conceptor_file(const std::filesystem::path& path) {
  return kConceptor.from(path);
}

bool is_conceptor_file(const std::filesystem::path& path) {
  try {
    return kIsConceptor.from(path);
  } catch (const UserError&) {
    return false;
  }
}

double quota_of(const ConceptorRecord& record) {
  const auto hidden = static_cast<std::size_t>(record.attributes.hidden_size);
  double sum = 0;
  for (std::size_t i = 0; i < hidden; ++i) {
    sum += record.matrix[i * hidden + i];
  }
  return sum / static_cast<double>(hidden);
}

}  // namespace bipo
