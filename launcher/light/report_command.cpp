// The command `report`: becomes a Python that makes the page.
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "launcher/light/light_commands.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

// Names what a Python lacks before the package's first import would end in a traceback.
constexpr const char* kScript = R"(
import importlib.util, runpy, sys
missing = [name for name in ("bipo_analysis", "h5py", "matplotlib", "numpy", "pandas")
           if importlib.util.find_spec(name) is None]
if missing:
    sys.exit(f"bipo-dist: {sys.executable} lacks {', '.join(missing)}; "
             f"`{sys.executable} -m pip install h5py matplotlib numpy pandas` installs what reports need")
runpy.run_module("bipo_analysis", run_name="__main__")
)";

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// Where launcher/setup.sh keeps downloads and environments.
fs::path cache_directory() {
  if (const std::string own = variable("BIPO_CACHE"); !own.empty()) {
    return own;
  }
  const std::string caches = variable("XDG_CACHE_HOME");
  return (caches.empty() ? fs::path(variable("HOME")) / ".cache" : fs::path(caches)) / "bipo-dist";
}

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// Returns the directory above that of this program's file, or "" if the system does not say.
fs::path installation() {
  std::error_code unknown;
  const fs::path own = fs::read_symlink("/proc/self/exe", unknown);
  return unknown ? fs::path() : own.parent_path().parent_path();
}

// Returns the directory that holds the package: of the checkout whose build folder this is, or of
// the installation; "" if there is none, and Python looks for it among its own.
fs::path package_directory(const fs::path& above) {
  for (const char* place : {"experiments/analysis", "share/bipo-dist/analysis"}) {
    if (is_file(above / place / "bipo_analysis")) {
      return above / place;
    }
  }
  return {};
}

fs::path find_python(const fs::path& above) {
  const fs::path cache = cache_directory();
  for (const char* name : {"venv-report", "venv-full"}) {
    // setup.sh leaves the file `installing` behind where it was cut short.
    if (is_file(cache / name / "bin/python") && !is_file(cache / name / "installing")) {
      return cache / name / "bin/python";
    }
  }
  const fs::path setup = above / "launcher/setup.sh";
  const std::string venv = (cache / "venv-report").string();
  const std::string make =
      is_file(setup)
          ? fmt::format("bash -c '. \"{}\" && ensure_venv report'", setup.string())
          : fmt::format(
                "python3 -m venv \"{0}\" && \"{0}/bin/pip\" install h5py matplotlib numpy "
                "pandas",
                venv);
  throw UserError(
      fmt::format("report needs a Python with h5py, matplotlib, numpy and pandas, and {} holds "
                  "none; this makes "
                  "one (0.1 GB): {}; or name yours by --python",
                  cache.string(), make));
}

void set_package_path(const fs::path& package) {
  if (package.empty()) {
    return;
  }
  const std::string given = variable("PYTHONPATH");
  const std::string path = package.string() + (given.empty() ? "" : ":" + given);
  setenv("PYTHONPATH", path.c_str(), /*overwrite=*/1);
}

}  // namespace

int run_report_command(const AnalysisOptions& options) {
  const fs::path above = installation();
  const fs::path python = options.python.empty() ? find_python(above) : options.python;
  std::vector<std::string> words = {python.string(), "-c",    kScript,
                                    "report",        "--out", options.out.string()};
  for (const fs::path& answers : options.generations) {
    words.insert(words.end(), {"--generations", answers.string()});
  }
  words.emplace_back("--");
  for (const fs::path& path : options.paths) {
    words.push_back(path.string());
  }
  set_package_path(package_directory(above));
  std::vector<char*> arguments;
  for (std::string& word : words) {
    arguments.push_back(word.data());
  }
  arguments.push_back(nullptr);
  execvp(arguments.front(), arguments.data());
  const int reason = errno;
  throw UserError(
      fmt::format("--python {}: cannot be started: {}", python.string(), std::strerror(reason)));
}

}  // namespace bipo
