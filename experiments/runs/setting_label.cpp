#include "experiments/runs/setting_label.hpp"

#include <algorithm>
#include <map>

namespace bipo {

std::string setting_label(const std::string& key) {
  static const std::map<std::string, std::string> others = {
      {"steered_positions", "--positions"},
      {"model_fingerprint", "the model: model_fingerprint"},
      {"weights_hash", "the model's weights: weights_hash"},
      {"train_pairs", "the pairs of --train: train_pairs"},
      {"train_tokens_hash", "the pairs of --train: train_tokens_hash"},
      {"test_pairs", "the pairs of --test: test_pairs"},
      {"test_tokens_hash", "the pairs of --test: test_tokens_hash"},
      {"template_date_given", "whether --template-date is given: template_date_given"},
      {"joint_layers", "--layers"}};
  if (const auto found = others.find(key); found != others.end()) {
    return found->second;
  }
  std::string option = "--" + key;
  std::replace(option.begin(), option.end(), '_', '-');
  return option;
}

}  // namespace bipo
