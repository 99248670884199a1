#include "trainer/model/hub/hub_cache.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <optional>
#include <string_view>
#include <system_error>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/input_file.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFolderPrefix = "models--";
constexpr std::string_view kBetween = "--";

std::optional<std::string> variable(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

bool is_name_character(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

// Replaces $NAME and ${NAME} by the variables that exist, as os.path.expandvars does.
std::string with_variables(const std::string& text) {
  std::string result;
  for (std::size_t at = 0; at < text.size();) {
    const bool braces = text.compare(at, 2, "${") == 0;
    std::size_t begin = at + (braces ? 2 : 1);
    std::size_t end = begin;
    while (end < text.size() && (braces ? text[end] != '}' : is_name_character(text[end]))) {
      ++end;
    }
    const bool named = text[at] == '$' && end > begin && (!braces || end < text.size());
    const auto value = named ? variable(text.substr(begin, end - begin)) : std::nullopt;
    if (value) {
      result += *value;
      at = end + (braces ? 1 : 0);
    } else {
      result += text[at++];
    }
  }
  return result;
}

fs::path expanded(const std::string& text) {
  const auto home = variable("HOME");
  const bool in_home = home && (text == "~" || text.starts_with("~/"));
  return with_variables(in_home ? *home + text.substr(1) : text);
}

bool is_there_a_directory(const fs::path& path) {
  std::error_code unreachable;
  return fs::is_directory(path, unreachable);
}

bool is_there(const fs::path& path) {
  std::error_code unreachable;
  return fs::exists(path, unreachable);
}

// Whether huggingface_hub accepts a part of a repository's name.
bool is_repository_part(std::string_view part) {
  const auto allowed = [](char c) { return is_name_character(c) || c == '-' || c == '.'; };
  return !part.empty() && part.size() <= 96 && std::all_of(part.begin(), part.end(), allowed) &&
         is_name_character(part.front()) && is_name_character(part.back()) &&
         part.find("--") == std::string_view::npos && part.find("..") == std::string_view::npos;
}

// "models--OWNER--NAME", or nothing if `id` is neither a repository's name nor such a folder's.
std::optional<std::string> folder_name(const std::string& id) {
  if (id.starts_with(kFolderPrefix)) {
    return id.find('/') == std::string::npos ? std::optional(id) : std::nullopt;
  }
  const std::size_t slash = id.find('/');
  const std::string owner = slash == std::string::npos ? "" : id.substr(0, slash);
  const std::string name = slash == std::string::npos ? id : id.substr(slash + 1);
  if (!is_repository_part(name) || (slash != std::string::npos && !is_repository_part(owner))) {
    return std::nullopt;
  }
  return fmt::format("{}{}{}{}", kFolderPrefix, owner, owner.empty() ? "" : kBetween, name);
}

// Reverses folder_name.
std::string repository_of(const std::string& folder) {
  std::string id = folder.substr(kFolderPrefix.size());
  const std::size_t between = id.find(kBetween);
  return between == std::string::npos ? id : id.replace(between, kBetween.size(), "/");
}

std::string command(const std::string& repository, const std::string& revision) {
  return fmt::format("`hf download {}{}`", repository,
                     revision == "main" ? "" : fmt::format(" --revision {}", revision));
}

// Returns the commit that the cache has for a branch or tag, else the revision itself.
std::string commit_of(const fs::path& folder, const std::string& revision) {
  const fs::path file = folder / "refs" / revision;
  std::error_code unreachable;
  std::string commit =
      fs::is_regular_file(file, unreachable) ? read_input_file(file, kMostSettingsBytes) : "";
  while (!commit.empty() && std::isspace(static_cast<unsigned char>(commit.back())) != 0) {
    commit.pop_back();
  }
  return commit.empty() ? revision : commit;
}

std::vector<std::string> snapshots_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(folder / "snapshots", error), end; !error && entry != end;
       entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// Finds the snapshot of a revision in a cache folder.
ModelPlace snapshot(const fs::path& given, const fs::path& folder, const std::string& revision) {
  const std::string repository = repository_of(folder.filename().string());
  if (revision.empty() || revision.find("..") != std::string::npos || revision.front() == '/') {
    throw UserError(fmt::format("{}: \"{}\" is no revision", given.string(), revision));
  }
  const std::string commit = commit_of(folder, revision);
  const fs::path path = folder / "snapshots" / commit;
  if (!is_there_a_directory(path)) {
    const std::vector<std::string> others = snapshots_in(folder);
    throw UserError(fmt::format(
        "{}: the local Hugging Face cache has {}, but no snapshot of \"{}\"{}; get it with {}",
        given.string(), folder.string(), revision,
        others.empty()
            ? ""
            : fmt::format(" (of {}; {}@COMMIT names one)", fmt::join(others, ", "), repository),
        command(repository, revision)));
  }
  return {path,
          fmt::format("{}: snapshot {}{} of the local Hugging Face cache is read: {}",
                      given.string(), commit,
                      commit == revision ? "" : fmt::format(" (\"{}\")", revision), path.string())};
}

struct SnapshotName {
  std::string repository;
  std::string commit;
};

// Nothing unless the directory is .../models--OWNER--NAME/snapshots/COMMIT.
std::optional<SnapshotName> snapshot_name(const fs::path& directory) {
  std::error_code unreachable;
  fs::path plain = fs::absolute(directory, unreachable).lexically_normal();
  plain = plain.has_filename() ? plain : plain.parent_path();
  const std::string folder = plain.parent_path().parent_path().filename().string();
  if (plain.parent_path().filename() != "snapshots" || !folder.starts_with(kFolderPrefix)) {
    return std::nullopt;
  }
  return SnapshotName{repository_of(folder), plain.filename().string()};
}

}  // namespace

fs::path hub_cache_directory() {
  if (const auto cache = variable("HF_HUB_CACHE")) {
    return expanded(*cache);
  }
  if (const auto cache = variable("HUGGINGFACE_HUB_CACHE")) {
    return expanded(*cache);
  }
  if (const auto home = variable("HF_HOME")) {
    return expanded(*home) / "hub";
  }
  return expanded(variable("XDG_CACHE_HOME").value_or("~/.cache")) / "huggingface" / "hub";
}

ModelPlace find_model(const fs::path& given) {
  if (given.empty()) {
    return {given, ""};
  }
  if (is_there(given)) {
    const fs::path plain = given.has_filename() ? given : given.parent_path();
    const bool is_folder = plain.filename().string().starts_with(kFolderPrefix) &&
                           is_there_a_directory(given / "snapshots") &&
                           !is_there(given / "config.json");
    return is_folder ? snapshot(given, plain, "main") : ModelPlace{given, ""};
  }
  const std::string text = given.string();
  const std::size_t at = text.find('@');
  const std::string id = text.substr(0, at);
  const std::optional<std::string> folder = folder_name(id);
  if (!folder || !is_there_a_directory(hub_cache_directory() / *folder)) {
    return {given, ""};
  }
  return snapshot(given, hub_cache_directory() / *folder,
                  at == std::string::npos ? "main" : text.substr(at + 1));
}

fs::path resolved_model_path(const fs::path& given) {
  try {
    return find_model(given).path;
  } catch (const UserError&) {
    return given;
  }
}

std::string download_advice(const fs::path& directory) {
  const auto name = snapshot_name(directory);
  return name ? fmt::format("get the rest with {}", command(name->repository, name->commit))
              : "get the model again";
}

void require_complete_snapshot(const fs::path& directory, const char* needed) {
  if (!snapshot_name(directory)) {
    return;
  }
  std::vector<std::string> broken;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    if (!is_there(entry->path())) {
      broken.push_back(entry->path().filename().string());
    }
  }
  std::sort(broken.begin(), broken.end());
  if (broken.empty() && !is_there(directory / needed)) {
    throw UserError(fmt::format("{}: this snapshot has no {}; {}", directory.string(), needed,
                                download_advice(directory)));
  }
  if (!broken.empty()) {
    throw UserError(fmt::format("{}: the files of {} are not in the cache (broken links); {}",
                                directory.string(), fmt::join(broken, ", "),
                                download_advice(directory)));
  }
}

}  // namespace bipo
