#include "trainer/model/untrusted_json.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "collectives/errors.hpp"
#include "trainer/model/mapped_file.hpp"

namespace bipo {
namespace {

// Printing, copying and comparing values recurse as deep as they are nested.
constexpr int kDeepest = 32;

// Sees each part of a text as it is parsed.
template <typename Json>
class Strictness {
 public:
  explicit Strictness(const std::string& where) : where_(where) {}

  void check(int depth, typename Json::parse_event_t event, const Json& parsed) {
    using Event = typename Json::parse_event_t;
    if (depth > kDeepest) {
      throw UserError(fmt::format("{}: nested more than {} levels deep", where_, kDeepest));
    }
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
Json parse_untrusted_json(std::string_view text, const std::string& where) {
  Strictness<Json> strictness(where);
  try {
    return Json::parse(text, [&](int depth, typename Json::parse_event_t event, Json& parsed) {
      strictness.check(depth, event, parsed);
      return true;
    });
  } catch (const typename Json::exception& error) {
    throw UserError(fmt::format("{}: not valid JSON: {}", where, error.what()));
  }
}

template <typename Json>
Json read_untrusted_json(const std::filesystem::path& path, std::uint64_t most_bytes) {
  const MappedFile file(path);
  if (file.bytes().size() > most_bytes) {
    throw UserError(fmt::format("{}: has {} bytes, more than the {} that such a file may have",
                                path.string(), file.bytes().size(), most_bytes));
  }
  return parse_untrusted_json<Json>(
      {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()}, path.string());
}

template nlohmann::json parse_untrusted_json(std::string_view, const std::string&);
template nlohmann::ordered_json parse_untrusted_json(std::string_view, const std::string&);
template nlohmann::json read_untrusted_json(const std::filesystem::path&, std::uint64_t);
template nlohmann::ordered_json read_untrusted_json(const std::filesystem::path&, std::uint64_t);

}  // namespace bipo
