// Which texts name a block.
#include "experiments/formats/named_tensor.hpp"

#include <gtest/gtest.h>

namespace bipo {
namespace {

TEST(LayerNames, OfOutputs) {
  for (const char* text : {"15", "layer15", "layer_15", "layer.15", "layers.15", "model.layers.15",
                           "layers[15]", "model.language_model.layers.15", "transformer.h.15",
                           "blocks.15.hook_resid_post", "direction.15", "layer-15", "layer 15"}) {
    const auto name = read_layer_name(text);
    ASSERT_TRUE(name) << text;
    EXPECT_EQ(name->layer, 15) << text;
    EXPECT_EQ(name->part, "") << text;
  }
}

TEST(LayerNames, OfAnMlp) {
  const auto name = read_layer_name("model.layers[13].mlp.down_proj");
  ASSERT_TRUE(name);
  EXPECT_EQ(name->layer, 13);
  EXPECT_EQ(name->part, "mlp.down_proj");
}

TEST(LayerNames, OtherTexts) {
  for (const char* text :
       {"", "vector", "-1", ".15", "v15", "layers.15.self_attn", "blocks.15.hook_resid_pre",
        "layers.15.", "layers[15", "layers15]", "layers.15x", "15.5", "layer__15",
        "encoder.layers.15", "99999999999999999999", "layers.-15"}) {
    EXPECT_FALSE(read_layer_name(text)) << text;
  }
}

}  // namespace
}  // namespace bipo
