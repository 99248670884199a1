#include "trainer/model/architecture/unused_keys.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

namespace bipo {
namespace {

// Without influence on the logits of any supported family in transformers 4.57.6 and 5.23.0.
constexpr auto kKnown = std::to_array<std::string_view>(
    {// Where the file comes from, and which programs read it.
     "_commit_hash", "_name_or_path", "auto_map", "custom_pipelines", "dtype", "finetuning_task",
     "id2label", "is_llama_config", "label2id", "license", "max_sequence_length",
     "model_max_length", "name_or_path", "num_labels", "problem_type", "task_specific_params",
     "tokenizer_class", "torch_dtype", "transformers.js_config",
     // Training.
     "attention_dropout", "attn_pdrop", "classifier_dropout", "embd_pdrop", "embedding_dropout",
     "gradient_checkpointing", "hidden_dropout", "hidden_dropout_prob", "initializer_range",
     "layerdrop", "neftune_noise_alpha", "resid_pdrop", "residual_dropout",
     // How transformers computes, not what.
     "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal",
     "_experts_implementation", "attn_implementation", "cache_implementation",
     "chunk_size_feed_forward", "experts_implementation", "output_attentions",
     "output_hidden_states", "pretraining_tp", "return_dict", "tf_legacy_loss", "torchscript",
     "use_bfloat16", "use_cache", "use_flash_attention", "use_flash_attn", "use_return_dict",
     // For encoders and decoders beside each other.
     "cross_attention_hidden_size", "is_decoder", "prefix", "pruned_heads", "tie_encoder_decoder",
     // Sampling.
     "assistant_confidence_threshold", "assistant_early_exit", "bad_words_ids",
     "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping",
     "encoder_no_repeat_ngram_size", "encoder_repetition_penalty", "epsilon_cutoff", "eta_cutoff",
     "exponential_decay_length_penalty", "force_words_ids", "guidance_scale", "length_penalty",
     "max_length", "max_new_tokens", "max_time", "min_length", "min_new_tokens", "min_p",
     "no_repeat_ngram_size", "num_assistant_tokens", "num_assistant_tokens_schedule",
     "num_beam_groups", "num_beams", "num_return_sequences", "output_logits", "output_scores",
     "penalty_alpha", "prompt_lookup_num_tokens", "remove_invalid_values", "renormalize_logits",
     "repetition_penalty", "return_dict_in_generate", "sequence_bias", "stop_strings",
     "suppress_tokens", "target_lookbehind", "temperature", "token_healing", "top_h", "top_k",
     "top_p", "typical_p", "watermarking_config",
     // They belong to one family, and the files of others repeat them.
     "full_attn_mod", "interpolate_factor", "max_window_layers", "no_rope_layer_interval",
     // They belong to parts that are refused where they are on.
     "moe_intermediate_size", "top_k_experts", "use_double_wide_mlp",
     "vocab_size_per_layer_input"});

bool is_of_tokens(std::string_view name) {
  return name.ends_with("_token_id") || name.ends_with("_token_ids") ||
         name.ends_with("_token_index");
}

bool is_known_everywhere(const std::string& name) {
  return is_of_tokens(name) || name.starts_with("unsloth_") ||
         std::find(kKnown.begin(), kKnown.end(), name) != kKnown.end();
}

bool is_known(const std::string& name, const ConfigFields& fields, const Family& family) {
  if (name == "_sliding_window_pattern") {  // transformers 5 always writes it, and reads the list
    return fields.has("layer_types");
  }
  if (family.delta_net && name == "attn_output_gate") {  // the class has gates whatever it says
    return fields.at(name.c_str()) == true;
  }
  if (family.delta_net && (name == "mamba_ssm_dtype" || name.starts_with("mtp_"))) {
    return true;  // how exactly others compute the recurrence; further heads, which nothing here
                  // needs
  }
  if (name == "hidden_act" && family.activation_key == ActivationKey::kHiddenActivation) {
    // Gemma's class goes by hidden_activation, and its files have both.
    return fields.text(name.c_str()) ==
           fields.text("hidden_activation").value_or("gelu_pytorch_tanh");
  }
  if (name == "hidden_activation" && family.activation_key == ActivationKey::kHiddenActOldGelu) {
    // The first files of Gemma have both, and transformers goes by hidden_act.
    return fields.text(name.c_str()) == "gelu_pytorch_tanh";
  }
  const bool is_of_parts_it_lacks = name.starts_with("mamba_") || name.starts_with("router_") ||
                                    name == "intermediate_size" || name == "time_step_limit" ||
                                    name == "num_experts_per_tok" || name == "output_router_logits";
  return (family.hybrid && is_of_parts_it_lacks) || is_known_everywhere(name);
}

// A switch that is off says something where the window is on by itself.
bool is_switch_without_reader(const ConfigFields& fields, const Family& family) {
  const bool always = family.windowed == WindowedBlocks::kAll ||
                      family.windowed == WindowedBlocks::kAllButEveryNth ||
                      family.windowed == WindowedBlocks::kAllButEveryNthFrom0;
  return always && fields.has("use_sliding_window") && fields.has("sliding_window") &&
         fields.at("use_sliding_window") == false;
}

std::optional<std::string> message_about(const std::vector<std::string>& unused,
                                         const ConfigFields& fields,
                                         std::string_view architecture) {
  if (unused.empty()) {
    return std::nullopt;
  }
  return fields.located(
      fmt::format("not used: {}; {} has no such setting in transformers, or this program does not "
                  "know it: check that nothing depends on it",
                  fmt::join(unused, ", "), architecture));
}

}  // namespace

std::optional<std::string> unused_keys(const ConfigFields& fields, const Family& family) {
  std::vector<std::string> unused;
  for (const std::string& name : fields.unread()) {
    if (!is_known(name, fields, family)) {
      unused.push_back(fields.shown(name));
    }
  }
  if (is_switch_without_reader(fields, family)) {
    unused.push_back(fields.shown("use_sliding_window"));
  }
  return message_about(unused, fields, family.architecture);
}

std::optional<std::string> unused_keys(const ConfigFields& fields, const Wrapper& wrapper) {
  std::vector<std::string> unused;
  for (const std::string& name : fields.unread()) {
    const auto& others = wrapper.other_settings;
    if (!is_known_everywhere(name) &&
        std::find(others.begin(), others.end(), name) == others.end()) {
      unused.push_back(fields.shown(name));
    }
  }
  return message_about(unused, fields, wrapper.architecture);
}

}  // namespace bipo
