#include "trainer/model/architecture/refused_families.hpp"

#include <algorithm>
#include <array>
#include <string_view>

namespace bipo {
namespace {

struct RefusedFamily {
  std::string_view architecture;
  std::string_view missing;
};

constexpr std::string_view kExperts = "a mixture of experts";
constexpr std::string_view kLatent = "latent attention";
constexpr std::string_view kLatentAndExperts = "latent attention and a mixture of experts";
constexpr std::string_view kStateSpaces = "state-space blocks";
constexpr std::string_view kLearnedPositions = "learned positions";
constexpr std::string_view kSquares = "squared ReLU";

// Read in transformers' modelling files.
constexpr std::array kRefused = {
    RefusedFamily{"ApertusForCausalLM", "xIELU"},
    RefusedFamily{"ArceeForCausalLM", kSquares},
    RefusedFamily{"NemotronForCausalLM", "squared ReLU and LayerNorm by 1 + w"},
    RefusedFamily{"Jais2ForCausalLM", kSquares},
    RefusedFamily{"NanoChatForCausalLM", "squared ReLU and norms without weights"},
    RefusedFamily{"OlmoForCausalLM", "LayerNorm without weights"},
    RefusedFamily{"StableLmForCausalLM", "LayerNorm with biases beside an MLP with gates"},
    RefusedFamily{"HunYuanDenseV1ForCausalLM", "norms of queries and keys behind the rotation"},
    RefusedFamily{"HyperCLOVAXForCausalLM", "Granite's multipliers beside norms of outputs"},
    RefusedFamily{"GraniteSWAForCausalLM", "learned sinks of the attention"},
    RefusedFamily{"GptOssForCausalLM", "a mixture of experts and learned sinks of the attention"},
    RefusedFamily{"Gemma3nForCausalLM", "AltUp and embeddings for each block"},
    RefusedFamily{"Gemma3nForConditionalGeneration", "AltUp and embeddings for each block"},
    RefusedFamily{"DiffLlamaForCausalLM", "differential attention"},
    RefusedFamily{"DogeForCausalLM", "dynamic masks of the attention"},
    RefusedFamily{"BitNetForCausalLM", "ternary weights"},
    RefusedFamily{"HrmTextForCausalLM", "blocks that run several times"},
    RefusedFamily{"MiniCPM3ForCausalLM", kLatent},
    RefusedFamily{"YoutuForCausalLM", kLatent},
    RefusedFamily{"DeepseekV2ForCausalLM", kLatentAndExperts},
    RefusedFamily{"DeepseekV3ForCausalLM", kLatentAndExperts},
    RefusedFamily{"Lfm2ForCausalLM", "blocks with a convolution instead of attention"},
    RefusedFamily{"Lfm3ForCausalLM", "blocks with a convolution instead of attention"},
    RefusedFamily{"OlmoHybridForCausalLM", "a gated delta net in a block of its own kind"},
    RefusedFamily{"KimiLinearForCausalLM",
                  "a delta net that decays by channel, and a mixture of experts"},
    RefusedFamily{"Qwen3NextForCausalLM", kExperts},
    RefusedFamily{"RecurrentGemmaForCausalLM", "a recurrence of its own"},
    RefusedFamily{"RwkvForCausalLM", "a recurrence of its own"},
    RefusedFamily{"xLSTMForCausalLM", "a recurrence of its own"},
    RefusedFamily{"BambaForCausalLM", kStateSpaces},
    RefusedFamily{"FalconH1ForCausalLM", kStateSpaces},
    RefusedFamily{"FalconMambaForCausalLM", kStateSpaces},
    RefusedFamily{"JambaForCausalLM", kStateSpaces},
    RefusedFamily{"MambaForCausalLM", kStateSpaces},
    RefusedFamily{"Mamba2ForCausalLM", kStateSpaces},
    RefusedFamily{"NemotronHForCausalLM", kStateSpaces},
    RefusedFamily{"ZambaForCausalLM", kStateSpaces},
    RefusedFamily{"Zamba2ForCausalLM", kStateSpaces},
    RefusedFamily{"BloomForCausalLM", "ALiBi"},
    RefusedFamily{"MptForCausalLM", "ALiBi"},
    RefusedFamily{"GPT2LMHeadModel", kLearnedPositions},
    RefusedFamily{"GPTBigCodeForCausalLM", kLearnedPositions},
    RefusedFamily{"GPTNeoForCausalLM", kLearnedPositions},
    RefusedFamily{"OPTForCausalLM", kLearnedPositions},
    RefusedFamily{"BeamForCausalLM", kExperts},
    RefusedFamily{"DbrxForCausalLM", kExperts},
    RefusedFamily{"Dots1ForCausalLM", kExperts},
    RefusedFamily{"FlexOlmoForCausalLM", kExperts},
    RefusedFamily{"FlintForCausalLM", kExperts},
    RefusedFamily{"HYV3ForCausalLM", kExperts},
    RefusedFamily{"HYV4ForCausalLM", kExperts},
    RefusedFamily{"Kolibri1ForCausalLM", kExperts},
    RefusedFamily{"LagunaForCausalLM", kExperts},
    RefusedFamily{"Llama4ForCausalLM", kExperts},
    RefusedFamily{"MellumForCausalLM", kExperts},
    RefusedFamily{"MixtralForCausalLM", kExperts},
    RefusedFamily{"SolarOpenForCausalLM", kExperts},
    RefusedFamily{"ZayaForCausalLM", kExperts},
};

}  // namespace

std::string_view missing_for(std::string_view architecture) {
  const auto* found = std::find_if(kRefused.begin(), kRefused.end(), [&](const RefusedFamily& one) {
    return one.architecture == architecture;
  });
  if (found != kRefused.end()) {
    return found->missing;
  }
  const bool has_experts = architecture.find("Moe") != std::string_view::npos ||
                           architecture.find("MoE") != std::string_view::npos ||
                           architecture.find("moe") != std::string_view::npos;
  return has_experts ? kExperts : std::string_view();
}

}  // namespace bipo
