#include "trainer/model/gguf/gguf_parts.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/files/mapped_file.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

constexpr const char* kCountKey = "split.count";
constexpr const char* kNumberKey = "split.no";
constexpr const char* kTensorsKey = "split.tensors.count";
constexpr std::int64_t kMostParts = 99999;  // five digits in a name

[[noreturn]] void refuse_file(const fs::path& path, const std::string& what) {
  throw UserError(fmt::format("{}: {}", path.string(), what));
}

// Which of how many parts a file is.
struct PartNumber {
  std::int64_t index = 0;  // from 0
  std::int64_t count = 1;

  bool operator==(const PartNumber&) const = default;
};

std::string described(const PartNumber& number) {
  return fmt::format("part {} of {}", number.index + 1, number.count);
}

std::string end_of_name(const PartNumber& number) {
  return fmt::format("-{:05}-of-{:05}.gguf", number.index + 1, number.count);
}

std::int64_t integer_within(const GgufPart& part, const char* key, std::int64_t otherwise,
                            std::int64_t most) {
  const auto found = part.contents.metadata.find(key);
  if (found == part.contents.metadata.end()) {
    return otherwise;
  }
  const std::int64_t value = found->second.integer().value_or(-1);
  if (value < 0 || value > most) {
    refuse_file(part.file->path(), fmt::format("metadata {} must be one integer from 0 to {}: the "
                                               "file is damaged",
                                               key, most));
  }
  return value;
}

// Returns {0, 1} for a model in one file.
PartNumber number_of(const GgufPart& part) {
  const std::int64_t count = integer_within(part, kCountKey, 1, kMostParts);
  if (count < 2) {
    return {};
  }
  return {integer_within(part, kNumberKey, 0, count - 1), count};
}

GgufPart open_part(const fs::path& path) {
  GgufPart part;
  part.file = std::make_unique<MappedFile>(path);
  part.contents = parse_gguf(part.file->bytes(), path.string());
  return part;
}

std::vector<fs::path> paths_of(const fs::path& named, const PartNumber& number) {
  const std::string end = end_of_name(number);
  std::string name = named.filename().string();
  if (!name.ends_with(end)) {
    refuse_file(named, fmt::format("is {} of one model ({}, {}), but its name does not end in {}, "
                                   "by which the other parts are found; give all parts the names "
                                   "that they were published under",
                                   described(number), kNumberKey, kCountKey, end));
  }
  name.resize(name.size() - end.size());
  std::vector<fs::path> paths;
  for (std::int64_t i = 0; i < number.count; ++i) {
    paths.push_back(named.parent_path() / (name + end_of_name({i, number.count})));
  }
  return paths;
}

void refuse_missing(const fs::path& named, const PartNumber& number,
                    const std::vector<fs::path>& paths) {
  constexpr std::size_t kMostNames = 5;
  std::vector<std::string> names;
  std::size_t missing = 0;
  for (const fs::path& path : paths) {
    std::error_code unreachable;
    if (!fs::is_regular_file(path, unreachable)) {
      ++missing;
      if (names.size() < kMostNames) {
        names.push_back(path.filename().string());
      }
    }
  }
  if (missing > 0) {
    refuse_file(named,
                fmt::format("is {} of one model, but {} {} not beside it: {}{}; all parts "
                            "must be in one folder",
                            described(number), missing, missing == 1 ? "part is" : "parts are",
                            fmt::join(names, ", "), missing > names.size() ? ", ..." : ""));
  }
}

// The parts after the first have no metadata of their own but what says which part they are; what
// they repeat must be the same.
void check_metadata(const GgufPart& first, const GgufPart& part) {
  for (const auto& [key, value] : part.contents.metadata) {
    if (key == kNumberKey || key == "general.alignment") {
      continue;
    }
    const auto found = first.contents.metadata.find(key);
    if (found == first.contents.metadata.end() || !found->second.equals(value)) {
      refuse_file(
          part.file->path(),
          fmt::format("its metadata {} is not that of {}: they are parts of different models", key,
                      first.file->path().filename().string()));
    }
  }
}

void check_tensors_of_parts(const std::vector<GgufPart>& parts) {
  std::map<std::string_view, const GgufPart*> places;
  for (const GgufPart& part : parts) {
    for (const auto& [name, tensor] : part.contents.tensors) {
      const auto [other, is_new] = places.emplace(name, &part);
      if (!is_new) {
        refuse_file(part.file->path(),
                    fmt::format("tensor {} is in {} too: they are parts of different models", name,
                                other->second->file->path().filename().string()));
      }
    }
  }
  const auto count = static_cast<std::int64_t>(places.size());
  const std::int64_t said =
      integer_within(parts.front(), kTensorsKey, count, std::int64_t{1} << 31);
  if (said != count) {
    refuse_file(parts.front().file->path(),
                fmt::format("metadata {} is {}, but its {} parts hold {} tensors: one of them is "
                            "damaged or of another model",
                            kTensorsKey, said, parts.size(), count));
  }
}

// Pieces of a file that was cut at any byte; only the first has a header.
void refuse_piece(const fs::path& path) {
  constexpr std::string_view kEnd = ".gguf";
  const std::string name = path.filename().string();
  const std::size_t end = name.rfind(kEnd);
  const std::string_view rest =
      end == std::string::npos ? "" : std::string_view(name).substr(end + kEnd.size());
  if (rest.find("part") == std::string_view::npos && rest.find("split") == std::string_view::npos) {
    return;
  }
  const std::string whole = name.substr(0, end + kEnd.size());
  refuse_file(path, fmt::format("is by its name one piece of the file {0}, which was cut; join all "
                                "pieces in their order (cat PIECE1 PIECE2 ... > {0}) and name that",
                                whole));
}

}  // namespace

std::vector<GgufPart> open_gguf_parts(const fs::path& path) {
  refuse_piece(path);
  std::vector<GgufPart> parts;
  parts.push_back(open_part(path));
  const PartNumber named = number_of(parts.front());
  if (named.count == 1) {
    return parts;
  }
  const std::vector<fs::path> paths = paths_of(path, named);
  refuse_missing(path, named, paths);
  parts.clear();
  for (std::int64_t i = 0; i < named.count; ++i) {
    const PartNumber expected = {i, named.count};
    parts.push_back(open_part(paths[static_cast<std::size_t>(i)]));
    const GgufPart& part = parts.back();
    if (const PartNumber found = number_of(part); found != expected) {
      refuse_file(part.file->path(), fmt::format("is {} by its name, but {} by its metadata",
                                                 described(expected), described(found)));
    }
    check_metadata(parts.front(), part);
  }
  check_tensors_of_parts(parts);
  return parts;
}

}  // namespace bipo
