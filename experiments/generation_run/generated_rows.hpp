// Generated answers as rows of a JSON Lines file.
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
  std::vector<double> multipliers;  // one for each vector; told where there are several
  std::string text;
  const GeneratedText& generated;
};

// One line, with its line break; see `generate --help`.
std::string json_row(const GeneratedRow& row);

// Appends rows to a file; what is written is never taken back.
class RowFile {
 public:
  // Replaces what is there.  Throws UserError where the file cannot be written.
  explicit RowFile(const std::filesystem::path& path);

  // On disk when it returns.  Throws EnvironmentError, as where the disk is full.
  void append(const std::string& rows);

 private:
  std::filesystem::path path_;
  FileDescriptor file_;
};

}  // namespace bipo
