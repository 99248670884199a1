// The command `export`: writes a vector in the format of another program.
#include <fmt/format.h>

#include <iostream>

#include "collectives/foundation/errors.hpp"
#include "experiments/files/atomic_file.hpp"
#include "experiments/formats/exported_vector.hpp"
#include "experiments/job/new_file.hpp"
#include "experiments/runs/run_file.hpp"
#include "launcher/commands/commands.hpp"

namespace bipo {
namespace {

// lm-evaluation-harness detects the type of a file by its name.
void check_name(const ExportOptions& options) {
  if (options.format == "lm-eval" && options.out.extension() != ".pt") {
    throw UserError(fmt::format(
        "--out {}: lm-evaluation-harness accepts such a file only if its name ends in .pt; "
        "rename it",
        options.out.string()));
  }
}

// --epoch N is the same as :epoch=N behind the file.
VectorSelection selection_of(const ExportOptions& options) {
  if (!options.epoch) {
    return options.vector.selection;
  }
  if (options.vector.selection.kind != VectorSelection::Kind::kResult) {
    throw UserError(
        fmt::format("--epoch {} and ':{}' behind the file both choose an epoch; give one",
                    *options.epoch, to_string(options.vector.selection)));
  }
  return {VectorSelection::Kind::kEpoch, *options.epoch};
}

}  // namespace

int run_export_command(const ExportOptions& options) {
  check_name(options);
  const std::filesystem::path& file = options.vector.file;
  check_new_file("--out", options.out, options.overwrite, {file});
  const StoredVector vector = read_stored_vector(file, selection_of(options));
  if (const auto warning = unfinished_warning(file, vector)) {
    std::cerr << "warning: " << *warning << '\n';
  }
  const double factor = options.multiplier * options.vector.weight;
  replace_file(options.out, exported_vector(vector, factor, options.format));
  const std::string epoch = epoch_text(vector);
  std::cout << fmt::format("{}: the vector of layer {}{}{}, step {} times {}, as {}\n",
                           options.out.string(), vector.layer, epoch.empty() ? "" : ", ", epoch,
                           vector.step, factor, options.format);
  return 0;
}

}  // namespace bipo
