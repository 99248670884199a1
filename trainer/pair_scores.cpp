#include "trainer/pair_scores.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "trainer/steering.hpp"

namespace bipo {

PairScores score_pairs(const Decoder& decoder, const PackedPairs& packed, const at::Tensor& hidden,
                       const Steering& steering) {
  const at::Tensor steered = steer(hidden, steering.coefficients, steering.vector);
  const at::Tensor output =
      decoder.run_blocks(steered, {steering.layer + 1, decoder.config().blocks}, packed.layout);
  PairScores scores;
  scores.row_log_probs = decoder.next_token_log_probs(output, packed.rows, packed.targets);
  const at::Tensor on_host = scores.row_log_probs.detach().to(at::kCPU, at::kDouble);
  const double* row = on_host.const_data_ptr<double>();
  scores.answers.resize(static_cast<std::size_t>(packed.pairs));
  for (std::size_t r = 0; r < packed.answer_of_row.size(); ++r) {
    const std::int64_t answer = packed.answer_of_row[r];
    AnswerLogProbs& pair = scores.answers[static_cast<std::size_t>(answer / 2)];
    (answer % 2 == 0 ? pair.chosen : pair.rejected) += row[r];
  }
  return scores;
}

at::Tensor run_prefix(const Decoder& decoder, const PackedPairs& packed, std::int64_t layer) {
  const at::NoGradGuard no_grad;
  return decoder.run_blocks(decoder.embed(packed.ids), {0, layer + 1}, packed.layout);
}

}  // namespace bipo
