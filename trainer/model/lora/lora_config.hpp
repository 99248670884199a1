// Reads the adapter_config.json of a PEFT directory with low-rank updates (LoRA, Hu et al., arXiv
// 2106.09685).
#pragma once

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace bipo {

// An adapter adds scale * B A to the weight [out, in] of a module, such as
// "model.layers.3.self_attn.q_proj"; A is [rank, in], B [out, rank].
class LoraConfig {
 public:
  // Throws UserError for a file that is malformed, is not LoRA's, or requires more than `scale * B
  // A` with fixed weights (DoRA, biases, modules trained as a whole, added tokens, other layers
  // than the base model's, weights that the initialisation took from the base model).  Names the
  // field, also an unknown one.
  explicit LoraConfig(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }

  // Return PEFT's values: the scale is alpha / rank, with use_rslora alpha / sqrt(rank)
  // (Kalajdzievski, arXiv 2312.03732).  The first entry of rank_pattern, and of alpha_pattern, that
  // ends the module's name (or, after '^', equals it) replaces the default.
  std::int64_t rank(const std::string& module) const;
  double scale(const std::string& module) const;

  // Whether the file lists the modules by the ends of their names, so that `targets` can tell which
  // modules the adapter must have.
  bool lists_targets() const { return !targets_.empty(); }
  bool targets(const std::string& module) const;

 private:
  // Value by end of name, or by whole name after '^', in the order of the file.
  template <typename Value>
  using Pattern = std::vector<std::pair<std::string, Value>>;

  std::filesystem::path path_;
  std::int64_t rank_ = 0;
  double alpha_ = 0;
  bool rank_stabilized_ = false;
  Pattern<std::int64_t> rank_pattern_;
  Pattern<double> alpha_pattern_;
  std::vector<std::string> targets_;   // ends of names; empty: not listed
  std::vector<std::string> excluded_;  // likewise
  std::set<std::int64_t> layers_;      // blocks; empty: all
};

}  // namespace bipo
