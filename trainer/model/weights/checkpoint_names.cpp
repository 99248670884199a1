#include "trainer/model/weights/checkpoint_names.hpp"

#include <algorithm>
#include <optional>
#include <string_view>

#include "trainer/model/architecture/wrappers.hpp"

namespace bipo {
namespace {

constexpr std::string_view kModel = "model.";
constexpr std::string_view kHead = "lm_head.weight";
constexpr std::string_view kHeadBias = "lm_head.bias";

// Every family has one of them, and most only there.
constexpr std::string_view kFirstNorms[] = {"layers.0.input_layernorm.weight",
                                            "layers.0.post_feedforward_layernorm.weight"};

// Whether the last component of a beginning is `module`.
bool ends_with_module(const std::string& beginning, const std::string& module) {
  return beginning == module || beginning.ends_with("." + module);
}

bool contains(const std::vector<std::string>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string find_head(const std::vector<std::string>& names, const std::string& blocks,
                      const ClassNames& usual) {
  const std::string& module = usual.decoder;
  const std::string beside =
      ends_with_module(blocks, module) ? blocks.substr(0, blocks.size() - module.size()) : blocks;
  for (const std::string& head : usual.heads) {
    for (const std::string& name : {beside + head, head}) {
      if (contains(names, name)) {
        return name;
      }
    }
  }
  return beside + std::string(kHead);
}

// Returns what stands before the name of the first block's norm, wherever it is.
std::vector<std::string> find_beginnings(const std::vector<std::string>& names) {
  std::vector<std::string> beginnings;
  for (const std::string& name : names) {
    for (const std::string_view norm : kFirstNorms) {
      if (name.ends_with(norm)) {
        const std::string beginning = name.substr(0, name.size() - norm.size());
        if ((beginning.empty() || beginning.ends_with('.')) && !contains(beginnings, beginning)) {
          beginnings.push_back(beginning);
        }
      }
    }
  }
  return beginnings;
}

// Returns the first of `candidates` that there is.
std::optional<std::string> first_in(const std::vector<std::string>& names,
                                    const std::vector<std::string_view>& candidates) {
  const auto found = std::find_if(candidates.begin(), candidates.end(),
                                  [&](std::string_view name) { return contains(names, name); });
  return found == candidates.end() ? std::nullopt : std::optional(std::string(*found));
}

}  // namespace

std::string CheckpointNames::stored(const std::string& name) const {
  if (name == kHead) {
    return head;
  }
  if (name == kHeadBias) {
    constexpr std::string_view kWeight = "weight";
    return head.substr(0, head.size() - kWeight.size()) + "bias";
  }
  return name.starts_with(kModel) ? blocks + name.substr(kModel.size()) : name;
}

CheckpointNames find_names(const std::vector<std::string>& names, const Wrapper* wrapper,
                           const ClassNames& usual) {
  const std::string& module = usual.decoder;
  CheckpointNames result;
  const std::vector<std::string> beginnings = find_beginnings(names);
  std::optional<std::string> declared;
  if (wrapper != nullptr) {
    declared = first_in(beginnings, wrapper->text_names);
    result.usual = declared.value_or(std::string(wrapper->text_names.front()));
    result.blocks = result.usual;
    result.head =
        first_in(names, wrapper->head_names).value_or(std::string(wrapper->head_names.front()));
  } else {
    result.usual = module;
    result.blocks = module;
    if (contains(beginnings, module)) {
      declared = module;
      result.head = find_head(names, module, usual);
    }
  }
  if (!declared && beginnings.size() == 1) {
    result.blocks = beginnings.front();
    result.head = find_head(names, result.blocks, usual);
    result.are_known_to_transformers =
        wrapper == nullptr && (result.blocks.empty() || result.blocks == module + module);
  } else if (!declared) {
    result.alternatives = beginnings;
  }
  return result;
}

}  // namespace bipo
