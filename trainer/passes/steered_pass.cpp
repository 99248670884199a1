#include "trainer/passes/steered_pass.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

namespace bipo {
namespace {

at::Tensor steered_rows(const Decoder& decoder, const PackedAnswers& packed,
                        SteeredPositions positions) {
  const auto options = at::TensorOptions().dtype(decoder.residual_type()).device(decoder.device());
  if (positions == SteeredPositions::kAll) {
    return at::ones({packed.tokens()}, options);
  }
  const at::Tensor rows = at::tensor(packed.rows_of_answers, at::kLong).to(decoder.device());
  return at::zeros({packed.tokens()}, options).index_fill_(0, rows, 1);
}

}  // namespace

SteeredPass::SteeredPass(const Decoder& decoder, const SteeringVectors& vectors,
                         const PackedAnswers& packed, SteeredPositions positions)
    : decoder_(decoder),
      vectors_(vectors),
      packed_(packed),
      layers_(vectors.layers()),
      mask_(steered_rows(decoder, packed, positions)) {
  const at::NoGradGuard no_grad;
  const std::int64_t blocks = layers_.empty() ? 0 : layers_.front() + 1;
  prefix_ = {decoder.run_blocks(decoder.embed(packed.ids), {0, blocks}, packed.layout), blocks};
}

ResidualStream SteeredPass::steered(const std::vector<double>& coefficients) const {
  const at::Tensor of_rows =
      at::outer(at::tensor(coefficients, at::kDouble).to(mask_.options()), mask_);
  return run_past_sites(
      prefix_, layers_,
      [&](const at::Tensor& h, std::int64_t layer) { return vectors_.add(h, layer, of_rows); },
      [&](const at::Tensor& h, Range blocks) {
        return decoder_.run_blocks(h, blocks, packed_.layout);
      });
}

at::Tensor SteeredPass::to_answers(const std::vector<double>& coefficients) const {
  const at::NoGradGuard no_grad;
  const ResidualStream state = steered(coefficients);
  return decoder_.run_to_answers(state.hidden, state.next_block, packed_.layout);
}

at::Tensor SteeredPass::to_all(const std::vector<double>& coefficients) const {
  const at::NoGradGuard no_grad;
  const ResidualStream state = steered(coefficients);
  return decoder_.run_blocks(state.hidden, {state.next_block, decoder_.config().blocks},
                             packed_.layout);
}

}  // namespace bipo
