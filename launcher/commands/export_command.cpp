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

}  // namespace

int run_export_command(const ExportOptions& options) {
  check_name(options);
  check_new_file("--out", options.out, options.overwrite, {options.run_file});
  const StoredVector vector = read_stored_vector(options.run_file, options.epoch);
  if (const auto warning = unfinished_warning(options.run_file, vector)) {
    std::cerr << "warning: " << *warning << '\n';
  }
  replace_file(options.out, exported_vector(vector, options.multiplier, options.format));
  std::cout << fmt::format("{}: the vector of layer {}, epoch {}, step {} times {}, as {}\n",
                           options.out.string(), vector.layer, vector.epoch + 1, vector.step,
                           options.multiplier, options.format);
  return 0;
}

}  // namespace bipo
