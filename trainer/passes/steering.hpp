// The steering site: the one place where vectors enter the residual stream.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/TensorOptions.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "trainer/intervention/intervention.hpp"
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
// steer() or takes away by project_out(), use does either by SteeringVectors::steer().
ResidualStream run_past_sites(ResidualStream stream, const std::vector<std::int64_t>& layers,
                              const AddVectors& add, const RunBlocks& run);

// h + C^T V as one product, with a gradient: h [T, D] is the steered block's output, V [M, D] the
// vectors, C [M, T] their coefficients at every row (d in training, otherwise the multiplier; 0
// where another vector steers the row); all of h's type.  The gradients are V's, dL/dv_m = sum over
// rows of c_mt dL/dh_t (Cao et al., arXiv 2406.00045, equation 2 with A_L(x) + d v), and h's where
// h requires one.
at::Tensor steer(const at::Tensor& h, const at::Tensor& coefficients, const at::Tensor& vectors);

// h - sum over m of s_mt (v_m.h_t)/(v_m.v_m) v_m, all components taken from h itself, with
// gradients in h and V: S [M, T] is the share of its component that a row loses to a vector (1
// projects it out; 0 keeps the row's bits); all of h's type.  A vector of zeros takes nothing away
// and has the gradient 0.  Rows that several vectors steer lose all of these only where the vectors
// are orthogonal.  (The null intervention of RePS, arXiv 2505.20809, is S = 1.)
at::Tensor project_out(const at::Tensor& h, const at::Tensor& shares, const at::Tensor& vectors);

struct PlacedVector {
  std::int64_t layer = 0;    // the block whose output it steers
  std::vector<float> value;  // [D]; of a conceptor [D, D], row by row, symmetric
  Intervention intervention = {};
};

// Vectors in use, at one block or several; each row of a batch has its own multipliers.
class SteeringVectors {
 public:
  // Copies the vectors to the decoder's device, in the residual type.  Throws BugError unless they
  // have the model's hidden size and layers of the model.  Tensor-parallel ranks hold whole rows of
  // the residual stream, and each a whole copy of vectors and conceptors.  Local.
  SteeringVectors(const std::vector<PlacedVector>& vectors, const Decoder& decoder);

  std::int64_t count() const { return count_; }  // M

  // Blocks whose output is steered, ascending.
  std::vector<std::int64_t> layers() const;

  // Lets every vector of block `layer` act on its output h [T, D] by its intervention, one after
  // the other in their order, row by row with the coefficients [M, T] (of the residual type, on the
  // decoder's device).  A row whose coefficients are all 0 keeps its bits, and what becomes of
  // another does not depend on the rows beside it; by a conceptor only where the products of the
  // decoder keep rows apart too (Decoder::has_independent_cached_rows()).
  at::Tensor steer(const at::Tensor& h, std::int64_t layer, const at::Tensor& coefficients) const;

 private:
  struct Site {
    std::int64_t layer;
    at::Tensor which;                         // [m] int64: the vectors' places among the M
    std::vector<at::Tensor> values;           // [m] of [D], or [D, D] of conceptors
    std::vector<Intervention> interventions;  // [m]
  };

  std::int64_t count_ = 0;
  std::vector<Site> sites_;  // ascending by layer
};

}  // namespace bipo
