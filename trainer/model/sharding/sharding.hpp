// The weights of a decoder, their shapes, and which part of each one a tensor-parallel rank holds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "trainer/model/architecture/config.hpp"

namespace bipo {

// [begin, end)
struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

// Divides [0, count) into `parts` contiguous ranges whose sizes differ by at most one, the longer
// ones first, and returns the range `index`.
Range split_range(std::int64_t count, std::int64_t parts, std::int64_t index);

// The weights of the decoder.
enum class Role {
  kEmbedding,
  kAttentionNorm,
  kQuery,
  kKey,
  kValue,
  kQueryBias,
  kKeyBias,
  kValueBias,
  kQueryNorm,
  kKeyNorm,
  kJointQueryNorm,
  kJointKeyNorm,
  kAttentionOutput,
  kAttentionOutputBias,
  kAttentionOutputNorm,
  kMlpNorm,
  kGate,
  kUp,
  kDown,
  kMlpOutputNorm,
  kBlockScale,
  kFinalNorm,
  kHead,
  // Recurrent blocks have products of the block's input, taps of the convolution, the rest.
  kDeltaQuery,
  kDeltaKey,
  kDeltaValue,
  kDeltaGate,
  kDeltaStep,
  kDeltaDecay,
  kDeltaQueryTaps,
  kDeltaKeyTaps,
  kDeltaValueTaps,
  kDeltaDecayScale,  // files hold its logarithm
  kDeltaDecayBias,
  kDeltaNorm,
  kDeltaOutput,
  kAttentionNormBias,
  kMlpNormBias,
  kUpBias,
  kDownBias,
  kFinalNormBias,
  kHeadBias,
};

inline constexpr std::size_t kRoles = static_cast<std::size_t>(Role::kHeadBias) + 1;

// Whether a table has one entry for each role, in the order of Role.
template <class Table>
constexpr bool has_every_role(const Table& table) {
  for (std::size_t i = 0; i < table.size(); ++i) {
    if (table[i].role != static_cast<Role>(i)) {
      return false;
    }
  }
  return table.size() == kRoles;
}

// Return the roles of the model's weights in a block, and outside its blocks.
std::vector<Role> block_roles(const ModelConfig& config, std::int64_t block);
std::vector<Role> outer_roles(const ModelConfig& config);

bool is_norm(Role role);

// Whether the weight is a matrix that multiplies activations; all others are used element by
// element.
bool is_product(Role role);

struct WeightId {
  Role role;
  std::int64_t block = 0;  // 0 outside the blocks
};

// Returns every weight in the model's files, in a fixed order.  A tied head is the embedding.
std::vector<WeightId> weights_of(const ModelConfig& config);

// The parts of a rank.  Query heads are split first; a rank holds every key/value head that its
// query heads attend to, so ranks may share one.
struct ShardPlan {
  Range heads;         // of H
  Range intermediate;  // of I
  Range vocabulary;    // of V
  Range delta_values;  // of the value heads of recurrent blocks
};

// Returns the parts of the rank at `tp_rank` of `tp`.  Throws UserError if tp exceeds the number of
// query heads, or of a recurrent block's value heads.
ShardPlan plan_shard(const ModelConfig& config, std::int64_t tp, std::int64_t tp_rank);

// Returns the part of the Hkv key/value heads of a kind of attention.
Range kv_part(const ModelConfig& config, const ShardPlan& plan, const AttentionKind& kind);

// Returns the part of a recurrent block's key heads, which its value heads use; ranks may share
// one.
Range delta_key_part(const DeltaNetSizes& sizes, const ShardPlan& plan);

// Shape of a weight: [out, in] for products; for norms and biases [n], with columns = 0.
struct TensorShape {
  std::int64_t rows = 0;
  std::int64_t columns = 0;

  bool is_vector() const { return columns == 0; }
};
// `block` is ignored outside blocks, here and below.
TensorShape full_shape(const ModelConfig& config, Role role, std::int64_t block);

// A part of a weight.
struct Slice {
  Range rows;
  Range columns;  // empty for norms and biases
};
Slice slice_of(const ModelConfig& config, const ShardPlan& plan, Role role, std::int64_t block);

// Elements that a rank holds of a block.
struct BlockElements {
  std::int64_t matrices = 0;
  std::int64_t vectors = 0;  // norms, biases, taps of convolutions
};
BlockElements block_elements(const ModelConfig& config, const ShardPlan& plan, std::int64_t block);

// Elements that a rank holds of the weights outside the blocks.
struct OuterElements {
  std::int64_t vectors = 0;  // final norm, biases
  std::int64_t embedding = 0;
  std::int64_t head = 0;  // if it is tied, the embedding's
};
OuterElements outer_elements(const ModelConfig& config, const ShardPlan& plan);

}  // namespace bipo
