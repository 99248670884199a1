// A small model and its pairs as files, as a user would have them.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "tests/datasets/character_model.hpp"

namespace bipo::testing {

inline constexpr std::int64_t kModelBlocks = 3;
inline constexpr std::int64_t kModelHidden = 8;
inline constexpr std::int64_t kModelContext = 256;

// One file of float32 numbers that count up.
inline void write_safetensors(
    const std::filesystem::path& path,
    const std::vector<std::pair<std::string, std::vector<std::int64_t>>>& shapes) {
  nlohmann::json header;
  std::int64_t count = 0;
  for (const auto& [name, shape] : shapes) {
    const std::int64_t begin = count;
    count += shape.size() == 1 ? shape[0] : shape[0] * shape[1];
    header[name] = {{"dtype", "F32"}, {"shape", shape}, {"data_offsets", {begin * 4, count * 4}}};
  }
  const std::string text = header.dump();
  const std::uint64_t size = text.size();
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&size), sizeof(size));
  file << text;
  for (std::int64_t i = 0; i < count; ++i) {
    const float value = 1e-3F * static_cast<float>(i % 97);
    file.write(reinterpret_cast<const char*>(&value), sizeof(value));
  }
}

// A Llama of 3 blocks and hidden size 8 whose tokens are characters.
inline void write_model(const std::filesystem::path& directory, const std::string& chat_template) {
  constexpr std::int64_t kVocabulary = 303;
  constexpr std::int64_t kIntermediate = 12;
  constexpr std::int64_t kKeyColumns = kModelHidden / 2;  // 2 query heads share one
  std::filesystem::create_directories(directory);
  write_character_model(directory, chat_template);
  write_json(directory / "config.json", {{"architectures", {"LlamaForCausalLM"}},
                                         {"hidden_size", kModelHidden},
                                         {"num_hidden_layers", kModelBlocks},
                                         {"num_attention_heads", 2},
                                         {"num_key_value_heads", 1},
                                         {"intermediate_size", kIntermediate},
                                         {"vocab_size", kVocabulary},
                                         {"max_position_embeddings", kModelContext}});
  std::vector<std::pair<std::string, std::vector<std::int64_t>>> shapes = {
      {"model.embed_tokens.weight", {kVocabulary, kModelHidden}},
      {"model.norm.weight", {kModelHidden}},
      {"lm_head.weight", {kVocabulary, kModelHidden}}};
  for (std::int64_t block = 0; block < kModelBlocks; ++block) {
    const auto add = [&](const std::string& name, std::vector<std::int64_t> shape) {
      shapes.emplace_back("model.layers." + std::to_string(block) + "." + name + ".weight",
                          std::move(shape));
    };
    add("input_layernorm", {kModelHidden});
    add("self_attn.q_proj", {kModelHidden, kModelHidden});
    add("self_attn.k_proj", {kKeyColumns, kModelHidden});
    add("self_attn.v_proj", {kKeyColumns, kModelHidden});
    add("self_attn.o_proj", {kModelHidden, kModelHidden});
    add("post_attention_layernorm", {kModelHidden});
    add("mlp.gate_proj", {kIntermediate, kModelHidden});
    add("mlp.up_proj", {kIntermediate, kModelHidden});
    add("mlp.down_proj", {kModelHidden, kIntermediate});
  }
  write_safetensors(directory / "model.safetensors", shapes);
}

// A directory of its own for each test, with the model, 3 pairs to train on and 2 to test on.
class ModelDirectory : public ::testing::Test {
 protected:
  explicit ModelDirectory(const std::string& chat_template = kChatMl)
      : directory_(std::filesystem::path(::testing::TempDir()) /
                   ("bipo-model-" + std::to_string(getpid()))) {
    std::filesystem::remove_all(directory_);
    write_model(model(), chat_template);
    std::ofstream(train()) << "question,matching,not_matching\nWho?,Me.,Nobody.\n"
                              "When?,Now.,Never.\nWhy?,So.,No.\n";
    std::ofstream(test())
        << "question,matching,not_matching\nWhere?,Here.,There.\nIs it?,Yes.,No.\n";
  }
  ~ModelDirectory() override { std::filesystem::remove_all(directory_); }

  std::filesystem::path model() const { return directory_ / "model"; }
  std::filesystem::path train() const { return directory_ / "train.csv"; }
  std::filesystem::path test() const { return directory_ / "test.csv"; }

  const std::filesystem::path directory_;
};

}  // namespace bipo::testing
