// The steering sites: the one code by which vectors enter a pass.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/TensorOptions.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "trainer/intervention/intervention.hpp"
#include "trainer/intervention/site.hpp"
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

// `site`: rows [T, D], what is at the place before anything acts there.
using AddVectors = std::function<at::Tensor(const at::Tensor& site, const SteeredPlace& place)>;
// `change` may be null.
using RunBlocks = std::function<at::Tensor(const at::Tensor& hidden, Range blocks,
                                           const ChangeMlpOutput& change)>;

// Brings a batch past its last steering site: runs the blocks up to each of `places` (ascending,
// none whose blocks_before() is below next_block) by `run`, and lets the vectors act there by
// `add`.  Training adds by steer() or takes away by project_out(), use does either by
// SteeringVectors::steer().
ResidualStream run_past_sites(ResidualStream stream, const std::vector<SteeredPlace>& places,
                              const AddVectors& add, const RunBlocks& run);

// h + C^T V as one product, with a gradient: h [T, D] is the output of the steered block, or of its
// MLP, V [M, D] the vectors, C [M, T] their coefficients at every row (d in training, otherwise the
// multiplier; 0 where another vector steers the row); all of h's type.  The gradients are V's,
// dL/dv_m = sum over rows of c_mt dL/dh_t (Cao et al., arXiv 2406.00045, equation 2 with A_L(x) + d
// v), and h's where h requires one.
at::Tensor steer(const at::Tensor& h, const at::Tensor& coefficients, const at::Tensor& vectors);

// h - sum over m of s_mt (v_m.h_t)/(v_m.v_m) v_m, all components taken from h itself, with
// gradients in h and V: S [M, T] is the share of its component that a row loses to a vector (1
// projects it out; 0 keeps the row's bits); all of h's type.  A vector of zeros takes nothing away
// and has the gradient 0.  Rows that several vectors steer lose all of these only where the vectors
// are orthogonal.  (The null intervention of RePS, arXiv 2505.20809, is S = 1.)
at::Tensor project_out(const at::Tensor& h, const at::Tensor& shares, const at::Tensor& vectors);

struct PlacedVector {
  std::int64_t layer = 0;    // the block that it steers
  std::vector<float> value;  // [D]; of a conceptor [D, D], row by row, symmetric
  Intervention intervention = {};
  Site site = Site::kBlock;
};

// Vectors in use, at one block or several; each row of a batch has its own multipliers.
class SteeringVectors {
 public:
  // Copies the vectors to the decoder's device, in the residual type.  Throws BugError unless they
  // have the model's hidden size and layers of the model.  Tensor-parallel ranks hold whole rows of
  // the residual stream, and each a whole copy of vectors and conceptors.  Local.
  SteeringVectors(const std::vector<PlacedVector>& vectors, const Decoder& decoder);

  std::int64_t count() const { return count_; }  // M

  // Where vectors act, ascending.
  std::vector<SteeredPlace> places() const;

  // Lets every vector of `place` act on what is there, h [T, D], by its intervention, one after the
  // other in their order, row by row with the coefficients [M, T] (of the residual type, on the
  // decoder's device).  A row whose coefficients are all 0 keeps its bits, and what becomes of
  // another does not depend on the rows beside it; by a conceptor only where the products of the
  // decoder keep rows apart too (Decoder::has_independent_cached_rows()).
  at::Tensor steer(const at::Tensor& h, const SteeredPlace& place,
                   const at::Tensor& coefficients) const;

 private:
  struct Acts {
    SteeredPlace place;
    at::Tensor which;                         // [m] int64: the vectors' places among the M
    std::vector<at::Tensor> values;           // [m] of [D], or [D, D] of conceptors
    std::vector<Intervention> interventions;  // [m]
  };

  std::int64_t count_ = 0;
  std::vector<Acts> acts_;  // ascending by place
};

}  // namespace bipo
