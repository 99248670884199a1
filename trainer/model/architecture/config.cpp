#include "trainer/model/architecture/config.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <system_error>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/architecture/config_fields.hpp"
#include "trainer/model/architecture/families.hpp"
#include "trainer/model/architecture/rope_config.hpp"
#include "trainer/model/architecture/unused_keys.hpp"

namespace bipo {
namespace {

// Far above any model's; the program lists all tensors of all blocks before it looks for one.
constexpr std::int64_t kMostBlocks = 10000;

// Fields by which some family changes Llama's mathematics.  A field that the model's own family
// does not read must be absent, null, false or 1.
constexpr std::array kVariations = {
    "attention_bias",
    "attention_chunk_size",
    "attention_multiplier",
    "attn_logit_softcapping",
    "clip_qkv",
    "compression_config",
    "embedding_multiplier",
    "final_logit_softcapping",
    "layer_types",
    "logit_scale",
    "logits_scaling",
    "mlp_bias",
    "n_routed_experts",
    "no_rope_layers",
    "num_experts",
    "num_local_experts",
    "per_layer_config",
    "quantization_config",
    "quantization",
    "query_pre_attn_scalar",
    "residual_multiplier",
    "rope_local_base_freq",
    "sliding_window",
    "transformers_weights",
    "use_bidirectional_attention",
    "use_parallel_residual",
    "use_qk_norm",
};

// Families that 4.57.6 or 5.23.0 run as Llama under a name of their own.
constexpr std::array kOtherNamesOfLlama = {"Yi", "internlm3", "iquestcoder"};

// Returns null unless "architectures" names one supported family.
const Family* family_by_architecture(const std::vector<std::string>& architectures) {
  return architectures.size() == 1 ? find_family(architectures[0]) : nullptr;
}

// "LlamaModel" is the architecture of a model that was saved without its head.
bool name_no_head(const std::vector<std::string>& architectures) {
  return architectures.empty() ||
         (architectures.size() == 1 && architectures[0].ends_with("Model"));
}

// Returns the family that transformers' Auto classes choose: they go by model_type, and take a
// Mistral whose blocks are listed for a Ministral.
const Family& family_of(const ConfigFields& fields, std::vector<std::string>& warnings) {
  const std::string type = fields.text("model_type").value_or("");
  const Family* by_type = find_family_of_type(type);
  const auto names =
      fields.has("architectures") ? fields.texts("architectures") : std::vector<std::string>();
  const Family* family = family_by_architecture(names);
  const std::string architectures =
      fields.has("architectures") ? fields.at("architectures").dump() : "is missing and";
  if (family == nullptr && (by_type == nullptr || !name_no_head(names))) {
    fields.refuse(fmt::format("architectures {} is not supported; supported: {}", architectures,
                              supported_architectures()));
  }
  const bool is_ministral = by_type != nullptr && family != nullptr &&
                            by_type->model_type == "mistral" && family->model_type == "ministral";
  if (by_type != nullptr && by_type != family && family != nullptr && !is_ministral) {
    warnings.push_back(fields.located(fmt::format(
        "\"model_type\": \"{}\" and \"architectures\": {} are two families; {} is followed, as "
        "transformers' Auto classes do",
        type, architectures, by_type->architecture)));
  }
  if (by_type == nullptr && !type.empty() &&
      std::find(kOtherNamesOfLlama.begin(), kOtherNamesOfLlama.end(), type) ==
          kOtherNamesOfLlama.end()) {
    warnings.push_back(fields.located(
        fmt::format("\"model_type\": \"{}\" is not known; the model is computed as {}, because "
                    "\"architectures\" says so",
                    type, family->architecture)));
  }
  const Family& chosen = by_type != nullptr ? *by_type : *family;
  const bool lists_blocks = chosen.model_type == "mistral" && fields.has("layer_types");
  return lists_blocks ? *find_family_of_type("ministral") : chosen;
}

void read_heads(const ConfigFields& fields, const Family& family, ModelConfig& config) {
  config.heads = fields.size("num_attention_heads");
  const std::int64_t kv_heads = fields.size_unless_null("num_key_value_heads", family.kv_heads);
  config.kv_heads = kv_heads == 0 ? config.heads : kv_heads;
  if (config.heads % config.kv_heads != 0) {
    fields.refuse(fmt::format("num_attention_heads {} is not a multiple of num_key_value_heads {}",
                              config.heads, config.kv_heads));
  }
  config.head_size = fields.size_unless_null("head_dim", family.head_size);
  if (config.head_size == 0) {
    if (config.hidden % config.heads != 0) {
      fields.refuse(fmt::format(
          "hidden_size {} is not a multiple of num_attention_heads {}, and there is no head_dim",
          config.hidden, config.heads));
    }
    config.head_size = config.hidden / config.heads;
  }
  if (config.head_size % 2 != 0) {
    fields.refuse(
        fmt::format("head size {} is odd; rotary embedding needs pairs", config.head_size));
  }
}

void read_sizes(const ConfigFields& fields, const Family& family, ModelConfig& config) {
  config.hidden = fields.size("hidden_size");
  config.blocks = fields.size("num_hidden_layers");
  if (config.blocks > kMostBlocks) {
    fields.refuse(
        fmt::format("num_hidden_layers is {}, must be at most {}", config.blocks, kMostBlocks));
  }
  config.intermediate = fields.size("intermediate_size");
  config.vocabulary = fields.size("vocab_size");
  config.context = fields.size_or("max_position_embeddings", family.context);
  config.norm_epsilon = fields.positive_or("rms_norm_eps", family.norm_epsilon);
  config.tied_head = fields.truth_or("tie_word_embeddings", family.tied_head);
  read_heads(fields, family, config);
}

void read_activation(const ConfigFields& fields, const Family& family, ModelConfig& config) {
  const bool gelu = family.activation == Activation::kGeluTanh;
  const char* name = gelu ? "hidden_activation" : "hidden_act";
  const std::string activation = fields.text(name).value_or(gelu ? "gelu_pytorch_tanh" : "silu");
  if (activation == "silu" || activation == "swish") {
    config.activation = Activation::kSilu;
  } else if (activation == "gelu_pytorch_tanh") {
    config.activation = Activation::kGeluTanh;
  } else {
    fields.refuse(fmt::format("\"{}\": \"{}\" is not supported (only silu, gelu_pytorch_tanh)",
                              name, activation));
  }
}

void read_scores(const ConfigFields& fields, const Family& family, ModelConfig& config) {
  if (family.biases == Biases::kIfConfigured && fields.truth_or("attention_bias", false)) {
    config.query_key_value_bias = true;
    config.attention_output_bias = true;
  }
  if (family.query_scalar) {
    config.query_pre_attention_scalar =
        fields.positive_or("query_pre_attn_scalar", family.query_scalar_value);
  }
  if (family.attention_soft_cap) {
    config.attention_soft_cap =
        fields.positive_unless_null("attn_logit_softcapping", family.attention_soft_cap_value);
  }
  if (family.logit_soft_cap) {
    config.logit_soft_cap =
        fields.positive_unless_null("final_logit_softcapping", family.logit_soft_cap_value);
  }
}

// Returns [N] whether a block uses positions.
std::vector<bool> rotated_blocks(const ConfigFields& fields, const Family& family,
                                 std::int64_t blocks) {
  std::vector<bool> rotated = rotated_by_default(
      family, blocks, family.unrotated_blocks ? fields.size_or("no_rope_layer_interval", 4) : 0);
  if (!family.unrotated_blocks || !fields.has("no_rope_layers")) {
    return rotated;
  }
  const auto& list = fields.at("no_rope_layers");
  if (!list.is_array() || list.size() != rotated.size()) {
    fields.refuse(fmt::format("\"no_rope_layers\" must list {} blocks", blocks));
  }
  for (std::size_t i = 0; i < rotated.size(); ++i) {
    if (list[i] != 0 && list[i] != 1) {
      fields.refuse("\"no_rope_layers\" must list 1 for blocks with positions, 0 for the others");
    }
    rotated[i] = list[i] == 1;
  }
  return rotated;
}

std::int64_t window_of(const ConfigFields& fields, const Family& family) {
  const bool needs_switch = family.windowed == WindowedBlocks::kFromConfiguredBlock ||
                            family.windowed == WindowedBlocks::kUnrotated;
  if (family.windowed == WindowedBlocks::kNone) {
    return 0;
  }
  const bool on = !needs_switch || fields.truth_or("use_sliding_window", false);
  const std::int64_t window = fields.size_unless_null("sliding_window", family.window);
  return on ? window : 0;
}

std::vector<bool> listed_windowed_blocks(const ConfigFields& fields, std::int64_t blocks) {
  std::vector<bool> windowed;
  for (const std::string& type : fields.texts("layer_types")) {
    if (type != "full_attention" && type != "sliding_attention") {
      fields.refuse(fmt::format(
          "\"layer_types\": \"{}\" is not supported (only full_attention, sliding_attention)",
          type));
    }
    windowed.push_back(type == "sliding_attention");
  }
  if (static_cast<std::int64_t>(windowed.size()) != blocks) {
    fields.refuse(fmt::format("\"layer_types\" lists {} blocks, num_hidden_layers is {}",
                              windowed.size(), blocks));
  }
  return windowed;
}

constexpr std::int64_t kFirstWindowedBlock = 28;

// Returns [N] whether a block has the window by the rule of its family.
std::vector<bool> windowed_by_rule(const ConfigFields& fields, const Family& family,
                                   const std::vector<bool>& rotated) {
  const bool from_block = family.windowed == WindowedBlocks::kFromConfiguredBlock;
  return windowed_by_default(
      family, rotated, from_block ? fields.count_or("max_window_layers", kFirstWindowedBlock) : 0,
      family.configured_every ? fields.size_or("sliding_window_pattern", family.full_every)
                              : family.full_every);
}

// Warns where a setting of the rule was changed to no effect, because the file lists the blocks.
void name_unused_rule(const ConfigFields& fields, const Family& family,
                      const std::vector<bool>& listed, const std::vector<bool>& by_rule,
                      std::vector<std::string>& warnings) {
  const auto warn = [&](const char* name) {
    warnings.push_back(fields.located(
        fmt::format("{} is not used: \"layer_types\" lists the blocks with a window; change or "
                    "remove that list",
                    fields.shown(name))));
  };
  if (listed == by_rule) {
    return;
  }
  if (family.configured_every && fields.has("sliding_window_pattern")) {
    warn("sliding_window_pattern");
  }
  if (family.windowed == WindowedBlocks::kFromConfiguredBlock &&
      fields.count_or("max_window_layers", kFirstWindowedBlock) != kFirstWindowedBlock) {
    warn("max_window_layers");
  }
  const bool none = std::find(listed.begin(), listed.end(), true) == listed.end();
  if (none && fields.has("use_sliding_window")) {
    warn("use_sliding_window");
  }
}

// Returns [N] whether a block has the window, if there is one.
std::vector<bool> windowed_blocks(const ConfigFields& fields, const Family& family,
                                  const std::vector<bool>& rotated, std::int64_t window,
                                  std::vector<std::string>& warnings) {
  const std::vector<bool> by_rule = windowed_by_rule(fields, family, rotated);
  if (!family.lists_windowed_blocks || !fields.has("layer_types")) {
    return by_rule;
  }
  std::vector<bool> listed =
      listed_windowed_blocks(fields, static_cast<std::int64_t>(rotated.size()));
  if (window > 0) {
    name_unused_rule(fields, family, listed, by_rule, warnings);
  }
  return listed;
}

void read_attention_kinds(const ConfigFields& fields, const Family& family, ModelConfig& config) {
  const std::int64_t window = window_of(fields, family);
  const std::vector<bool> rotated = rotated_blocks(fields, family, config.blocks);
  const std::vector<bool> windowed =
      windowed_blocks(fields, family, rotated, window, config.warnings);
  const bool any = std::find(windowed.begin(), windowed.end(), true) != windowed.end();
  if (any && window == 0 && family.lists_windowed_blocks && fields.has("layer_types")) {
    fields.refuse("\"layer_types\" lists sliding_attention, but no window is set");
  }
  set_attention_kinds(rotated, windowed, window, config);
}

// Lists of blocks that all attend to everything say nothing.
bool lists_full_attention(const nlohmann::json& types) {
  return types.is_array() && std::all_of(types.begin(), types.end(),
                                         [](const auto& type) { return type == "full_attention"; });
}

void check_variations(const ConfigFields& fields) {
  fields.require("is_encoder_decoder", false);
  for (const char* name : kVariations) {
    if (fields.was_read(name) || !fields.has(name) || fields.at(name) == false ||
        fields.at(name) == 1) {
      continue;
    }
    const std::string_view key = name;
    if (key == "layer_types" && lists_full_attention(fields.at(name))) {
      continue;
    }
    fields.refuse(
        fmt::format("{} is not supported{}", fields.shown(name),
                    key.starts_with("quantization") || key == "compression_config"
                        ? "; get the model's unquantised weights, or a GGUF file (docs: Models)"
                        : ""));
  }
}

}  // namespace

ModelConfig read_model_config(const std::filesystem::path& directory) {
  const ConfigFields fields(directory / "config.json");
  ModelConfig config;
  const Family& family = family_of(fields, config.warnings);
  read_sizes(fields, family, config);
  apply_family(family, config);
  read_activation(fields, family, config);
  read_scores(fields, family, config);
  read_rotary_embeddings(fields, family, config);
  read_attention_kinds(fields, family, config);
  check_variations(fields);
  if (const auto unused = unused_keys(fields, family)) {
    config.warnings.push_back(*unused);
  }
  return config;
}

void set_attention_kinds(const std::vector<bool>& rotated, const std::vector<bool>& windowed,
                         std::int64_t window, ModelConfig& config) {
  std::vector<AttentionKind>& kinds = config.attention_kinds;
  kinds.clear();
  config.kind_of_block.clear();
  for (std::size_t i = 0; i < rotated.size(); ++i) {
    AttentionKind kind;
    if (windowed[i]) {
      kind.window = window;
      kind.rotary = config.rotary.size() - 1;
    }
    if (!rotated[i]) {
      kind.rotary.reset();
    }
    const auto found = std::find(kinds.begin(), kinds.end(), kind);
    config.kind_of_block.push_back(static_cast<std::size_t>(found - kinds.begin()));
    if (found == kinds.end()) {
      kinds.push_back(kind);
    }
  }
}

void check_layer(std::int64_t layer, const ModelConfig& config) {
  if (layer >= config.blocks) {
    throw UserError(fmt::format("--layer {}: the model has {} blocks, so layers go from 0 to {}",
                                layer, config.blocks, config.blocks - 1));
  }
}

}  // namespace bipo
