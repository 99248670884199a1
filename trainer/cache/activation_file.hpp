// Files of cached activations, which later runs open.  None is trusted: every block of a file has a
// checksum, and so has everything else in it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "collectives/foundation/file_descriptor.hpp"
#include "trainer/cache/activation_store.hpp"

namespace bipo {

// What is wrong with a file, in the order of importance.
enum class FileFlaw : std::int64_t {
  kNone,
  kAbsent,
  kForeign,     // belongs to another user, who could have written anything into it
  kDiffers,     // the ranks see different files
  kUnreadable,  // the system refuses
  kNoFile,      // a directory or a device
  kWrongSize,
  kDamaged,
};

// Whether people should hear of it: not so of what was never there.
bool is_remarkable(FileFlaw flaw);

// Says what is wrong, as the end of a sentence that begins with the file's name.
std::string described(FileFlaw flaw);

// Why a file could not be written.
struct WriteProblem {
  std::int64_t call = 0;   // of those that describe_problem() knows
  std::int64_t error = 0;  // errno

  // As one number that is not 0, which ranks can compare, and back.
  std::int64_t code() const;
  static WriteProblem from_code(std::int64_t code);
  std::string described() const;
};

// Returns a file of activations in `directory` that belongs to another user than this one and root,
// or an empty path.
std::filesystem::path foreign_store(const std::filesystem::path& directory);

// Removes what killed processes left in `directory` of files that they were writing.
void remove_abandoned_stores(const std::filesystem::path& directory);

// The file `directory`/`key`.activations.
class ActivationFile {
 public:
  // Opens it, if it is there, and reads its checksums.  A file of another user counts as none
  // unless it `trusts_others`.  Never throws for what is wrong with the file: see flaw().  Local.
  ActivationFile(const StoreShape& shape, const std::filesystem::path& directory, std::uint64_t key,
                 bool trusts_others);
  ActivationFile(const ActivationFile&) = delete;
  ActivationFile& operator=(const ActivationFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  FileFlaw flaw() const { return flaw_; }

  // Equal for files with equal content.
  std::uint64_t content() const { return content_; }

  // Reads part `part` of `parts` into `store` and verifies what was read.  What is in memory
  // afterwards does not change with the file any more.  Local; threads share the work.
  FileFlaw read(const ActivationStore& store, int part, int parts) const;

  // Closes the file, removes it from the directory if it can be.
  void remove();

  // Writes everything in `store` to a new file, which gets its name only when it is whole, and
  // replaces what has that name.  Returns what went wrong; the directory is then as before.  Local.
  std::optional<WriteProblem> write(const ActivationStore& store) const;

 private:
  FileFlaw open(bool trusts_others);
  bool read_checksums(std::uint64_t bytes);

  StoreShape shape_;
  std::filesystem::path path_;
  std::uint64_t key_;
  FileDescriptor file_;
  FileFlaw flaw_ = FileFlaw::kAbsent;
  std::vector<std::uint64_t> checksums_;  // of the blocks
  std::uint64_t content_ = 0;
};

}  // namespace bipo
