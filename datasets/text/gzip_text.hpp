// Unpacks gzip files (RFC 1952).
#pragma once

#include <string>
#include <string_view>

namespace bipo {

bool is_gzip(std::string_view bytes);  // whether they begin with gzip's mark

// Returns the unpacked bytes of all members.  Throws UserError, which begins with `file`, for bytes
// that are damaged or cut short.
std::string gunzip(std::string_view bytes, const std::string& file);

}  // namespace bipo
