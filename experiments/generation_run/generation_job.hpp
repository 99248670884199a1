// Reads and decides everything that `generate` needs before the model is loaded.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "collectives/session.hpp"
#include "datasets/rows/prompt_list.hpp"
#include "datasets/tokens/pair_tokenizer.hpp"
#include "experiments/generation/generation.hpp"
#include "experiments/job/vectors_in_use.hpp"
#include "experiments/job/whole_model.hpp"
#include "experiments/settings/settings.hpp"

namespace bipo {

struct GenerationJob {
  GenerateOptions options;
  WholeModel model;
  std::uint64_t weights_hash = 0;  // covers every byte of the weights
  std::vector<VectorInUse> vectors;
  std::optional<Gate> gate;
  std::vector<Prompt> prompts;
  std::vector<NumberedPrompt> tokens;
  GenerationSettings settings;
  std::int64_t batch = 1;  // prompts
  GenerationRoom room;     // for any `batch` of them
  std::optional<PairTokenizer> text;
  std::vector<std::string> notes;  // about the vectors and how they act
  std::vector<std::string> warnings;
  std::uint64_t agreement = 0;  // equal on ranks that are about to generate the same

  std::int64_t prompt_count() const { return static_cast<std::int64_t>(prompts.size()); }
};

// Throws UserError.  Local, except that only the root checks the place of --out.
GenerationJob prepare_generation(const GenerateOptions& given, const std::string& now,
                                 const Session& session);

}  // namespace bipo
