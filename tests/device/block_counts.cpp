#include "tests/device/block_counts.hpp"

#include <ATen/ATen.h>
#include <c10/core/AutogradState.h>

#include "tests/support/training_world.hpp"

namespace bipo::testing {
namespace {

BlockCounts counts_of_blocks(const Decoder& decoder, const PackedPairs& packed,
                             std::int64_t blocks) {
  auto state = c10::AutogradState::get_tls_state();
  state.set_multithreading_enabled(false);
  c10::AutogradState::set_tls_state(state);
  const at::Tensor h = decoder.embed(packed.ids).detach().set_requires_grad(true);
  const DeviceCounts start = device_counts();
  const at::Tensor out = decoder.run_blocks(h, {0, blocks}, packed.layout);
  const DeviceCounts middle = device_counts();
  const at::Tensor gradient = at::ones_like(out);
  const DeviceCounts later = device_counts();
  out.backward(gradient);
  return {middle - start, device_counts() - later};
}

}  // namespace

BlockCounts counts_of_block(const ModelConfig& config, at::ScalarType type) {
  const RandomWeights weights(config);
  const Ranks ranks = lone_ranks();
  Decoder decoder(config, weights, type, simulated_device(), *ranks.tp);
  decoder.load_embedding();
  decoder.load_blocks({0, config.blocks});
  const PackedPairs packed = pack_alike(varied_pairs(11), {2, 7, 0, 5}, decoder);
  const BlockCounts one = counts_of_blocks(decoder, packed, 1);
  const BlockCounts two = counts_of_blocks(decoder, packed, 2);
  return {two.forward - one.forward, two.backward - one.backward};
}

}  // namespace bipo::testing
