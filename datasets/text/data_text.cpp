#include "datasets/text/data_text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>

#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/input_file.hpp"
#include "datasets/text/gzip_text.hpp"
#include "datasets/text/unicode_text.hpp"

namespace bipo {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

std::string read_bytes(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    throw UserError(fmt::format("{}: no such data file", path.string()));
  }
  if (std::filesystem::is_directory(path, error)) {
    throw UserError(fmt::format("{}: is a directory; name a file of data in it", path.string()));
  }
  std::string bytes = read_input_file(path, kMostTextBytes);
  return is_gzip(bytes) ? gunzip(bytes, path.string()) : bytes;
}

}  // namespace

bool is_blank(std::string_view text) {
  return text.find_first_not_of(kBlanks) == std::string_view::npos;
}

std::string_view without_blanks(std::string_view text) {
  const std::size_t begin = std::min(text.find_first_not_of(kBlanks), text.size());
  return text.substr(begin, text.find_last_not_of(kBlanks) + 1 - begin);
}

std::string read_data_text(const std::filesystem::path& path) {
  std::string text = read_bytes(path);
  if (text.starts_with(kByteOrderMark)) {
    text.erase(0, kByteOrderMark.size());
  }
  if (is_blank(text)) {
    throw UserError(fmt::format("{}: the data file is empty", path.string()));
  }
  return text;
}

void require_no_nul(std::string_view text, const std::string& where) {
  if (text.find('\0') != std::string_view::npos) {
    throw UserError(fmt::format("{}: the row holds a NUL character; remove it", where));
  }
}

void require_text(std::string_view text, const std::string& where) {
  require_no_nul(text, where);
  const std::size_t offset = well_formed_length(text);
  if (offset < text.size()) {
    throw UserError(
        fmt::format("{}: byte {:#04x} is not valid UTF-8; save the file with UTF-8 encoding", where,
                    static_cast<unsigned char>(text[offset])));
  }
}

namespace {

std::string lower_extension(const std::filesystem::path& path) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(), [](char character) {
    return character >= 'A' && character <= 'Z' ? static_cast<char>(character - 'A' + 'a')
                                                : character;
  });
  return extension;
}

}  // namespace

std::string data_suffix(const std::filesystem::path& path) {
  const std::string extension = lower_extension(path);
  return extension == ".gz" ? lower_extension(path.stem()) : extension;
}

bool names_json(std::string_view suffix) {
  return suffix == ".jsonl" || suffix == ".ndjson" || suffix == ".json";
}

}  // namespace bipo
