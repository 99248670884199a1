// The steering site: the one place where vectors enter the residual stream.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/TensorOptions.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "trainer/model/decoder/decoder.hpp"
#include "trainer/model/sharding/sharding.hpp"

namespace bipo {

// M vectors, T rows, D hidden.

// Returns type and device of the residual stream.
inline at::TensorOptions residual_options(const Decoder& decoder) {
  return at::TensorOptions().dtype(decoder.residual_type()).device(decoder.device());
}

// The residual stream between two blocks.
struct ResidualStream {
  at::Tensor hidden;            // [T, D]
  std::int64_t next_block = 0;  // the first block that has not run
};

using AddVectors = std::function<at::Tensor(const at::Tensor& hidden, std::int64_t layer)>;
using RunBlocks = std::function<at::Tensor(const at::Tensor& hidden, Range blocks)>;

// Brings a batch past its last steering site: runs the blocks up to each of `layers` (ascending,
// none below next_block - 1) by `run`, and adds the vectors after it by `add`.  Training adds by
// steer(), use by SteeringVectors::add().
ResidualStream run_past_sites(ResidualStream stream, const std::vector<std::int64_t>& layers,
                              const AddVectors& add, const RunBlocks& run);

// h + C^T V as one product, with a gradient: h [T, D] is the steered block's output, V [M, D] the
// vectors, C [M, T] their coefficients at every row (d in training, otherwise the multiplier; 0
// where another vector steers the row); all of h's type.  The only gradient is V's: dL/dv_m = sum
// over rows of c_mt dL/dh_t (Cao et al., arXiv 2406.00045, equation 2 with A_L(x) + d v).
at::Tensor steer(const at::Tensor& h, const at::Tensor& coefficients, const at::Tensor& vectors);

// Rows that vectors are added to: all of them, as in training, or the answer's own rows (a prompt's
// last row, which predicts the answer's first token, is not steered).
enum class SteeredPositions { kAll, kAnswer };

struct PlacedVector {
  std::int64_t layer = 0;    // the block whose output it is added to
  std::vector<float> value;  // [D]
};

// Vectors in use, at one block or several; each row of a batch has its own multipliers.
class SteeringVectors {
 public:
  // Copies the vectors to the decoder's device, in the residual type.  Throws BugError unless they
  // have the model's hidden size and layers of the model.  Local.
  SteeringVectors(const std::vector<PlacedVector>& vectors, const Decoder& decoder);

  std::int64_t count() const { return count_; }  // M

  // Blocks whose output is steered, ascending.
  std::vector<std::int64_t> layers() const;

  // Adds every vector of block `layer` to its output h [T, D], row by row with the coefficients
  // [M, T] (of the residual type, on the decoder's device).  A row whose coefficients are all 0
  // keeps its bits.
  at::Tensor add(const at::Tensor& h, std::int64_t layer, const at::Tensor& coefficients) const;

 private:
  struct Site {
    std::int64_t layer;
    at::Tensor which;    // [m] int64: the vectors' places among the M
    at::Tensor vectors;  // [m, D]
  };

  std::int64_t count_ = 0;
  std::vector<Site> sites_;  // ascending by layer
};

}  // namespace bipo
