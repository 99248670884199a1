#include "trainer/model/architecture/shapes.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

// Common to the shapes: Llama's architecture, rotary embedding over the whole head.
ModelConfig llama(std::int64_t hidden, std::int64_t blocks, std::int64_t heads,
                  std::int64_t kv_heads, std::int64_t intermediate, std::int64_t vocabulary) {
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.hidden = hidden;
  config.blocks = blocks;
  config.heads = heads;
  config.kv_heads = kv_heads;
  config.head_size = hidden / heads;
  config.intermediate = intermediate;
  config.vocabulary = vocabulary;
  config.norm_epsilon = 1e-5;
  return config;
}

// Llama 3.1 rescales rotary frequencies for its context of 131,072 tokens.
ModelConfig llama_3_1(ModelConfig config) {
  config.context = 131072;
  config.rotary = {{.theta = 500000, .scaling = Llama3RopeScaling{8, 1, 4, 8192}}};
  return config;
}

// Values of config.json in meta-llama/Llama-2-7b-hf.
ModelConfig llama_2_7b() {
  ModelConfig config = llama(4096, 32, 32, 32, 11008, 32000);
  config.context = 4096;
  return config;
}

// Values of config.json in meta-llama/Llama-3.1-8B.
ModelConfig llama_3_1_8b() {
  return llama_3_1(llama(4096, 32, 32, 8, 14336, 128256));
}

// Values of config.json in meta-llama/Llama-3.1-70B.
ModelConfig llama_3_1_70b() {
  return llama_3_1(llama(8192, 80, 64, 8, 28672, 128256));
}

// Values of config.json in HuggingFaceTB/SmolLM2-135M-Instruct.
ModelConfig smollm2_135m() {
  ModelConfig config = llama(576, 30, 9, 3, 1536, 49152);
  config.context = 8192;
  config.rotary = {{.theta = 100000}};
  config.tied_head = true;
  return config;
}

// In the order of kShapeNames.
constexpr std::array kShapes = {llama_2_7b, llama_3_1_8b, llama_3_1_70b, smollm2_135m};
static_assert(kShapes.size() == kShapeNames.size());

}  // namespace

ModelConfig read_shape(const std::string& name_or_path) {
  const auto named = std::find(kShapeNames.begin(), kShapeNames.end(), name_or_path);
  if (named != kShapeNames.end()) {
    return kShapes.at(static_cast<std::size_t>(named - kShapeNames.begin()))();
  }
  const std::filesystem::path path = name_or_path;
  if (path.filename() != "config.json") {
    throw UserError(fmt::format("--shape {}: is neither one of {} nor the path of a config.json",
                                name_or_path, fmt::join(kShapeNames, ", ")));
  }
  return read_model_config(path.parent_path());
}

}  // namespace bipo
