#include "launcher/training_inputs.hpp"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

#include "collectives/content_hash.hpp"
#include "collectives/errors.hpp"
#include "datasets/pair_tokenizer.hpp"
#include "launcher/text_options.hpp"

namespace bipo {
namespace {

void add_file(ContentHash& hash, const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  hash.add(content);
}

std::uint64_t hash_of(const std::vector<TokenPair>& pairs) {
  ContentHash hash;
  hash.add(std::uint64_t{pairs.size()});
  for (const TokenPair& pair : pairs) {
    for (const auto* part : {&pair.prompt, &pair.chosen, &pair.rejected}) {
      hash.add(std::uint64_t{part->size()});
      hash.add_bytes(part->data(), part->size() * sizeof(TokenId));
    }
  }
  return hash.value();
}

}  // namespace

TrainingInputs read_training_inputs(const TrainingOptions& options) {
  TrainingInputs inputs;
  std::error_code unreachable;
  if (!std::filesystem::is_directory(options.model, unreachable)) {
    throw UserError(fmt::format(
        "--model {}: no such directory; it takes a Hugging Face model directory (config.json, "
        "tokenizer.json, *.safetensors)",
        options.model.string()));
  }
  inputs.config = read_model_config(options.model);
  const TokenizeOptions tokenize = tokenize_options(options, inputs.config.context);
  inputs.max_length = tokenize.max_length;
  inputs.weights = open_safetensors(options.model, inputs.config);
  ContentHash model_hash;
  model_hash.add(inputs.weights->fingerprint());
  add_file(model_hash, options.model / "config.json");
  inputs.model_fingerprint = model_hash.value();

  const PairTokenizer tokenizer(options.model, options.chat_template, inputs.config.vocabulary,
                                tokenize);
  inputs.chat_template = tokenizer.template_name();
  inputs.implied_system_text = tokenizer.implied_system_text();
  inputs.warnings = tokenizer.warnings();
  const auto read = [&](const std::filesystem::path& path) {
    TokenizedFile file = tokenizer.read(path);
    inputs.warnings.insert(inputs.warnings.end(), file.warnings.begin(), file.warnings.end());
    return std::move(file.pairs);
  };
  inputs.train = read(options.train);
  if (!options.test.empty()) {
    inputs.test = read(options.test);
  }
  inputs.train_hash = hash_of(inputs.train);
  inputs.test_hash = hash_of(inputs.test);
  return inputs;
}

}  // namespace bipo
