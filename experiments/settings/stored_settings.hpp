// Reads and compares the settings that a file's `config` holds as text, for instance when a run
// continues.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "datasets/text/bos_rule.hpp"

namespace bipo {

// Returns the settings as files store them: JSON, with UTF-8 strings even where paths are not
// UTF-8.
std::string settings_text(const nlohmann::ordered_json& settings);

// Returns the value of an integer setting.  Throws UserError where `config` has none.
std::int64_t stored_integer(const std::string& config, const std::string& name);

// Returns the rule by which a continued run goes on: `given`, or version 0.1's if that stored
// `config`, which has "no_bos".  continued_bos_rule_of_plan() takes the text of a sweep's plan.
BosRule continued_bos_rule(BosRule given, const std::string& config);
BosRule continued_bos_rule_of_plan(BosRule given, const std::string& plan);

// Returns the settings in `config` that shape the result, as text: equal texts mean equal results,
// whatever the order in `config`.
std::string result_settings(const std::string& config);

// The key of the hash of every byte of the weights, which earlier versions did not store.
inline constexpr const char* kWeightsHashKey = "weights_hash";

// The keys by which a run file says where its vector was added in training; without them it was at
// all tokens.
inline constexpr const char* kStoredPositionsKey = "steered_positions";
inline constexpr const char* kStoredSteerBosKey = "steer_bos";

// The key of the number by which a vector of another site than block outputs is multiplied to do
// the same where it is added to block outputs; without it nothing that is added there does the
// same.
inline constexpr const char* kBlockOutputFactorKey = "block_output_factor";

// Returns whether both configurations lead to the same results, as far as both say: the hash of the
// weights counts only if both have one.
bool have_same_results(const std::string& config, const std::string& other);

// Throws UserError, listing each difference, unless both configurations agree in every setting that
// shapes the result; `file` holds the stored one, perhaps without the hash of the weights.
void check_same_settings(const std::string& stored, const std::string& now,
                         const std::string& file);

// Returns warnings about differences that may change last bits only, and about what cannot be
// compared.
std::vector<std::string> harmless_differences(const std::string& stored, const std::string& now);

}  // namespace bipo
