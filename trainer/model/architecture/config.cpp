#include "trainer/model/architecture/config.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/architecture/config_fields.hpp"
#include "trainer/model/architecture/families.hpp"
#include "trainer/model/architecture/refused_families.hpp"
#include "trainer/model/architecture/rope_config.hpp"
#include "trainer/model/architecture/unused_keys.hpp"
#include "trainer/model/architecture/wrappers.hpp"

namespace bipo {
namespace {

// Far above any model's; the program lists all tensors of all blocks before it looks for one.
constexpr std::int64_t kMostBlocks = 10000;

// Fields by which some family changes Llama's mathematics.  A field that the model's own family
// does not read must be absent, null, false or 1.
constexpr std::array kVariations = {
    "attention_bias",
    "attention_chunk_size",
    "attention_out_bias",
    "attention_multiplier",
    "attn_logit_softcapping",
    "clip_qkv",
    "compression_config",
    "embedding_multiplier",
    "enable_moe_block",
    "final_logit_softcapping",
    "hidden_size_per_layer_input",
    "kv_lora_rank",
    "layer_types",
    "logit_scale",
    "logits_scaling",
    "mlp_bias",
    "n_routed_experts",
    "no_rope_layers",
    "num_experts",
    "num_kv_shared_layers",
    "num_local_experts",
    "per_layer_config",
    "q_lora_rank",
    "quantization_config",
    "quantization",
    "query_pre_attn_scalar",
    "residual_multiplier",
    "rope_local_base_freq",
    "sliding_window",
    "transformers_weights",
    "use_bias",
    "use_bidirectional_attention",
    "use_parallel_residual",
    "use_qk_norm",
};

// Fields of how the weights are stored, which stand outside of "text_config".
constexpr std::array kStorage = {"compression_config", "quantization_config", "quantization",
                                 "transformers_weights"};

// Switches of computations that this program does not have.
struct Switch {
  const char* name;
  const char* what;
};
constexpr std::array kSwitches = {
    Switch{"enable_moe_block", "a mixture of experts"},
    Switch{"qk_layernorm", "LayerNorm of queries and keys"},
    Switch{"num_kv_shared_layers", "keys and values of earlier blocks"},
    Switch{"hidden_size_per_layer_input", "embeddings for each block"},
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
    const std::string_view missing = names.size() == 1 ? missing_for(names.front()) : "";
    fields.refuse(fmt::format("architectures {} is not supported{}; supported: {}", architectures,
                              missing.empty() ? "" : fmt::format(" (it needs {})", missing),
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

// Returns the wrapper that transformers' Auto classes choose; null for a model of text alone.
const Wrapper* wrapper_of(const ConfigFields& fields) {
  const auto names =
      fields.has("architectures") ? fields.texts("architectures") : std::vector<std::string>();
  const Wrapper* by_type = find_wrapper_of_type(fields.text("model_type").value_or(""));
  return by_type == nullptr && names.size() == 1 ? find_wrapper(names[0]) : by_type;
}

const Family& family_in(const Wrapper& wrapper, const ConfigFields& text) {
  const std::string type = text.text("model_type").value_or(std::string(wrapper.text_types[0]));
  text.has("architectures");  // says nothing that model_type does not
  const Family* family = find_family_of_type(type);
  const bool fits = std::find(wrapper.text_types.begin(), wrapper.text_types.end(), type) !=
                    wrapper.text_types.end();
  if (family == nullptr || !fits) {
    text.refuse(fmt::format("\"model_type\": \"{}\" is not supported in {}; supported: {}", type,
                            wrapper.architecture, fmt::join(wrapper.text_types, ", ")));
  }
  return *family;
}

// Returns the fields of a wrapper's text part as the file of that part alone has them.
ConfigFields text_fields(const ConfigFields& fields) {
  const ConfigFields object = fields.object("text_config");
  nlohmann::json values = fields.at("text_config");
  constexpr const char* kVersion = "transformers_version";  // stands outside
  if (fields.has(kVersion)) {
    values[kVersion] = fields.at(kVersion);
  }
  return fields.part("\"text_config\": ", std::move(values));
}

// A size that the file may leave out where the family has a default.
std::int64_t size_of(const ConfigFields& fields, const char* name, std::int64_t otherwise) {
  return otherwise == 0 ? fields.size(name) : fields.size_or(name, otherwise);
}

void check_switches(const ConfigFields& fields, const Family& family) {
  for (const auto& [name, what] : kSwitches) {
    if (fields.has(name) && fields.at(name) != false && fields.at(name) != 0) {
      fields.refuse(fmt::format("{} is not supported ({})", fields.shown(name), what));
    }
  }
  constexpr std::int64_t kTheirs = 256;
  const char* const inputs = "hidden_size_per_layer_input";
  if (family.per_layer_inputs && !fields.has(inputs) &&
      fields.size_unless_null(inputs, kTheirs) == kTheirs) {
    fields.refuse(fmt::format(
        "\"{}\" is missing and so has transformers' value of {}, which is not supported "
        "(embeddings for each block); models without them say 0",
        inputs, kTheirs));
  }
  if (family.masks_of_images) {
    fields.require("use_bidirectional_attention", "vision");
  }
}

void check_head(const ConfigFields& fields, std::int64_t heads, std::int64_t kv_heads,
                std::int64_t head_size) {
  if (heads % kv_heads != 0) {
    fields.refuse(fmt::format("num_attention_heads {} is not a multiple of num_key_value_heads {}",
                              heads, kv_heads));
  }
  if (head_size % 2 != 0) {
    fields.refuse(fmt::format("head size {} is odd; rotary embedding needs pairs", head_size));
  }
}

void read_heads(const ConfigFields& fields, const Family& family, ModelConfig& config) {
  config.heads = size_of(fields, "num_attention_heads", family.sizes.heads);
  // Where heads stand one behind the other, each has a query, a key and a value of D / H elements.
  const bool is_configured = !family.fused_by_head;
  const std::int64_t kv_heads =
      is_configured ? fields.size_unless_null("num_key_value_heads", family.kv_heads) : 0;
  config.kv_heads = kv_heads == 0 ? config.heads : kv_heads;
  config.head_size = is_configured ? fields.size_unless_null("head_dim", family.head_size) : 0;
  if (config.head_size == 0) {
    if (config.hidden % config.heads != 0) {
      fields.refuse(fmt::format(
          "hidden_size {} is not a multiple of num_attention_heads {}, and there is no head_dim",
          config.hidden, config.heads));
    }
    config.head_size = config.hidden / config.heads;
  }
  check_head(fields, config.heads, config.kv_heads, config.head_size);
}

void read_sizes(const ConfigFields& fields, const Family& family, ModelConfig& config) {
  config.hidden = size_of(fields, "hidden_size", family.sizes.hidden);
  config.blocks = size_of(fields, "num_hidden_layers", family.sizes.blocks);
  if (config.blocks > kMostBlocks) {
    fields.refuse(
        fmt::format("num_hidden_layers is {}, must be at most {}", config.blocks, kMostBlocks));
  }
  config.intermediate = size_of(fields, family.intermediate_key, family.sizes.intermediate);
  config.vocabulary = size_of(fields, "vocab_size", family.sizes.vocabulary);
  config.context = fields.size_or("max_position_embeddings", family.context);
  config.norm_epsilon = fields.positive_or(family.epsilon_key, family.norm_epsilon);
  config.tied_head = fields.truth_or("tie_word_embeddings", family.tied_head);
  read_heads(fields, family, config);
}

// Reads that of an MLP without gates.  The names of a kind differ in how transformers computes it.
void read_plain_activation(const ConfigFields& fields, ModelConfig& config) {
  constexpr std::array kTanh = {"gelu_pytorch_tanh", "gelu_new", "gelu_fast"};
  constexpr const char* kName = "hidden_act";
  const std::optional<std::string> name = fields.text(kName);
  if (name == "gelu") {
    config.activation = Activation::kGelu;
  } else if (std::find(kTanh.begin(), kTanh.end(), name) != kTanh.end()) {
    config.activation = Activation::kGeluTanh;
  } else if (name) {
    fields.refuse(fmt::format("\"{}\": \"{}\" is not supported (only gelu, {})", kName, *name,
                              fmt::join(kTanh, ", ")));
  }
}

void read_activation(const ConfigFields& fields, const Family& family, ModelConfig& config) {
  if (!family.gated_mlp) {
    read_plain_activation(fields, config);
    return;
  }
  const char* name = family.activation_key == ActivationKey::kHiddenActivation ? "hidden_activation"
                                                                               : "hidden_act";
  const bool gelu = family.activation == Activation::kGeluTanh;
  const std::string activation = fields.text(name).value_or(gelu ? "gelu_pytorch_tanh" : "silu");
  const bool is_old_gelu =
      activation == "gelu" && family.activation_key == ActivationKey::kHiddenActOldGelu;
  if (is_old_gelu) {
    config.warnings.push_back(fields.located(
        fmt::format("\"{}\": \"gelu\" means the tanh approximation of GELU, by which the model was "
                    "trained, as in transformers 5.23 (4.57.6 computes the exact one)",
                    name)));
  }
  if (activation == "silu" || activation == "swish") {
    config.activation = Activation::kSilu;
  } else if (activation == "gelu_pytorch_tanh" || is_old_gelu) {
    config.activation = Activation::kGeluTanh;
  } else {
    fields.refuse(fmt::format("\"{}\": \"{}\" is not supported (only silu, gelu_pytorch_tanh)",
                              name, activation));
  }
}

void read_biases(const ConfigFields& fields, const Family& family, ModelConfig& config) {
  if (family.biases == Biases::kNone || family.biases == Biases::kQueryKeyValue ||
      family.biases == Biases::kAll) {
    return;
  }
  if (family.biases == Biases::kEverywhereIfConfigured) {
    config.mlp_biases = fields.truth_or("use_bias", family.biased);
    config.query_key_value_bias = config.mlp_biases;
    config.attention_output_bias = config.mlp_biases;
    return;
  }
  config.query_key_value_bias = fields.truth_or("attention_bias", family.biased);
  config.attention_output_bias =
      (family.biases == Biases::kIfConfigured && config.query_key_value_bias) ||
      (family.biases == Biases::kOutputApart && fields.truth_or("attention_out_bias", false));
}

// The four numbers by which Granite tames its scales (arXiv 2203.03466 has them all).
void read_multipliers(const ConfigFields& fields, ModelConfig& config) {
  config.embedding_scale = fields.positive_or("embedding_multiplier", 1);
  config.score_scale = fields.positive_or("attention_multiplier", 1);
  config.residual_scale = fields.positive_or("residual_multiplier", 1);
  config.logit_scale = 1 / fields.positive_or("logits_scaling", 1);
}

void read_scores(const ConfigFields& fields, const Family& family, ModelConfig& config) {
  if (family.multipliers) {
    read_multipliers(fields, config);
  }
  if (family.query_scalar) {
    config.query_pre_attention_scalar =
        fields.positive_or("query_pre_attn_scalar", family.query_scalar_value);
  }
  if (family.logit_scale_value != 0) {
    config.logit_scale = fields.positive_or("logit_scale", family.logit_scale_value);
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
  if (family.rotated == RotatedBlocks::kByType) {
    const bool all = fields.text("position_embedding_type") == "rope";
    return std::vector<bool>(static_cast<std::size_t>(blocks), all);
  }
  const bool listed = family.rotated == RotatedBlocks::kListed;
  std::vector<bool> rotated =
      rotated_by_default(family, blocks, listed ? fields.size_or("no_rope_layer_interval", 4) : 0);
  if (!listed || !fields.has("no_rope_layers")) {
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

// Returns the N of kAllButEveryNth.  EXAONE 4 may have a text there, of which no rule is made.
std::int64_t full_every(const ConfigFields& fields, const Family& family) {
  constexpr const char* kPattern = "sliding_window_pattern";
  if (!family.configured_every || !fields.has(kPattern)) {
    return family.full_every;
  }
  if (!fields.at(kPattern).is_string() && fields.at(kPattern) != 0) {
    return fields.size(kPattern);
  }
  if (!fields.has("layer_types") && window_of(fields, family) != 0) {
    fields.refuse(fmt::format("{} needs \"layer_types\"", fields.shown(kPattern)));
  }
  return family.full_every;
}

// Returns [N] whether a block has the window by the rule of its family.
std::vector<bool> windowed_by_rule(const ConfigFields& fields, const Family& family,
                                   const std::vector<bool>& rotated) {
  const bool from_block = family.windowed == WindowedBlocks::kFromConfiguredBlock;
  return windowed_by_default(
      family, rotated, from_block ? fields.count_or("max_window_layers", kFirstWindowedBlock) : 0,
      full_every(fields, family));
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
  if (family.ends_with_full_block && listed.back()) {
    warnings.push_back(fields.located(
        fmt::format("\"layer_types\" gives the last block a window, which it never has in {}: it "
                    "is full_attention, as in transformers",
                    family.architecture)));
    listed.back() = false;
  }
  return listed;
}

// Overwrites what `fields`, an entry of "per_layer_config", says about the heads of one block.
void read_override(const ConfigFields& fields, AttentionKind& kind) {
  kind.head_size = fields.size_or("head_dim", kind.head_size);
  kind.kv_heads = fields.size_or("num_key_value_heads", kind.kv_heads);
  if (const auto unread = fields.unread(); !unread.empty()) {
    fields.refuse(
        fmt::format("{} is not supported (only head_dim and num_key_value_heads differ "
                    "by block)",
                    fields.shown(unread.front())));
  }
}

// Reads how heads differ by block, as transformers 5 writes it, into the two kinds.
void read_overrides(const ConfigFields& fields, const std::vector<bool>& windowed,
                    AttentionKind& global, AttentionKind& local) {
  const ConfigFields by_block = fields.object("per_layer_config");
  std::vector<AttentionKind> kinds(windowed.size());
  for (const auto& [number, values] : fields.at("per_layer_config").items()) {
    const bool is_number = !number.empty() && number.size() <= 6 &&
                           number.find_first_not_of("0123456789") == std::string::npos;
    const std::size_t block = is_number ? std::stoul(number) : windowed.size();
    if (block >= windowed.size()) {
      by_block.refuse(fmt::format("\"{}\" is not the number of a block", number));
    }
    read_override(by_block.object(number.c_str()), kinds[block]);
  }
  for (AttentionKind* kind : {&global, &local}) {
    const bool is_local = kind == &local;
    const auto first = std::find(windowed.begin(), windowed.end(), is_local);
    if (first == windowed.end()) {
      continue;
    }
    const AttentionKind& said = kinds[static_cast<std::size_t>(first - windowed.begin())];
    for (std::size_t i = 0; i < windowed.size(); ++i) {
      if (windowed[i] == is_local && kinds[i] != said) {
        by_block.refuse("blocks of one kind in \"layer_types\" differ, which is not supported");
      }
    }
    kind->head_size = said.head_size;
    kind->kv_heads = said.kv_heads;
  }
}

// Reads how the heads of blocks without a window differ from the others'.
void read_heads_by_kind(const ConfigFields& fields, const Family& family,
                        const std::vector<bool>& windowed, const ModelConfig& config,
                        AttentionKind& global, AttentionKind& local) {
  if (!family.heads_by_kind) {
    return;
  }
  global.values_are_keys = fields.truth_or("attention_k_eq_v", false);
  if (fields.has("per_layer_config")) {
    read_overrides(fields, windowed, global, local);
  } else {
    global.head_size = fields.size_or("global_head_dim", family.full_head_size);
    const std::int64_t kv_heads = fields.size_or("num_global_key_value_heads", 0);
    global.kv_heads = global.values_are_keys ? kv_heads : 0;
  }
  for (const AttentionKind& kind : {global, local}) {
    check_head(fields, config.heads, kv_heads_of(config, kind), head_size_of(config, kind));
  }
}

// Reads the heads and rotary embeddings of all kinds of blocks, and which block is of which kind.
void read_attention_kinds(const ConfigFields& fields, const Family& family, ModelConfig& config) {
  const std::int64_t window = window_of(fields, family);
  const std::vector<bool> rotated = rotated_blocks(fields, family, config.blocks);
  const std::vector<bool> windowed =
      windowed_blocks(fields, family, rotated, window, config.warnings);
  AttentionKind global;
  AttentionKind local{.window = window};
  read_heads_by_kind(fields, family, windowed, config, global, local);
  read_rotary_embeddings(fields, family,
                         {head_size_of(config, global), head_size_of(config, local)}, config);
  const bool any = std::find(windowed.begin(), windowed.end(), true) != windowed.end();
  if (any && window == 0 && family.lists_windowed_blocks && fields.has("layer_types")) {
    fields.refuse("\"layer_types\" lists sliding_attention, but no window is set");
  }
  set_attention_kinds(rotated_with_windows(family, rotated, windowed, window), windowed, global,
                      local, config);
}

// Returns [N] whether a block has the delta net instead of attention.
std::vector<bool> recurrent_blocks(const ConfigFields& fields, const Family& family,
                                   std::int64_t blocks) {
  const std::int64_t every = fields.size_or("full_attention_interval", family.full_every);
  std::vector<bool> recurrent;
  if (!fields.has("layer_types")) {
    for (std::int64_t i = 0; i < blocks; ++i) {
      recurrent.push_back((i + 1) % every != 0);
    }
    return recurrent;
  }
  for (const std::string& type : fields.texts("layer_types")) {
    if (type != "full_attention" && type != "linear_attention") {
      fields.refuse(fmt::format(
          "\"layer_types\": \"{}\" is not supported (only full_attention, linear_attention)",
          type));
    }
    recurrent.push_back(type == "linear_attention");
  }
  if (static_cast<std::int64_t>(recurrent.size()) != blocks) {
    fields.refuse(fmt::format("\"layer_types\" lists {} blocks, num_hidden_layers is {}",
                              recurrent.size(), blocks));
  }
  return recurrent;
}

void read_delta_net(const ConfigFields& fields, const Family& family, ModelConfig& config) {
  if (!family.delta_net) {
    return;
  }
  DeltaNetSizes sizes;
  sizes.key_heads = fields.size_or("linear_num_key_heads", 16);
  sizes.value_heads = fields.size_or("linear_num_value_heads", 32);
  sizes.key_size = fields.size_or("linear_key_head_dim", 128);
  sizes.value_size = fields.size_or("linear_value_head_dim", 128);
  sizes.taps = fields.size_or("linear_conv_kernel_dim", 4);
  if (sizes.value_heads % sizes.key_heads != 0) {
    fields.refuse(
        fmt::format("linear_num_value_heads {} is not a multiple of linear_num_key_heads {}",
                    sizes.value_heads, sizes.key_heads));
  }
  if (sizes.taps < 2 || sizes.taps > static_cast<std::int64_t>(kMostConvolutionTaps)) {
    fields.refuse(fmt::format("linear_conv_kernel_dim is {}, must be 2 to {}", sizes.taps,
                              kMostConvolutionTaps));
  }
  set_recurrent_blocks(recurrent_blocks(fields, family, config.blocks), sizes, config);
}

// Lists of blocks that all attend to everything say nothing.
bool lists_full_attention(const nlohmann::json& types) {
  return types.is_array() && std::all_of(types.begin(), types.end(),
                                         [](const auto& type) { return type == "full_attention"; });
}

[[noreturn]] void refuse_value(const ConfigFields& fields, std::string_view name) {
  const bool is_storage = std::find(kStorage.begin(), kStorage.end(), name) != kStorage.end();
  fields.refuse(fmt::format(
      "{} is not supported{}", fields.shown(std::string(name)),
      is_storage ? "; get the model's unquantised weights, or a GGUF file (docs: Models)" : ""));
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
    refuse_value(fields, name);
  }
}

// Refuses what a file of a hybrid family has beside attention and one MLP, which its class takes
// for granted.
void check_hybrid(const ConfigFields& fields) {
  constexpr const char* kExperts = "num_local_experts";
  constexpr const char* kTypes = "layer_types";
  if (!fields.has(kExperts) || fields.at(kExperts) != 0) {
    fields.refuse(fmt::format("a mixture of experts is not supported (only \"{}\": 0)", kExperts));
  }
  const auto types = fields.has(kTypes) ? fields.texts(kTypes) : std::vector<std::string>{"mamba"};
  for (const std::string& type : types) {
    if (type != "attention" && type != "full_attention") {
      fields.refuse(fmt::format("\"{}\": \"{}\" is not supported (only attention)", kTypes, type));
    }
  }
}

void read_decoder(const ConfigFields& fields, const Family& family, ModelConfig& config) {
  check_switches(fields, family);
  if (family.hybrid) {
    check_hybrid(fields);
  }
  read_sizes(fields, family, config);
  apply_family(family, config);
  if (family.configured_parallel) {
    config.parallel_blocks = fields.truth_or("use_parallel_residual", family.parallel_blocks);
  }
  read_activation(fields, family, config);
  read_biases(fields, family, config);
  read_scores(fields, family, config);
  read_attention_kinds(fields, family, config);
  read_delta_net(fields, family, config);
  check_variations(fields);
  if (const auto unused = unused_keys(fields, family)) {
    config.warnings.push_back(*unused);
  }
}

// Reads what stands outside of "text_config".  transformers 5.23 ties embedding and head by the
// field there, 4.57.6 by that of the text part, so that two meanings of one file are usual.
void read_around(const ConfigFields& fields, const Wrapper& wrapper, ModelConfig& config) {
  config.wrapper = &wrapper;
  config.separate_head_is_usual = !config.tied_head;
  config.tied_head = fields.truth_or("tie_word_embeddings", wrapper.tied_head);
  for (const char* name : kStorage) {
    if (fields.has(name)) {
      refuse_value(fields, name);
    }
  }
  if (const auto unused = unused_keys(fields, wrapper)) {
    config.warnings.push_back(*unused);
  }
}

ModelConfig read_fields(const ConfigFields& fields) {
  ModelConfig config;
  if (const Wrapper* wrapper = wrapper_of(fields)) {
    const ConfigFields text = text_fields(fields);
    read_decoder(text, family_in(*wrapper, text), config);
    read_around(fields, *wrapper, config);
  } else {
    read_decoder(fields, family_of(fields, config.warnings), config);
  }
  return config;
}

}  // namespace

ModelConfig read_model_config(const std::filesystem::path& directory) {
  return read_fields(ConfigFields(directory / "config.json"));
}

ModelConfig parse_model_config(std::string_view text, const std::filesystem::path& name) {
  return read_fields({name, nlohmann::json::parse(text)});
}

void set_attention_kinds(const std::vector<bool>& rotated, const std::vector<bool>& windowed,
                         const AttentionKind& global, const AttentionKind& local,
                         ModelConfig& config) {
  std::vector<AttentionKind>& kinds = config.attention_kinds;
  kinds.clear();
  config.kind_of_block.clear();
  for (std::size_t i = 0; i < rotated.size(); ++i) {
    AttentionKind kind = windowed[i] ? local : global;
    kind.rotary = windowed[i] ? config.rotary.size() - 1 : 0;
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

void set_recurrent_blocks(const std::vector<bool>& recurrent, const DeltaNetSizes& sizes,
                          ModelConfig& config) {
  config.delta_net = sizes;
  for (std::size_t i = 0; i < recurrent.size(); ++i) {
    if (recurrent[i]) {
      config.kind_of_block[i] = config.attention_kinds.size();
    }
  }
  config.attention_kinds.push_back({.is_recurrent = true});
}

std::size_t kind_of(const ModelConfig& config, std::int64_t block) {
  return config.kind_of_block.empty() ? 0
                                      : config.kind_of_block.at(static_cast<std::size_t>(block));
}

const AttentionKind& attention_of(const ModelConfig& config, std::int64_t block) {
  return config.attention_kinds.at(kind_of(config, block));
}

std::int64_t head_size_of(const ModelConfig& config, const AttentionKind& kind) {
  return kind.head_size == 0 ? config.head_size : kind.head_size;
}

std::int64_t kv_heads_of(const ModelConfig& config, const AttentionKind& kind) {
  return kind.kv_heads == 0 ? config.kv_heads : kind.kv_heads;
}

std::optional<double> mlp_output_factor(const ModelConfig& config) {
  return config.output_norms || config.block_scales ? std::nullopt
                                                    : std::optional(config.residual_scale);
}

void check_layer(std::int64_t layer, const ModelConfig& config) {
  if (layer >= config.blocks) {
    throw UserError(fmt::format("--layer {}: the model has {} blocks, so layers go from 0 to {}",
                                layer, config.blocks, config.blocks - 1));
  }
}

}  // namespace bipo
