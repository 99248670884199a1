// The command `extract`: computes a direction, or a conceptor, from the same pairs without
// training.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <memory>
#include <optional>

#include "collectives/foundation/errors.hpp"
#include "experiments/files/atomic_file.hpp"
#include "experiments/job/job.hpp"
#include "experiments/progress/stop_signals.hpp"
#include "experiments/runs/run_file.hpp"
#include "experiments/training/extraction_room.hpp"
#include "experiments/training/prepared_model.hpp"
#include "experiments/training/run_record.hpp"
#include "experiments/training/training_inputs.hpp"
#include "launcher/commands/commands.hpp"
#include "launcher/commands/conceptor_results.hpp"
#include "launcher/commands/extract_preparation.hpp"
#include "launcher/commands/output_claims.hpp"
#include "trainer/intervention/layers.hpp"
#include "trainer/records/records.hpp"

namespace bipo {
namespace {

struct FoundDirection {
  std::int64_t layer = 0;
  std::vector<float> value;  // [D]
  DirectionNorms norms;
};

MakeStatistics statistics_of(const ExtractPreparation& preparation) {
  switch (preparation.options.method) {
    case ExtractMethod::kCaa:
    case ExtractMethod::kCaaLetter:  // the mean over an answer's one scored token
      return mean_difference_statistics();
    case ExtractMethod::kProbe:
      return probe_statistics(preparation.options.probe_c);
    case ExtractMethod::kPca:
      return pca_statistics();
    case ExtractMethod::kMeanCentring:
      return mean_centring_statistics(
          static_cast<std::int64_t>(preparation.job.inputs.train.size()));
    case ExtractMethod::kEnsemble:
      return known_direction(preparation.ensemble_mean);
    case ExtractMethod::kFreeform:
      return freeform_statistics();
    case ExtractMethod::kConfst:
      return confident_statistics(preparation.options.probe_c, preparation.options.confidence);
    case ExtractMethod::kConceptor:
      return moment_statistics();
    case ExtractMethod::kConceptorAnd:
    case ExtractMethod::kConceptorOr:
    case ExtractMethod::kConceptorNot:
      break;  // no pass
  }
  throw BugError("a method of extract without statistics");
}

// Why a direction is zero, and what to change.
std::string reason_for_zero(ExtractMethod method) {
  if (method == ExtractMethod::kEnsemble) {
    return "the vectors of the ensemble cancel; leave some out, or change their weights";
  }
  if (method == ExtractMethod::kMeanCentring) {
    return "the mean of the chosen answers of --train is that of --background; give other data";
  }
  return "the activations of the answers do not differ there; give pairs whose answers do";
}

// Every rank holds the same values.
FoundDirection scaled(const ExtractedDirection& found, ExtractMethod method,
                      std::optional<double> norm) {
  FoundDirection direction{found.layer, {}, {}};
  direction.norms.figure = found.figure;
  direction.norms.found = vector_norm(found.value);
  direction.norms.residual = found.median_rms * std::sqrt(static_cast<double>(found.value.size()));
  if (norm && direction.norms.found == 0) {
    throw AgreedFailure(
        fmt::format("layer {}: the direction is zero and has no length that --norm or --match-norm "
                    "could scale: {}",
                    found.layer, reason_for_zero(method)),
        kExitFailure);
  }
  direction.norms.written = norm.value_or(direction.norms.found);
  const double factor = norm ? *norm / direction.norms.found : 1;
  for (const double x : found.value) {
    direction.value.push_back(static_cast<float>(factor * x));
  }
  return direction;
}

// Stores the direction as a run that is complete after no step: one vector, no state to continue
// from.
RunRecord run_record(const ExtractPreparation& preparation, const FoundDirection& direction,
                     const Session& session) {
  const JobPreparation& job = preparation.job;
  RunRecord record;
  static_cast<TrainingRecord&>(record) = starting_record(job.inputs.config.hidden, /*seed=*/0);
  record.vectors.push_back({direction.value, /*step=*/0, /*epoch=*/0});
  record.checkpoint.vector = direction.value;
  record.attributes = run_attributes(job.options, job, session,
                                     extract_config(preparation, direction.layer, direction.norms),
                                     preparation.created_utc);
  record.attributes.layer = direction.layer;
  record.attributes.status = RunStatus::kComplete;
  return record;
}

// Prints the program's result to stdout.
void print_result(const ExtractOptions& options, const std::vector<FoundDirection>& directions) {
  const auto figure = [](const FoundDirection& direction, const std::string& text) {
    return direction.norms.figure ? fmt::format("  {:>17}", text) : std::string();
  };
  fmt::print(
      "{:>5}  {:>12}  {:>12}  {:>8}{}  {}\n", "layer", "norm found", "written", "% of |h|",
      figure(directions.front(),
             options.method == ExtractMethod::kFreeform ? "JS divergence" : "confident answers"),
      "run file");
  for (const FoundDirection& direction : directions) {
    fmt::print("{:>5}  {:>12.6g}  {:>12.6g}  {:>8.2f}{}  {}\n", direction.layer,
               direction.norms.found, direction.norms.written,
               100 * direction.norms.written / direction.norms.residual,
               figure(direction, fmt::format("{:.4g}", direction.norms.figure.value_or(0))),
               direction_file(options, direction.layer).string());
  }
}

// A vector of zeros is a run file like others, and does nothing.
void warn_of_zeros(const std::vector<FoundDirection>& directions, ExtractMethod method) {
  std::vector<std::int64_t> layers;
  for (const FoundDirection& direction : directions) {
    if (direction.norms.written == 0) {
      layers.push_back(direction.layer);
    }
  }
  if (layers.empty()) {
    return;
  }
  std::cerr << fmt::format(
      "warning: the direction of {} is zero, so that its file steers nothing: {}\n",
      layers_text(SteeredLayers(std::move(layers))), reason_for_zero(method));
}

// Writes what the pass found at each layer, and prints it; for the root.
void write_directions(const ExtractPreparation& preparation,
                      const std::vector<FoundDirection>& directions, const Session& session) {
  for (const FoundDirection& direction : directions) {
    const std::filesystem::path file = direction_file(preparation.options, direction.layer);
    remove_stale_temps(file);
    write_run_file(file, run_record(preparation, direction, session));
  }
  print_result(preparation.options, directions);
  warn_of_zeros(directions, preparation.options.method);
}

// One matrix is put together and written at a time: each may take some hundred MiB.
void write_conceptors(const ExtractPreparation& preparation,
                      const std::vector<ExtractedDirection>& found, const Session& session) {
  fmt::print("{:>5}  {:>10}  {:>10}  {:>8}  {}\n", "layer", "aperture", "absolute", "quota",
             "conceptor file");
  for (const ExtractedDirection& of_layer : found) {
    const std::filesystem::path file = direction_file(preparation.options, of_layer.layer);
    const ConceptorRecord record = conceptor_record(preparation, of_layer, session);
    remove_stale_temps(file);
    write_conceptor_file(file, record);
    fmt::print("{:>5}  {:>10.4g}  {:>10.4g}  {:>8.4f}  {}\n", of_layer.layer,
               record.attributes.aperture.value_or(0),
               record.attributes.absolute_aperture.value_or(0), quota_of(record), file.string());
  }
}

}  // namespace

int run_extract_command(const ExtractOptions& options, Session& session) {
  if (combines_conceptors(options.method)) {
    return run_conceptor_combination(options, session);
  }
  Job job(session, options);
  const ExtractPreparation preparation =
      job.prepare([&] { return prepare_extraction(options, job.begin_utc(), session); },
                  "the extraction to make");
  const std::vector<std::int64_t>& layers = preparation.pass.layers;
  std::vector<std::filesystem::path> files;
  for (const std::int64_t layer : layers) {
    files.push_back(direction_file(options, layer));
  }
  const OutputClaims claims(job, files, [&] { prepare_places(options, layers); });
  const TrainingInputs& inputs = preparation.job.inputs;
  const Ranks ranks = job.begin(preparation.job.computation, extract_settings_table(preparation),
                                preparation.job.warnings, inputs.notes);
  if (options.check_weights) {
    check_weights({&inputs}, session);
  }
  std::unique_ptr<Decoder> decoder;
  session.together([&] { decoder = load_decoder(preparation.job, ranks); });
  const auto progress = [&](const std::string& what, std::int64_t done, std::int64_t total) {
    job.display().phase(what, done, total);
  };
  ExtractionSettings pass = preparation.pass;
  if (!decoder->device().is_cpu()) {
    pass.device_pack = agreed_pack(kExtractionPass, pass.device_pack, ranks, job.display());
  }
  std::vector<ExtractedDirection> found = extract_directions(
      *decoder, preparation.pairs, pass, statistics_of(preparation), ranks, progress);
  const bool has_conceptors = makes_conceptor(options.method);
  if (has_conceptors) {
    session.together([&] {
      if (job.is_root()) {
        make_conceptors(preparation, found, progress);
      }
    });
  }
  job.display().finish();
  std::vector<FoundDirection> directions;
  if (!has_conceptors) {
    for (const ExtractedDirection& of_layer : found) {
      directions.push_back(scaled(of_layer, preparation.options.method, preparation.norm));
    }
  }
  stop_when_asked();  // the results are written whole
  session.together([&] {
    if (!job.is_root()) {
      return;
    }
    claims.require();
    if (has_conceptors) {
      write_conceptors(preparation, found, session);
    } else {
      write_directions(preparation, directions, session);
    }
  });
  return kExitDone;
}

}  // namespace bipo
