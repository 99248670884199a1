#include "launcher/evaluate/evaluation_places.hpp"

#include <filesystem>
#include <vector>

#include "experiments/evaluation/evaluation_file.hpp"
#include "experiments/files/atomic_file.hpp"
#include "launcher/job/new_file.hpp"

namespace bipo {
namespace {

std::vector<std::filesystem::path> inputs_of(const EvaluateOptions& options) {
  std::vector<std::filesystem::path> inputs = {
      options.model,      options.adapter,     options.test,           options.choices_ab,
      options.choices_mc, options.mmlu,        options.reference_text, options.neutral_prompts,
      options.caa,        options.generations, options.rubric,         options.judge_import};
  for (const VectorChoice& vector : options.vectors) {
    inputs.push_back(vector.file);
  }
  return inputs;
}

}  // namespace

void check_evaluation_places(const EvaluateOptions& options) {
  std::vector<std::filesystem::path> inputs = inputs_of(options);
  if (!options.model.empty()) {
    check_new_file("--out", options.out, options.overwrite, inputs);
  } else if (!options.out.empty()) {
    check_evaluation_file(options.out);
    check_replaceable(options.out);
    check_not_input("--out", options.out, inputs);
  }
  if (!options.judge_export.empty()) {
    inputs.push_back(options.out);
    check_new_file("--judge-export", options.judge_export, options.overwrite, inputs);
  }
}

}  // namespace bipo
