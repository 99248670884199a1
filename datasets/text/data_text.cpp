// Reads whole text files of data, with the checks that every format needs.
#include "datasets/text/data_text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <fstream>
#include <iterator>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

std::string read_bytes(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    throw UserError(fmt::format("{}: no such data file", path.string()));
  }
  if (std::filesystem::is_directory(path, error)) {
    throw UserError(
        fmt::format("{}: is a directory; name a .csv or .jsonl file in it", path.string()));
  }
  std::ifstream stream(path, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  if (!stream) {
    throw UserError(fmt::format("{}: cannot be read; check the file's permissions", path.string()));
  }
  return bytes;
}

// Length of the UTF-8 sequence that begins `text`, 0 where it is not one (Unicode 15, table 3-7).
std::size_t utf8_sequence_length(std::string_view text) {
  const auto byte = [&](std::size_t index) { return static_cast<unsigned char>(text[index]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) {
    return 1;
  }
  const std::size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < length) {
    return 0;
  }
  for (std::size_t index = 1; index < length; ++index) {
    if ((byte(index) & 0xC0) != 0x80) {
      return 0;
    }
  }
  const bool overlong = (lead == 0xE0 && byte(1) < 0xA0) || (lead == 0xF0 && byte(1) < 0x90);
  const bool surrogate = lead == 0xED && byte(1) >= 0xA0;
  const bool beyond_unicode = lead == 0xF4 && byte(1) >= 0x90;
  return overlong || surrogate || beyond_unicode ? 0 : length;
}

}  // namespace

bool is_blank(std::string_view text) {
  return text.find_first_not_of(kBlanks) == std::string_view::npos;
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
  for (std::size_t position = 0; position < text.size();) {
    const std::size_t length = utf8_sequence_length(text.substr(position));
    if (length == 0) {
      throw UserError(
          fmt::format("{}: byte {:#04x} is not valid UTF-8; save the file with UTF-8 encoding",
                      where, static_cast<unsigned char>(text[position])));
    }
    position += length;
  }
}

std::string lower_extension(const std::filesystem::path& path) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(), [](char character) {
    return character >= 'A' && character <= 'Z' ? static_cast<char>(character - 'A' + 'a')
                                                : character;
  });
  return extension;
}

}  // namespace bipo
