// Vectors as files of other programs hold them, under the names that those programs give them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bipo {

// One vector [D], or a table [R, D] with a vector in each row.
struct NamedTensor {
  std::string name;                   // a key, a tensor's name; empty where the file has none
  std::optional<std::int64_t> layer;  // the block, from 0, that the file names for it
  std::string part;                   // of that block, where it is not the block's output: "mlp"
  std::int64_t rows = 1;              // 1 also for a vector [1, D]
  std::vector<float> values;          // [rows * D]; already times `coefficient`
  double coefficient = 1;             // that the file has beside the vector
};

struct LayerName {
  std::int64_t layer = 0;
  std::string part;  // "" for the block's output, "mlp" or "mlp.down_proj"
};

// Reads a text that names a block, as other programs write it: "15", "layer_15", "layers.15",
// "model.layers.15", "model.layers[13].mlp", "direction.15".  Returns nothing for other texts, and
// for parts of a block whose output is something else than what is added to the residual stream.
std::optional<LayerName> read_layer_name(std::string_view text);

}  // namespace bipo
