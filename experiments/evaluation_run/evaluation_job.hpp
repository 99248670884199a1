// Reads and decides everything that `evaluate` needs before the model is loaded.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "collectives/session.hpp"
#include "datasets/rows/choice_items.hpp"
#include "datasets/tokens/choice_tokens.hpp"
#include "datasets/tokens/token_pair.hpp"
#include "experiments/evaluation/generations_file.hpp"
#include "experiments/evaluation/judge.hpp"
#include "experiments/evaluation_run/steering_plan.hpp"
#include "experiments/job/vectors_in_use.hpp"
#include "experiments/job/whole_model.hpp"
#include "experiments/settings/settings.hpp"
#include "trainer/passes/continuation_scores.hpp"

namespace bipo {

struct ChoiceQuestions {
  ChoiceSet set;
  std::vector<TokenizedChoice> items;
};

struct EvaluationJob {
  EvaluateOptions options;  // with the date of chat templates chosen
  std::string created_utc;
  WholeModel model;
  std::uint64_t weights_hash = 0;  // covers every byte of the weights
  std::vector<VectorInUse> vectors;
  std::optional<StoredVector> caa;
  std::optional<Gate> gate;
  SteeringPlan plan;
  std::string chat_template;          // name of the format
  std::int64_t max_length = 0;        // tokens, effective
  std::int64_t reference_window = 0;  // most tokens in a piece of the reference text

  // Empty unless requested.
  std::vector<TokenPair> pairs;
  std::vector<bool> choosing_pairs;  // with --choose-on: which of `pairs` choose a multiplier
  std::vector<ChoiceQuestions> choices;
  std::vector<Continuations> reference_text;
  std::vector<PromptTokens> neutral_prompts;
  std::vector<Generation> generations;
  GenerationTokens generation_tokens;
  std::vector<JudgeScore> judge_scores;
  std::vector<std::string> judge_requests;  // lines of --judge-export

  std::string config;              // JSON object: the settings in the evaluation file
  std::vector<std::string> notes;  // about the vectors, how they act, and what --test was read as
  std::vector<std::string> warnings;
  std::uint64_t agreement = 0;  // equal on ranks that are about to evaluate the same
};

// Throws UserError.  Local, except that only the root checks the place of --out.
EvaluationJob prepare_evaluation(const EvaluateOptions& options, const std::string& now,
                                 const Session& session);

}  // namespace bipo
