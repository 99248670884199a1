// Reads the adapter_config.json of a PEFT directory with low-rank updates (LoRA, Hu et al., arXiv
// 2106.09685), as PEFT 0.21 reads it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "trainer/model/lora/name_pattern.hpp"

namespace bipo {

// A module, such as "model.layers.3.self_attn.q_proj", is adapted for itself (target_modules) or
// for one of its parameters, such as "model.layers.3.self_attn.q_proj.weight" (target_parameters).
// The adapter adds scale * B A to the weight [out, in]; A is [rank, in], B [out, rank].
class LoraConfig {
 public:
  // `model` is the path of the base model, for messages.  Throws UserError for a file that is
  // malformed, is not LoRA's, or requires more than fixed low-rank updates, magnitudes and biases
  // of the model's own matrices (modules trained as a whole, added tokens, other layers than the
  // base model's, weights that the initialisation took from the base model).  Names the field, also
  // an unknown one, and says what to do.
  LoraConfig(const std::filesystem::path& path, const std::filesystem::path& model);

  const std::filesystem::path& path() const { return path_; }

  // Return PEFT's values for the name of a module or parameter: the scale is alpha / rank, with
  // use_rslora alpha / sqrt(rank) (Kalajdzievski, arXiv 2312.03732).  The first entry of
  // rank_pattern, and of alpha_pattern, that matches the name replaces the default.
  std::int64_t rank(const std::string& name) const;
  double scale(const std::string& name) const;

  // Whether the adapter must have tensors for the module, for itself or for a parameter.
  // "all-linear" means every matrix but embedding and head.
  bool targets_module(const std::string& module) const;
  bool targets_parameter(const std::string& parameter) const;

  bool has_magnitudes() const { return magnitudes_; }  // DoRA (Liu et al., arXiv 2402.09353)
  bool has_biases() const { return biases_; }          // lora_bias

  // Returns what the file says and what has no effect when these names are adapted, one sentence
  // each.
  std::vector<std::string> warnings(const std::vector<std::string>& adapted) const;

  // Returns a shell command that merges the adapter into its model with PEFT.
  const std::string& merging_command() const { return merging_command_; }

 private:
  template <typename Value>
  struct Entry {
    std::string expression;
    NamePattern pattern;
    Value value;
  };
  template <typename Value>
  using Patterns = std::vector<Entry<Value>>;  // in the order of the file

  // A list of names or one expression.
  struct Names {
    std::vector<std::string> ends;  // whole names, or what follows a dot
    std::optional<NamePattern> expression;
    bool all_linear = false;

    bool match(const std::string& module) const;
  };

  template <typename Value>
  static const Value& first_match(const Patterns<Value>& patterns, const std::string& name,
                                  const Value& otherwise);
  bool in_layers(const std::string& module) const;

  std::filesystem::path path_;
  std::string merging_command_;
  std::int64_t rank_ = 0;
  double alpha_ = 0;
  bool rank_stabilized_ = false;
  bool magnitudes_ = false;
  bool biases_ = false;
  bool fan_in_fan_out_ = false;
  Patterns<std::int64_t> rank_patterns_;
  Patterns<double> alpha_patterns_;
  Names targets_;
  Names excluded_;
  std::vector<std::string> parameters_;              // whole names, or what follows a dot
  std::optional<std::vector<std::int64_t>> layers_;  // blocks; nothing: all
  std::vector<NamePattern> before_block_;            // empty: any name
};

}  // namespace bipo
