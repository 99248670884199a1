#include "launcher/extract/extract_command.hpp"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>

#include "experiments/files/atomic_file.hpp"
#include "experiments/files/process_identity.hpp"
#include "experiments/runs/run_file.hpp"
#include "launcher/extract/extract_preparation.hpp"
#include "launcher/terminal/progress.hpp"
#include "launcher/training/prepared_model.hpp"
#include "launcher/training/run_beginning.hpp"
#include "launcher/training/weight_check.hpp"
#include "trainer/records/vector_norm.hpp"

namespace bipo {
namespace {

struct Direction {
  std::int64_t layer = 0;
  std::vector<float> value;  // [D]
  DirectionNorms norms;
};

// Every rank holds the same values.
Direction scaled(const MeanDifference& difference, std::optional<double> norm) {
  Direction direction{difference.layer, {}, {}};
  direction.norms.found = vector_norm(difference.value);
  direction.norms.residual =
      difference.median_rms * std::sqrt(static_cast<double>(difference.value.size()));
  if (norm && direction.norms.found == 0) {
    throw AgreedFailure(
        fmt::format("layer {}: the mean difference is zero, so there is no direction to scale",
                    difference.layer),
        kExitFailure);
  }
  direction.norms.written = norm.value_or(direction.norms.found);
  const double factor = norm ? *norm / direction.norms.found : 1;
  for (const double x : difference.value) {
    direction.value.push_back(static_cast<float>(factor * x));
  }
  return direction;
}

// As a run that is complete after no step: one vector, and nothing to go on with.
RunRecord run_record(const ExtractPreparation& preparation, const Direction& direction,
                     const Session& session) {
  const JobPreparation& job = preparation.job;
  RunRecord record;
  static_cast<TrainingRecord&>(record) = starting_record(job.inputs.config.hidden, /*seed=*/0);
  record.vectors.push_back({direction.value, /*step=*/0, /*epoch=*/0});
  record.checkpoint.vector = direction.value;
  record.attributes = run_attributes(job.settings, job.inputs, *job.topology, session,
                                     extract_config(preparation, direction.layer, direction.norms),
                                     preparation.created_utc);
  record.attributes.layer = direction.layer;
  record.attributes.status = RunStatus::kComplete;
  return record;
}

// The program's result, on stdout.
void print_result(const ExtractOptions& options, const std::vector<Direction>& directions) {
  fmt::print("{:>5}  {:>12}  {:>12}  {:>8}  {}\n", "layer", "norm found", "written", "% of |h|",
             "run file");
  for (const Direction& direction : directions) {
    fmt::print("{:>5}  {:>12.6g}  {:>12.6g}  {:>8.2f}  {}\n", direction.layer,
               direction.norms.found, direction.norms.written,
               100 * direction.norms.written / direction.norms.residual,
               direction_file(options, direction.layer).string());
  }
  std::fflush(stdout);
}

int run_prepared(const ExtractPreparation& preparation, Session& session) {
  const ExtractOptions& options = preparation.options;
  const JobPreparation& job = preparation.job;
  at::set_num_threads(static_cast<int>(job.settings.threads.threads));
  if (options.check_weights) {
    check_weights({&job.inputs}, session);
  }
  std::optional<ProgressDisplay> display;
  if (session.rank() == 0) {
    display.emplace(std::cerr, stderr_environment());
    display->start_table(extract_settings_table(preparation));
    for (const std::string& warning : job.warnings) {
      display->message("warning: " + warning);
    }
  }
  const Ranks ranks = session.make_ranks(*job.topology, job.device.is_cuda());
  std::unique_ptr<Decoder> decoder;
  session.together([&] { decoder = load_decoder(job, ranks); });
  const std::vector<MeanDifference> differences =
      mean_differences(*decoder, job.inputs.train, preparation.pass, ranks,
                       [&](const std::string& what, std::int64_t done, std::int64_t total) {
                         if (display) {
                           display->phase(what, done, total);
                         }
                       });
  if (display) {
    display->finish();
  }
  std::vector<Direction> directions;
  for (const MeanDifference& difference : differences) {
    directions.push_back(scaled(difference, preparation.norm));
  }
  session.together([&] {
    if (session.rank() != 0) {
      return;
    }
    for (const Direction& direction : directions) {
      const std::filesystem::path file = direction_file(options, direction.layer);
      remove_stale_temps(file);
      write_run_file(file, run_record(preparation, direction, session));
    }
    print_result(options, directions);
  });
  return kExitDone;
}

}  // namespace

int run_extract_command(const ExtractOptions& options, Session& session) {
  const std::string now = session.from_first(utc_text());
  std::optional<ExtractPreparation> preparation;
  session.together([&] { preparation = prepare_extraction(options, now, session); });
  session.expect_same(preparation->agreement, "the extraction to make");
  return run_prepared(*preparation, session);
}

}  // namespace bipo
