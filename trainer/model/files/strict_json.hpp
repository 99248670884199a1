// Parses JSON in which a repeated key is an error: the header of a safetensors file, a shard index,
// an adapter's configuration.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace bipo {

// `where` stands for the text in messages.  Throws UserError for text that is no JSON, for objects
// with a key that appears twice (parsers differ in which one they keep) and for nesting deeper than
// any of these files needs.  `Json` is nlohmann::json, or nlohmann::ordered_json to keep the order
// of keys.
template <typename Json>
Json parse_strict_json(std::string_view text, const std::string& where);

// A whole file of at most `most_bytes`.  Throws UserError as above, and for a file that is missing
// or longer.
template <typename Json>
Json read_strict_json(const std::filesystem::path& path, std::uint64_t most_bytes);

}  // namespace bipo
