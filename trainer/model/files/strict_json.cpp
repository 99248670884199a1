#include "trainer/model/files/strict_json.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/untrusted_json.hpp"
#include "trainer/model/files/mapped_file.hpp"

namespace bipo {
namespace {

// Receives each parse event of a text.
template <typename Json>
class KeyCheck {
 public:
  explicit KeyCheck(const std::string& where) : where_(where) {}

  void see(typename Json::parse_event_t event, const Json& parsed) {
    using Event = typename Json::parse_event_t;
    if (event == Event::object_start) {
      keys_.emplace_back();
    } else if (event == Event::object_end) {
      keys_.pop_back();
    } else if (event == Event::key) {
      const auto& key = parsed.template get_ref<const std::string&>();
      if (!keys_.back().insert(key).second) {
        throw UserError(fmt::format("{}: key \"{}\" appears twice", where_, key));
      }
    }
  }

 private:
  const std::string& where_;
  std::vector<std::set<std::string>> keys_;  // of the objects that are open
};

}  // namespace

template <typename Json>
Json parse_strict_json(std::string_view text, const std::string& where) {
  if (is_nested_too_deeply(text)) {
    throw UserError(fmt::format("{}: nested more than {} levels deep", where, kDeepestJson));
  }
  KeyCheck<Json> keys(where);
  try {
    return Json::parse(text, [&](int, typename Json::parse_event_t event, Json& parsed) {
      keys.see(event, parsed);
      return true;
    });
  } catch (const typename Json::exception& error) {
    throw UserError(fmt::format("{}: not valid JSON: {}", where, error.what()));
  }
}

template <typename Json>
Json read_strict_json(const std::filesystem::path& path, std::uint64_t most_bytes) {
  const MappedFile file(path);
  if (file.bytes().size() > most_bytes) {
    throw UserError(fmt::format("{}: has {} bytes; such a file may have at most {}", path.string(),
                                file.bytes().size(), most_bytes));
  }
  return parse_strict_json<Json>(
      {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()}, path.string());
}

template nlohmann::json parse_strict_json(std::string_view, const std::string&);
template nlohmann::ordered_json parse_strict_json(std::string_view, const std::string&);
template nlohmann::json read_strict_json(const std::filesystem::path&, std::uint64_t);
template nlohmann::ordered_json read_strict_json(const std::filesystem::path&, std::uint64_t);

}  // namespace bipo
