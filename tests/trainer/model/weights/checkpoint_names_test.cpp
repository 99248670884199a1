// Names of tensors behind prefixes, and heads that are the embedding or not.
#include "trainer/model/weights/checkpoint_names.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>

#include "trainer/model/architecture/wrappers.hpp"

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
    EXPECT_EQ(found.are_known_to_transformers, one.known) << one.embedding;
    EXPECT_TRUE(found.alternatives.empty());
  }
}

TEST(CheckpointNames, OfAnotherClassAreItsOwn) {
  const ClassNames usual{"gpt_neox.", {"lm_head.weight", "embed_out.weight"}};
  const std::string norm = "layers.0.input_layernorm.weight";
  const CheckpointNames published =
      find_names({"gpt_neox." + norm, "embed_out.weight"}, nullptr, usual);
  EXPECT_EQ(published.stored("model.embed_in.weight"), "gpt_neox.embed_in.weight");
  EXPECT_EQ(published.stored("lm_head.weight"), "embed_out.weight");
  EXPECT_EQ(published.stored("lm_head.bias"), "embed_out.bias");
  EXPECT_TRUE(published.are_known_to_transformers);
  const CheckpointNames newer = find_names({"gpt_neox." + norm, "lm_head.weight"}, nullptr, usual);
  EXPECT_EQ(newer.stored("lm_head.weight"), "lm_head.weight");
  EXPECT_TRUE(find_names({norm}, nullptr, usual).are_known_to_transformers);
  const CheckpointNames prefixed =
      find_names({"module.gpt_neox." + norm, "module.embed_out.weight"}, nullptr, usual);
  EXPECT_EQ(prefixed.stored("model.embed_in.weight"), "module.gpt_neox.embed_in.weight");
  EXPECT_EQ(prefixed.stored("lm_head.weight"), "module.embed_out.weight");
  EXPECT_FALSE(prefixed.are_known_to_transformers);
}

TEST(CheckpointNames, OfSeveralModelsAreNotChosen) {
  const CheckpointNames found =
      find_names({"a.layers.0.input_layernorm.weight", "b.layers.0.input_layernorm.weight",
                  "xlayers.0.input_layernorm.weight"});
  EXPECT_EQ(found.stored("model.norm.weight"), "model.norm.weight");
  EXPECT_EQ(found.alternatives, (Names{"a.", "b."}));
}

TEST(CheckpointNames, OfAWrapperAreThoseItDeclares) {
  const Wrapper* gemma = find_wrapper("Gemma3ForConditionalGeneration");
  const std::string norm = "layers.0.input_layernorm.weight";
  const CheckpointNames published =
      find_names({"draft.model." + norm, "language_model.model." + norm, "lm_head.weight"}, gemma);
  EXPECT_EQ(published.stored("model.norm.weight"), "language_model.model.norm.weight");
  EXPECT_EQ(published.stored("lm_head.weight"), "lm_head.weight");
  EXPECT_TRUE(published.are_known_to_transformers);
  const CheckpointNames of_class = find_names({"model.language_model." + norm}, gemma);
  EXPECT_EQ(of_class.stored("model.norm.weight"), "model.language_model.norm.weight");
  EXPECT_EQ(of_class.stored("lm_head.weight"), "language_model.lm_head.weight");
  const CheckpointNames alone = find_names({"model." + norm}, gemma);
  EXPECT_EQ(alone.stored("model.norm.weight"), "model.norm.weight");
  EXPECT_FALSE(alone.are_known_to_transformers);
  EXPECT_EQ(gemma->other_module("model.vision_tower.patch.weight"), "vision_tower");
  EXPECT_EQ(gemma->other_module("vision_towers.patch.weight"), std::nullopt);
}

}  // namespace
}  // namespace bipo
