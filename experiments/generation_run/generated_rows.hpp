// Writes generated answers as rows of a JSON Lines file.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "datasets/rows/prompt_list.hpp"
#include "experiments/files/file_descriptor.hpp"
#include "experiments/generation/generation.hpp"

namespace bipo {

struct GeneratedRow {
  std::int64_t prompt_index = 0;
  const Prompt& prompt;
  double multiplier = 0;
  std::vector<double> multipliers;  // one for each vector; written if there are several
  std::string text;
  const GeneratedText& generated;
};

// Returns one line with its line break; see `generate --help`.
std::string json_row(const GeneratedRow& row);

// Appends rows to a file; never removes what is written.
class RowFile {
 public:
  // Replaces an existing file.  Throws UserError if the file cannot be written.
  explicit RowFile(const std::filesystem::path& path);

  // Returns when the rows are on disk.  Throws EnvironmentError, for instance if the disk is full.
  void append(const std::string& rows);

 private:
  std::filesystem::path path_;
  FileDescriptor file_;
};

}  // namespace bipo
