#include "launcher/bench/sample_pairs.hpp"

#include <fmt/format.h>

#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/batches/philox.hpp"
#include "experiments/files/process_identity.hpp"
#include "experiments/job/text_options.hpp"
#include "experiments/settings/template_dates.hpp"
#include "trainer/model/architecture/shapes.hpp"
#include "trainer/model/model_files.hpp"

namespace bipo {
namespace {

// Returns `length` tokens of stream `part` of pair `pair`.  The first is `pair` itself, so that
// neighbours differ there; vocabularies are larger than any data set made here.
std::vector<TokenId> make_tokens(std::int64_t pair, std::uint32_t part, std::int64_t length,
                                 std::int64_t vocabulary) {
  std::vector<TokenId> tokens;
  for (std::int64_t i = 0; i < length; ++i) {
    const auto random = philox4x32(
        {static_cast<std::uint32_t>(pair), part, static_cast<std::uint32_t>(i), 0}, {0, 0});
    const std::int64_t id = i == 0 ? 2 * pair + part : random[0];
    tokens.push_back(static_cast<TokenId>(id % vocabulary));
  }
  return tokens;
}

}  // namespace

ModelConfig read_chosen_config(const ModelChoice& choice, const SteeredLayers& layer) {
  const ModelConfig config =
      choice.shape.empty() ? read_config(choice.model) : read_shape(choice.shape);
  check_layer(layer.highest(), config);
  return config;
}

TokenizedFile read_pairs(const std::filesystem::path& file, const std::filesystem::path& model,
                         const ModelConfig& config, const TextOptions& options) {
  TextOptions dated = options;
  dated.template_date = choose_template_date(options.template_date, std::nullopt, utc_text());
  const PairTokenizer tokenizer(read_text(model), template_settings(dated), config.vocabulary,
                                tokenize_options(dated, config.context));
  return tokenizer.read(file, row_options(dated, dated.max_pairs));
}

std::vector<TokenPair> make_pairs(const PairLengths& lengths, std::int64_t count,
                                  const ModelConfig& config) {
  const std::int64_t longest = lengths.prompt_length + lengths.answer_length;
  if (longest > config.context) {
    throw UserError(
        fmt::format("--prompt-length {} and --answer-length {}: the model's context is "
                    "{} tokens",
                    lengths.prompt_length, lengths.answer_length, config.context));
  }
  constexpr std::uint32_t kPrompt = 0;
  constexpr std::uint32_t kChosen = 1;
  constexpr std::uint32_t kRejected = 2;
  constexpr std::uint32_t kShared = 3;
  std::vector<TokenPair> pairs;
  for (std::int64_t i = 0; i < count; ++i) {
    TokenPair pair;
    pair.prompt = make_tokens(0, kShared, lengths.common_prefix, config.vocabulary);
    const std::vector<TokenId> rest =
        make_tokens(i, kPrompt, lengths.prompt_length - lengths.common_prefix, config.vocabulary);
    pair.prompt.insert(pair.prompt.end(), rest.begin(), rest.end());
    pair.chosen = make_tokens(i, kChosen, lengths.answer_length, config.vocabulary);
    pair.rejected = make_tokens(i, kRejected, lengths.answer_length, config.vocabulary);
    pair.where = fmt::format("made-up pair {}", i + 1);
    pairs.push_back(std::move(pair));
  }
  return pairs;
}

}  // namespace bipo
