// The metadata keys of one architecture in a GGUF file.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <set>
#include <string>
#include <vector>

#include "trainer/model/gguf/gguf_file.hpp"

namespace bipo {

// Far above any model's sizes; products of two sizes do not overflow.
inline constexpr std::int64_t kLargestGgufSize = std::int64_t{1} << 24;

// Reads the keys that begin with the architecture's name, which the callers leave out, and
// remembers which ones were asked for.  Throws UserError that names file and key.
class ArchitectureKeys {
 public:
  // `file` must outlive the object.
  ArchitectureKeys(const GgufFile& file, const std::string& architecture)
      : file_(file), prefix_(architecture + ".") {}

  [[noreturn]] void refuse(const std::string& what) const;
  std::string full(const char* key) const { return prefix_ + key; }
  // Returns `what` after the name of the file.
  std::string located(const std::string& what) const;

  const GgufValue* find(const char* key);  // nullptr if there is none
  bool has(const char* key) { return find(key) != nullptr; }

  // From 1 to kLargestGgufSize.
  std::int64_t size(const char* key);
  std::int64_t size_or(const char* key, std::int64_t otherwise);
  // For keys that some converters omit and others write as 0.
  std::int64_t size_or_zero(const char* key);

  // Finite and above 0.
  double positive(const char* key);
  double positive_or(const char* key, double otherwise);

  // Refuse any value but the one that this program implements; the key may be absent.
  void require_size(const char* key, std::int64_t expected, const char* because);
  void require_number(const char* key, double expected);
  void require_truth(const char* key, bool expected);

  void ignore(const char* key) { understood_.insert(full(key)); }

  // Ignores a key that was not asked for before if its value is one of `neutral`, up to the
  // rounding of float32.
  void accept_number(const char* key, std::initializer_list<double> neutral);

  // Refuses keys of the architecture that were neither asked for nor ignored.
  void refuse_unknown() const;

  // Returns the keys on attention and positions that begin with another name.
  std::vector<std::string> of_other_architectures() const;

 private:
  const GgufFile& file_;
  std::string prefix_;
  std::set<std::string> understood_;
};

}  // namespace bipo
