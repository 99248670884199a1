// The frequencies of rotary position embeddings (Su et al., arXiv 2104.09864) and their
// rescalings for longer contexts.
#pragma once

#include <cstdint>
#include <variant>
#include <vector>

namespace bipo {

// All frequencies divided by one number (position interpolation, arXiv 2306.15595).
struct LinearRopeScaling {
  double factor = 1;
};

// Llama 3.1's rescaling by wavelength (rope_type "llama3").
struct Llama3RopeScaling {
  double factor = 1;
  double low_frequency_factor = 1;
  double high_frequency_factor = 4;
  double original_context = 8192;
};

// YaRN (Peng et al., arXiv 2309.00071, section 3.2): interpolated below `slow` rotations over the
// original context, kept above `fast` ones, blended between.
struct YarnRopeScaling {
  double factor = 1;
  double fast = 32;  // beta of the paper
  double slow = 1;   // alpha of the paper
  double original_context = 4096;
  bool whole_dimensions = true;  // the blend begins and ends at whole pairs of elements
};

struct RotaryEmbedding {
  double theta = 10000;
  std::int64_t rotated = 0;  // R: the first elements of a head, which turn; even; 0: the whole head
  std::vector<float> divisors = {};  // [R / 2], of the frequencies one by one; empty: all 1
  std::variant<std::monostate, LinearRopeScaling, Llama3RopeScaling, YarnRopeScaling> scaling = {};
  double factor = 1;  // what the turned elements are multiplied by
};

}  // namespace bipo
