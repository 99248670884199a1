// Names of tensors behind prefixes, and heads that are the embedding or not.
#include "trainer/model/weights/checkpoint_names.hpp"

#include <gtest/gtest.h>

#include <algorithm>

namespace bipo {
namespace {

using Names = std::vector<std::string>;

TEST(CheckpointNames, AreThoseOfTheFirstBlock) {
  struct Case {
    Names names;
    std::string embedding;
    std::string head;
    bool known;
  };
  const std::string norm = "layers.0.input_layernorm.weight";
  const Case cases[] = {{{"model." + norm}, "model.embed_tokens.weight", "lm_head.weight", true},
                        {{norm}, "embed_tokens.weight", "lm_head.weight", true},
                        {{"model.model." + norm, "model.lm_head.weight"},
                         "model.model.embed_tokens.weight",
                         "model.lm_head.weight",
                         true},
                        {{"module.model." + norm, "module.lm_head.weight"},
                         "module.model.embed_tokens.weight",
                         "module.lm_head.weight",
                         false},
                        {{"language_model.model." + norm, "lm_head.weight"},
                         "language_model.model.embed_tokens.weight",
                         "lm_head.weight",
                         false},
                        {{"model.language_model." + norm, "lm_head.weight"},
                         "model.language_model.embed_tokens.weight",
                         "lm_head.weight",
                         false},
                        {{"model." + norm, "draft.model." + norm},
                         "model.embed_tokens.weight",
                         "lm_head.weight",
                         true}};
  for (const Case& one : cases) {
    const CheckpointNames found = find_names(one.names);
    EXPECT_EQ(found.stored("model.embed_tokens.weight"), one.embedding);
    EXPECT_EQ(found.stored("lm_head.weight"), one.head);
    EXPECT_EQ(found.are_known_to_transformers(), one.known) << one.embedding;
    EXPECT_TRUE(found.alternatives.empty());
  }
}

TEST(CheckpointNames, OfSeveralModelsAreNotChosen) {
  const CheckpointNames found =
      find_names({"a.layers.0.input_layernorm.weight", "b.layers.0.input_layernorm.weight",
                  "xlayers.0.input_layernorm.weight"});
  EXPECT_EQ(found.stored("model.norm.weight"), "model.norm.weight");
  EXPECT_EQ(found.alternatives, (Names{"a.", "b."}));
}

}  // namespace
}  // namespace bipo
