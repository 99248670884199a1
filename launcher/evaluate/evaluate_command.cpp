#include "launcher/evaluate/evaluate_command.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>

#include "experiments/files/atomic_file.hpp"
#include "experiments/files/process_identity.hpp"
#include "launcher/evaluate/evaluation_job.hpp"
#include "launcher/evaluate/evaluation_measures.hpp"
#include "launcher/evaluate/evaluation_report.hpp"
#include "launcher/evaluate/judge_files.hpp"
#include "launcher/options/version.hpp"
#include "launcher/terminal/progress.hpp"

namespace bipo {
namespace {

EvaluationAttributes attributes_of(const EvaluationJob& job, const Session& session) {
  const Topology& topology = *job.model.topology;
  EvaluationAttributes attributes;
  attributes.config = job.config;
  attributes.program_version = kProgramVersion;
  attributes.git_commit = kGitCommit;
  attributes.created_utc = job.created_utc;
  attributes.model = job.options.model.string();
  attributes.adapter = job.options.adapter.string();
  attributes.hidden_size = job.model.files.config.hidden;
  attributes.world_size = topology.world();
  attributes.dp = topology.dp();
  attributes.tp = topology.tp();
  attributes.backend = job.model.computation.backend;
  attributes.dtype = job.model.computation.dtype;
  attributes.hosts = fmt::format("{}", fmt::join(session.hosts(), ","));
  return attributes;
}

void write_results(const EvaluationJob& job, const Evaluation& evaluation) {
  write_evaluation_file(job.options.out, evaluation);
  fmt::print("{}", evaluation_text(evaluation));
  write_judge_requests(job.options, job.judge_requests);
  fmt::print("evaluation file: {}\n", job.options.out.string());
  std::fflush(stdout);
}

int evaluate(const EvaluationJob& job, Session& session) {
  std::optional<ProgressDisplay> display;
  if (session.rank() == 0) {
    remove_stale_temps(job.options.out);
    display.emplace(std::cerr, stderr_environment());
    for (const std::string& warning : job.warnings) {
      display->message("warning: " + warning);
    }
  }
  const Ranks ranks =
      session.make_ranks(*job.model.topology, job.model.computation.device.is_cuda());
  std::unique_ptr<Decoder> decoder;
  session.together([&] { decoder = load_whole_model(job.model, ranks); });
  Evaluation evaluation = measure(job, *decoder, ranks, display ? &*display : nullptr);
  session.together([&] {
    if (display) {
      display->finish();
      evaluation.attributes = attributes_of(job, session);
      write_results(job, evaluation);
    }
  });
  return kExitDone;
}

}  // namespace

int run_evaluate_command(const EvaluateOptions& options, Session& session) {
  const std::string now = session.from_first(utc_text());
  std::optional<EvaluationJob> job;
  session.together([&] { job = prepare_evaluation(options, now, session); });
  session.expect_same(agreement(*job), "the evaluation to make");
  return evaluate(*job, session);
}

}  // namespace bipo
