// The command `import`: makes a run file of a vector in another format.
#include <fmt/format.h>

#include <iostream>
#include <nlohmann/json.hpp>

#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/host_name.hpp"
#include "experiments/files/process_identity.hpp"
#include "experiments/formats/vector_file.hpp"
#include "experiments/job/new_file.hpp"
#include "experiments/runs/run_file.hpp"
#include "experiments/settings/field.hpp"
#include "experiments/settings/stored_settings.hpp"
#include "experiments/settings/version.hpp"
#include "launcher/commands/commands.hpp"

namespace bipo {
namespace {

std::int64_t layer_of(const VectorFile& vector, const ImportOptions& options) {
  if (options.layer) {
    return *options.layer;
  }
  if (!vector.layer) {
    throw UserError(fmt::format(
        "{}: does not say which layer its vector is for; name the block, from 0, by --layer",
        options.file.string()));
  }
  return *vector.layer;
}

// Returns the origin of the vector, stored in place of the settings of a training.
std::string origin(const VectorFile& vector, const ImportOptions& options) {
  nlohmann::ordered_json json;
  json["imported_from"] = absolute_text(options.file);
  json["imported_format"] = vector.format;
  if (!vector.tensor.empty()) {
    json["imported_tensor"] = vector.tensor;
  }
  if (!vector.metadata.empty()) {
    json["imported_metadata"] = vector.metadata;
  }
  return settings_text(json);
}

std::string model_of(const VectorFile& vector, const ImportOptions& options) {
  if (!options.model.empty()) {
    return options.model;
  }
  return vector.model.empty() ? "unknown" : vector.model;
}

RunRecord run_of(const VectorFile& vector, const ImportOptions& options) {
  RunRecord run;
  const auto hidden = static_cast<std::int64_t>(vector.value.size());
  static_cast<TrainingRecord&>(run) = starting_record(hidden, /*seed=*/0);
  run.vectors.push_back({vector.value, /*step=*/0, /*epoch=*/0});
  run.checkpoint.vector = vector.value;
  RunAttributes& attributes = run.attributes;
  attributes.status = RunStatus::kComplete;
  attributes.config = origin(vector, options);
  attributes.program_version = kProgramVersion;
  attributes.git_commit = kGitCommit;
  attributes.created_utc = utc_text();
  attributes.model = model_of(vector, options);
  attributes.layer = layer_of(vector, options);
  attributes.hidden_size = hidden;
  attributes.world_size = 1;
  attributes.dp = 1;
  attributes.tp = 1;
  attributes.backend = "none";
  attributes.dtype = "fp32";
  attributes.hosts = host_name();
  return run;
}

}  // namespace

int run_import_command(const ImportOptions& options) {
  check_new_file("--out", options.out, options.overwrite, {options.file});
  const VectorFile vector = read_vector_file(options.file, options.format, options.layer);
  const RunRecord run = run_of(vector, options);
  write_run_file(options.out, run);
  std::cout << fmt::format(
      "{}: a vector of {} numbers for layer {}, from {} ({}); use it by "
      "--vector {}\n",
      options.out.string(), run.attributes.hidden_size, run.attributes.layer, options.file.string(),
      vector.format, options.out.string());
  return 0;
}

}  // namespace bipo
