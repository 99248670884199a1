// Typed access to the fields of a config.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace bipo {

// An object of a config.json.  Every function throws UserError, naming file and field, if a field
// is not of the requested kind.  A null counts as absent unless the function says otherwise.
// Remembers which fields have been read.
class ConfigFields {
 public:
  // Reads the file.
  explicit ConfigFields(const std::filesystem::path& path);

  // Takes what the file `path` would hold.
  ConfigFields(const std::filesystem::path& path, const nlohmann::json& json)
      : ConfigFields(path, "", json) {}

  bool has(const char* name) const;
  const nlohmann::json& at(const char* name) const;  // must exist

  // A positive size, so small that products of two sizes do not overflow.
  std::int64_t size(const char* name) const;
  std::int64_t size_or(const char* name, std::int64_t otherwise) const;

  std::int64_t count_or(const char* name, std::int64_t otherwise) const;  // 0 or a size

  double positive(const char* name) const;
  double positive_or(const char* name, double otherwise) const;

  // Return 0 for a null, `otherwise` for an absent field.
  std::int64_t size_unless_null(const char* name, std::int64_t otherwise) const;
  double positive_unless_null(const char* name, double otherwise) const;

  bool truth_or(const char* name, bool otherwise) const;
  std::optional<std::string> text(const char* name) const;
  std::vector<std::string> texts(const char* name) const;
  std::vector<double> positives(const char* name) const;

  // Returns a field that is an object itself.
  ConfigFields object(const char* name) const;

  // Refuses any value but the one that this program implements; the field may be absent.
  void require(const char* name, const nlohmann::json& value) const;

  bool was_read(const std::string& name) const { return read_.contains(name); }

  // Returns the fields that no function above has asked for, unless they hold nothing: null, false,
  // 0, or an empty text, list or object.
  std::vector<std::string> unread() const;

  // Returns name and value of an existing field as a message shows them, shortened if long.
  std::string shown(const std::string& name) const;

  // Returns an object of the same file whose fields were put together from several places; `prefix`
  // precedes names in messages.
  ConfigFields part(std::string prefix, nlohmann::json values) const;

  // Returns a message with the file and the object's name before `what`.
  std::string located(const std::string& what) const;

  // Throws UserError with located(what).
  [[noreturn]] void refuse(const std::string& what) const;

 private:
  bool is_null(const char* name) const;
  ConfigFields(std::filesystem::path path, std::string prefix, nlohmann::json json);

  std::filesystem::path path_;
  std::string prefix_;  // precedes names in messages
  nlohmann::json json_;
  mutable std::set<std::string> read_;
};

}  // namespace bipo
