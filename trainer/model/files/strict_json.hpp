// Parses JSON and refuses repeated keys: the header of a safetensors file, a shard index, an
// adapter's configuration.  (datasets/text/untrusted_json keeps the last of repeated keys.)
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace bipo {

// `where` names the text in messages.  Throws UserError for text that is not JSON, for an object
// with a repeated key (parsers differ in which one they keep) and for nesting deeper than any of
// these files needs.  `Json` is nlohmann::json, or nlohmann::ordered_json to keep the order of
// keys.
template <typename Json>
Json parse_strict_json(std::string_view text, const std::string& where);

// Parses a whole file of at most `most_bytes`.  Throws UserError as above, and for a file that is
// missing or longer.
template <typename Json>
Json read_strict_json(const std::filesystem::path& path, std::uint64_t most_bytes);

}  // namespace bipo
