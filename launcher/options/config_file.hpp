// Reads the INI file that --config names into its keys and values, each with its line.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace bipo {

struct ConfigEntry {
  std::string section;  // empty before the first [section]
  std::string key;
  std::string value;  // as written, without the blanks around it
  int line = 0;       // from 1
};

// Accepts `key = value` lines, `[section]` lines, empty lines, and comments: lines whose first
// character is '#' or ';'.  Everything after the first '=' is the value, '#' and quotes included
// (Boost's own reader cuts a value at '#', which a system prompt may contain).  Throws UserError
// with file and line.
std::vector<ConfigEntry> read_config_file(const std::filesystem::path& path);

}  // namespace bipo
