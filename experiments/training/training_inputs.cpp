#include "experiments/training/training_inputs.hpp"

#include <ATen/ops/tensor.h>
#include <fmt/format.h>

#include <filesystem>
#include <optional>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/rows/choice_items.hpp"
#include "datasets/tokens/choice_tokens.hpp"
#include "datasets/tokens/pair_checks.hpp"
#include "datasets/tokens/pair_text.hpp"
#include "datasets/tokens/pair_tokenizer.hpp"
#include "experiments/job/text_options.hpp"
#include "trainer/model/model_files.hpp"
#include "trainer/model/weights/tensor_check.hpp"

namespace bipo {
namespace {

// Returns the sums over the ranks of `node`.  Collective over: node
std::vector<std::int64_t> summed(const std::vector<std::int64_t>& counts, Communicator& node) {
  const at::Tensor sums = at::tensor(counts, at::kLong);
  node.all_reduce(sums, ReduceOp::kSum);
  const auto* begin = sums.const_data_ptr<std::int64_t>();
  return {begin, begin + sums.numel()};
}

std::vector<std::string> overview_of(const TrainingInputs& inputs, const Tokenizer& tokenizer) {
  std::vector<std::string> lines;
  const auto add = [&](const std::vector<std::string>& more) {
    lines.insert(lines.end(), more.begin(), more.end());
  };
  add(overview_lines("training pairs", inputs.train));
  if (!inputs.test.empty()) {
    add(overview_lines("held-out pairs", inputs.test));
  }
  add(bounded_lines("first training pair", inputs.train.front(), tokenizer));
  return lines;
}

// Reads A/B items as pairs of letters, and adds what was understood and left out to `inputs`.
std::vector<TokenPair> read_letters(const std::filesystem::path& path, const TextTools& text,
                                    TrainingInputs& inputs) {
  const ChoiceSet set = read_ab_items(path, text.options.bad_rows);
  const TokenizedChoices tokens = tokenize_choices(set, text);
  std::vector<std::string> skipped = set.skipped;
  skipped.insert(skipped.end(), tokens.skipped.begin(), tokens.skipped.end());
  if (tokens.items.empty()) {
    throw UserError(
        fmt::format("{}: every item was left out; the first: {}", path.string(), skipped.front()));
  }
  if (!skipped.empty()) {
    inputs.warnings.push_back(fmt::format("{}: {} of the A/B items are left out; the first: {}",
                                          path.string(), skipped.size(), skipped.front()));
  }
  inputs.notes.push_back(fmt::format("{}: {} A/B items", path.string(), tokens.items.size()));
  return letter_pairs(set, tokens);
}

}  // namespace

TrainingInputs read_training_inputs(const TrainingOptions& options, std::int64_t threads) {
  TrainingInputs inputs;
  ModelFiles model = open_model(options.model, options.adapter);
  inputs.config = model.config;
  inputs.warnings = model.warnings();
  inputs.weights = std::move(model.weights);
  inputs.model_fingerprint = model.fingerprint;
  if (!options.dry_run) {  // reads every byte of the weights
    inputs.weights_hash =
        hash_of_weights(*inputs.weights, {options.cache_dir, options.cache_shared});
  }
  const auto add_all = [&](const std::vector<std::string>& warnings) {
    inputs.warnings.insert(inputs.warnings.end(), warnings.begin(), warnings.end());
  };
  TokenizeOptions tokenize = tokenize_options(options, inputs.config.context);
  tokenize.threads = threads;
  inputs.max_length = tokenize.max_length;

  const PairTokenizer tokenizer(model.read_text(), template_settings(options),
                                inputs.config.vocabulary, tokenize);
  inputs.chat_template = tokenizer.template_name();
  inputs.bos = tokenizer.text().special.bos;
  if (tokenizer.prints_date()) {
    inputs.template_date = options.template_date;
  }
  inputs.implied_system_text = tokenizer.implied_system_text();
  add_all(tokenizer.warnings());
  const auto read = [&](const std::filesystem::path& path, std::int64_t max_pairs) {
    TokenizedFile file = tokenizer.read(path, row_options(options, max_pairs));
    inputs.notes.push_back(file.understood);
    add_all(file.warnings);
    return std::move(file.pairs);
  };
  inputs.train = options.trains_on_letters ? read_letters(options.train, tokenizer.text(), inputs)
                                           : read(options.train, options.max_pairs);
  if (!options.test.empty()) {
    inputs.test = read(options.test, options.max_test_pairs);
    report(shared_pair_lines(inputs.train, inputs.test), options.on_duplicate, inputs.warnings);
  }
  if (!options.background.empty()) {
    inputs.background = read(options.background, /*max_pairs=*/0);
  }
  inputs.overview = overview_of(inputs, tokenizer.text().tokenizer);
  inputs.train_hash = tokens_hash(inputs.train);
  inputs.test_hash = tokens_hash(inputs.test);
  inputs.background_hash = tokens_hash(inputs.background);
  return inputs;
}

void check_weights(const std::vector<const TrainingInputs*>& models, Session& session) {
  const Topology all(session.size(), session.rank(), /*tp=*/1, std::nullopt);
  const Ranks ranks = session.make_ranks(all, c10::Device(c10::kCPU));
  for (const TrainingInputs* model : models) {
    const std::vector<std::int64_t> counts = summed(
        count_non_finite(*model->weights, model->config, ranks.node->size(), ranks.node->rank()),
        *ranks.node);
    session.together([&] { require_finite(*model->weights, model->config, counts); });
  }
}

}  // namespace bipo
