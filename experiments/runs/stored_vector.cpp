#include "experiments/runs/stored_vector.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <system_error>

#include "collectives/foundation/errors.hpp"
#include "experiments/runs/run_file.hpp"

namespace bipo {
namespace {

const SavedVector& choose(const std::vector<SavedVector>& saved, std::optional<std::int64_t> epoch,
                          const std::string& file) {
  if (saved.empty()) {
    throw UserError(fmt::format(
        "{}: holds no vector yet: one is saved at the end of each epoch; wait for it", file));
  }
  if (!epoch) {
    return saved.back();
  }
  // A run that was stopped within an epoch saved a vector there, too: the later one counts.
  const auto found = std::find_if(saved.rbegin(), saved.rend(), [&](const SavedVector& vector) {
    return vector.epoch == *epoch;
  });
  if (found == saved.rend()) {
    throw UserError(fmt::format("{}: holds no vector of epoch {}; its epochs are {} to {}", file,
                                *epoch, saved.front().epoch, saved.back().epoch));
  }
  return *found;
}

// A vector's file of another program is a likely mistake.
RunRecord read_run(const std::filesystem::path& path) {
  constexpr std::string_view kOtherFormats[] = {".pt", ".pth", ".safetensors", ".gguf"};
  try {
    return read_run_file(path);
  } catch (const UserError&) {
    const std::string extension = path.extension().string();
    std::error_code ignored;
    if (std::find(std::begin(kOtherFormats), std::end(kOtherFormats), extension) ==
            std::end(kOtherFormats) ||
        !std::filesystem::is_regular_file(path, ignored)) {
      throw;
    }
    throw UserError(
        fmt::format("{}: is no run file, and vectors are read from run files only; `bipo-dist "
                    "import {} --layer L --out run.h5` makes one of a vector in another format",
                    path.string(), path.string()));
  }
}

}  // namespace

StoredVector read_stored_vector(const std::filesystem::path& run_file,
                                std::optional<std::int64_t> epoch) {
  const RunRecord run = read_run(run_file);
  const SavedVector& chosen = choose(run.vectors, epoch, run_file.string());
  if (!std::all_of(chosen.value.begin(), chosen.value.end(),
                   [](float value) { return std::isfinite(value); })) {
    throw UserError(fmt::format("{}: its vector holds NaN or infinity", run_file.string()));
  }
  return {chosen.value, run.attributes.layer, chosen.step,
          chosen.epoch, run.attributes.model, run.attributes.config};
}

}  // namespace bipo
