// The record that a cell of a sweep failed, and why: DIR/failures/<cell>.json.
#include "experiments/sweeps/cell_failure.hpp"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <span>
#include <system_error>

#include "collectives/foundation/errors.hpp"
#include "experiments/files/atomic_file.hpp"
#include "experiments/files/process_identity.hpp"
#include "experiments/files/utc_time.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

fs::path record_path(const fs::path& directory, const std::string& cell) {
  return directory / "failures" / (cell + ".json");
}

}  // namespace

void write_failure(const fs::path& directory, const std::string& cell, const std::string& reason) {
  const fs::path path = record_path(directory, cell);
  std::error_code error;
  fs::create_directory(path.parent_path(), error);
  if (error) {
    throw EnvironmentError(fmt::format("cannot make the directory {}: {}",
                                       path.parent_path().string(), error.message()));
  }
  const nlohmann::ordered_json json = {
      {"reason", reason}, {"utc", utc_text()}, {"host", host_name()}};
  constexpr auto replace_bad_utf8 = nlohmann::ordered_json::error_handler_t::replace;
  const std::string text = json.dump(2, ' ', false, replace_bad_utf8) + '\n';
  remove_stale_temps(path);
  replace_file(path, std::as_bytes(std::span(text)));
}

std::optional<CellFailure> read_failure(const fs::path& directory, const std::string& cell) {
  const fs::path path = record_path(directory, cell);
  std::ifstream file(path, std::ios::binary);
  std::error_code ignored;
  if (!file && !fs::exists(path, ignored)) {
    return std::nullopt;
  }
  try {
    const auto json = nlohmann::json::parse(file);
    return CellFailure{json.at("reason").get<std::string>(), json.at("utc").get<std::string>(),
                       json.at("host").get<std::string>()};
  } catch (const nlohmann::json::exception&) {
    return CellFailure{fmt::format("unknown: its record {} cannot be read", path.string()), "", ""};
  }
}

void clear_failure(const fs::path& directory, const std::string& cell) {
  const fs::path path = record_path(directory, cell);
  std::error_code error;
  fs::remove(path, error);
  if (error) {
    throw EnvironmentError(fmt::format("cannot remove {}: {}", path.string(), error.message()));
  }
}

}  // namespace bipo
