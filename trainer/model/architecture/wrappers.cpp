#include "trainer/model/architecture/wrappers.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace bipo {
namespace {

const std::vector<Wrapper>& wrappers() {
  static const std::vector<Wrapper> all = {
      {.architecture = "Gemma3ForConditionalGeneration",
       .model_type = "gemma3",
       .text_types = {"gemma3_text"},
       .other_modules = {"vision_tower", "multi_modal_projector"},
       .other_settings = {"mm_tokens_per_image", "projection_dim", "vision_config"}},
      {.architecture = "Gemma4ForConditionalGeneration",
       .model_type = "gemma4",
       .text_types = {"gemma4_text"},
       .other_modules = {"vision_tower", "embed_vision", "audio_tower", "embed_audio"},
       .other_settings = {"audio_config", "vision_config"}},
      {.architecture = "Gemma4UnifiedForConditionalGeneration",
       .model_type = "gemma4_unified",
       .text_types = {"gemma4_unified_text"},
       .other_modules = {"vision_embedder", "embed_vision", "embed_audio"},
       .other_settings = {"audio_config", "vision_config"}},
      {.architecture = "Mistral3ForConditionalGeneration",
       .model_type = "mistral3",
       .text_types = {"mistral", "ministral3"},
       .other_modules = {"vision_tower", "multi_modal_projector"},
       .other_settings = {"multimodal_projector_bias", "projector_hidden_act", "spatial_merge_size",
                          "vision_config", "vision_feature_layer"}},
      {.architecture = "Qwen3_5ForConditionalGeneration",
       .model_type = "qwen3_5",
       .text_types = {"qwen3_5_text"},
       .other_modules = {"visual", "mtp"},
       .other_settings = {"vision_config"},
       .tied_head = false},
  };
  return all;
}

const Wrapper* find(std::string_view Wrapper::*member, std::string_view value) {
  const auto found = std::find_if(wrappers().begin(), wrappers().end(),
                                  [&](const Wrapper& one) { return one.*member == value; });
  return found == wrappers().end() ? nullptr : &*found;
}

}  // namespace

std::optional<std::string_view> Wrapper::other_module(std::string_view name) const {
  constexpr std::string_view kModel = "model.";
  const std::string_view inside = name.starts_with(kModel) ? name.substr(kModel.size()) : name;
  for (const std::string_view module : other_modules) {
    if (inside.starts_with(module) && inside.substr(module.size()).starts_with('.')) {
      return module;
    }
  }
  return std::nullopt;
}

const Wrapper* find_wrapper(std::string_view architecture) {
  return find(&Wrapper::architecture, architecture);
}

const Wrapper* find_wrapper_of_type(std::string_view model_type) {
  return find(&Wrapper::model_type, model_type);
}

std::string supported_wrappers() {
  std::vector<std::string_view> names;
  for (const Wrapper& wrapper : wrappers()) {
    names.push_back(wrapper.architecture);
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace bipo
