#include "trainer/model/weights/checkpoint_names.hpp"

#include <algorithm>
#include <string_view>

namespace bipo {
namespace {

constexpr std::string_view kModel = "model.";
constexpr std::string_view kHead = "lm_head.weight";

// Every family has it, and only there.
constexpr std::string_view kFirstNorm = "layers.0.input_layernorm.weight";

// Whether the last component of a beginning is "model".
bool ends_with_model(const std::string& beginning) {
  return beginning == kModel || beginning.ends_with(".model.");
}

std::string find_head(const std::vector<std::string>& names, const std::string& blocks) {
  const std::string beside =
      ends_with_model(blocks) ? blocks.substr(0, blocks.size() - kModel.size()) : blocks;
  for (const std::string& name : {beside + std::string(kHead), std::string(kHead)}) {
    if (std::find(names.begin(), names.end(), name) != names.end()) {
      return name;
    }
  }
  return beside + std::string(kHead);
}

}  // namespace

std::string CheckpointNames::stored(const std::string& name) const {
  if (name == kHead) {
    return head;
  }
  return name.starts_with(kModel) ? blocks + name.substr(kModel.size()) : name;
}

bool CheckpointNames::are_known_to_transformers() const {
  return blocks == kModel || blocks.empty() || blocks == "model.model.";
}

CheckpointNames find_names(const std::vector<std::string>& names) {
  CheckpointNames result;
  std::vector<std::string> beginnings;
  for (const std::string& name : names) {
    if (name.ends_with(kFirstNorm)) {
      const std::string beginning = name.substr(0, name.size() - kFirstNorm.size());
      if (beginning.empty() || beginning.ends_with('.')) {
        beginnings.push_back(beginning);
      }
    }
  }
  const bool as_it_should_be =
      std::find(beginnings.begin(), beginnings.end(), kModel) != beginnings.end();
  if (!as_it_should_be && beginnings.size() == 1) {
    result.blocks = beginnings.front();
    result.head = find_head(names, result.blocks);
  } else if (!as_it_should_be) {
    result.alternatives = beginnings;
  }
  return result;
}

}  // namespace bipo
