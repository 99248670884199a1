// Reads everything that a training run needs before it starts: model configuration, weight headers,
// token pairs.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "collectives/session.hpp"
#include "datasets/tokens/token_pair.hpp"
#include "experiments/settings/settings.hpp"
#include "trainer/model/architecture/config.hpp"
#include "trainer/model/weights/weights.hpp"

namespace bipo {

struct TrainingInputs {
  ModelConfig config;
  std::unique_ptr<WeightSource> weights;
  std::uint64_t model_fingerprint = 0;        // covers configuration and samples of the weights
  std::uint64_t weights_hash = 0;             // covers every byte of the weights; 0: a dry run
  std::string chat_template;                  // name of the format
  std::optional<TemplateDate> template_date;  // none if the template prints no date
  std::string implied_system_text;            // added by the template without a system prompt
  std::int64_t max_length = 0;                // tokens, effective
  std::optional<TokenId> bos;                 // begin-of-sequence token
  std::vector<TokenPair> train;
  std::vector<TokenPair> test;        // empty without --test
  std::vector<TokenPair> background;  // empty without --background
  std::uint64_t train_hash = 0;       // over the ids
  std::uint64_t test_hash = 0;
  std::uint64_t background_hash = 0;
  std::vector<std::string> notes;     // what was understood of each data file
  std::vector<std::string> overview;  // numbers and lengths of the pairs, the first of them
  std::vector<std::string> warnings;  // rows left out, a system prompt that had to move, repeats
};

// Reads and checks all inputs; loads nothing large.  The date of chat templates must already be
// chosen.  `threads` tokenise at once.  Throws UserError.
TrainingInputs read_training_inputs(const TrainingOptions& options, std::int64_t threads);

// Checks all weights of the models, for --check-weights; the ranks of each node share the work, so
// that each node's files are checked completely.  Throws AgreedFailure (2) on every rank, naming
// each file and tensor with numbers that are not finite.  Collective over: world
void check_weights(const std::vector<const TrainingInputs*>& models, Session& session);

}  // namespace bipo
