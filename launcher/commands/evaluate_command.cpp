// The command `evaluate`: measures how vectors change a model's answers, and at what cost.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "experiments/evaluation_run/evaluation_job.hpp"
#include "experiments/evaluation_run/evaluation_measures.hpp"
#include "experiments/evaluation_run/judge_files.hpp"
#include "experiments/files/atomic_file.hpp"
#include "experiments/job/job.hpp"
#include "experiments/progress/stop_signals.hpp"
#include "experiments/settings/field.hpp"
#include "experiments/settings/version.hpp"
#include "experiments/sweeps/out_claim.hpp"
#include "launcher/commands/commands.hpp"
#include "launcher/commands/evaluation_report.hpp"
#include "launcher/commands/output_claims.hpp"
#include "launcher/light/json_output.hpp"

namespace bipo {
namespace {

EvaluationAttributes attributes_of(const EvaluationJob& job, const Session& session) {
  const Topology& topology = job.model.computation.topology;
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
  attributes.dtype = name_of(job.model.computation.dtype);
  attributes.hosts = fmt::format("{}", fmt::join(session.hosts(), ","));
  return attributes;
}

using Json = nlohmann::ordered_json;

// Says which requests were written: a line of text, "" for none.
std::string requests_text(const EvaluateOptions& options,
                          const std::vector<std::string>& requests) {
  return options.judge_export.empty()
             ? ""
             : fmt::format("{} requests: {}\n", requests.size(), options.judge_export.string());
}

// Prints the files that were written, then `tables`.
void print_results_as_json(const EvaluateOptions& options, const std::vector<std::string>& requests,
                           const Json& tables) {
  Json json = {{"evaluation_file", nullptr},
               {"judge_requests", nullptr},
               {"judge_scale", options.judge_scale.text}};
  if (!options.out.empty()) {
    json["evaluation_file"] = options.out.string();
  }
  if (!options.judge_export.empty()) {
    json["judge_requests"] = {{"file", options.judge_export.string()},
                              {"requests", requests.size()}};
  }
  json.update(tables);
  print_json(json);
}

void write_results(const EvaluationJob& job, const Evaluation& evaluation) {
  const EvaluateOptions& options = job.options;
  write_evaluation_file(options.out, evaluation);
  if (!options.json) {
    fmt::print("{}", evaluation_text(evaluation));
  }
  write_judge_requests(options, job.judge_requests);
  if (options.json) {
    Json tables = evaluation_as_json(evaluation);
    tables["random_directions"] = random_directions_as_json(evaluation);
    print_results_as_json(options, job.judge_requests, tables);
  } else {
    fmt::print("{}evaluation file: {}\n", requests_text(options, job.judge_requests),
               options.out.string());
  }
}

}  // namespace

int run_evaluate_command(const EvaluateOptions& options, Session& session) {
  Job job(session, options);
  const EvaluationJob prepared =
      job.prepare([&] { return prepare_evaluation(options, job.begin_utc(), session); },
                  "the evaluation to make");
  const OutputClaims claims(job, {options.out}, [&] { check_evaluation_places(options); });
  if (job.is_root()) {
    remove_stale_temps(options.out);
  }
  const Ranks ranks = job.begin(prepared.model.computation, {}, prepared.warnings, prepared.notes);
  std::unique_ptr<Decoder> decoder;
  session.together([&] { decoder = load_whole_model(prepared.model, ranks); });
  Evaluation evaluation = measure(prepared, *decoder, ranks, job.display());
  stop_when_asked();  // the result is written whole
  session.together([&] {
    if (job.is_root()) {
      job.display().finish();
      evaluation.attributes = attributes_of(prepared, session);
      claims.require();
      write_results(prepared, evaluation);
    }
  });
  return kExitDone;
}

int run_judge_files_command(const EvaluateOptions& options) {
  check_evaluation_places(options);
  std::optional<OutClaim> claim;
  if (!options.judge_import.empty()) {
    claim.emplace(options.out);  // scores are added to what the file holds
  }
  const std::vector<Generation> generations = options.generations.empty()
                                                  ? std::vector<Generation>{}
                                                  : read_generations(options.generations);
  const std::vector<std::string> requests = judge_requests(options, generations);
  Json judged = Json::array();
  if (!options.judge_import.empty()) {
    const JudgeScores scores = read_judge_scores(options, generations);
    for (const std::string& warning : judge_warnings(scores, options.judge_scale)) {
      std::cerr << "warning: " << warning << '\n';
    }
    const std::vector<JudgeSummary> summary =
        add_judge_scores(options.out, scores.scores,
                         {absolute_text(options.judge_import), options.seed, options.judge_scale});
    judged = judge_as_json(summary);
    if (!options.json) {
      fmt::print("{}evaluation file: {}\n", judge_text(summary, options.judge_scale),
                 options.out.string());
    }
  }
  write_judge_requests(options, requests);
  if (options.json) {
    print_results_as_json(options, requests, {{"judge", judged}});
  } else {
    fmt::print("{}", requests_text(options, requests));
  }
  return kExitDone;
}

}  // namespace bipo
