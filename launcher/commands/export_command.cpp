// The command `export`: writes vectors in the format of another program.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "experiments/files/atomic_file.hpp"
#include "experiments/formats/exported_vector.hpp"
#include "experiments/formats/model_type.hpp"
#include "experiments/job/new_file.hpp"
#include "experiments/job/vectors_in_use.hpp"
#include "experiments/runs/conceptor_file.hpp"
#include "experiments/runs/run_file.hpp"
#include "experiments/settings/field.hpp"
#include "launcher/commands/commands.hpp"
#include "trainer/intervention/layers.hpp"

namespace bipo {
namespace {

// lm-evaluation-harness detects the type of a file by its name.
void check_name(const ExportOptions& options) {
  if (options.format == "lm-eval" && options.out.extension() != ".pt") {
    throw UserError(fmt::format(
        "--out {}: lm-evaluation-harness accepts such a file only if its name ends in .pt; "
        "rename it",
        options.out.string()));
  }
}

// --epoch N is the same as :epoch=N behind every file.
VectorSelection selection_of(const VectorChoice& choice, const ExportOptions& options) {
  if (!options.epoch) {
    return choice.selection;
  }
  if (choice.selection.kind != VectorSelection::Kind::kResult) {
    throw UserError(
        fmt::format("--epoch {} and ':{}' behind the file both choose an epoch; give one",
                    *options.epoch, to_string(choice.selection)));
  }
  return {VectorSelection::Kind::kEpoch, *options.epoch};
}

// Keeps what --layer chooses of the vectors of `file`.
void keep_chosen_layers(const std::filesystem::path& file, const std::vector<std::int64_t>& chosen,
                        std::vector<StoredVector>& vectors) {
  if (chosen.empty()) {
    return;
  }
  std::vector<std::int64_t> found;
  for (const StoredVector& vector : vectors) {
    found.push_back(vector.layer);
  }
  std::erase_if(vectors, [&](const StoredVector& vector) {
    return std::count(chosen.begin(), chosen.end(), vector.layer) == 0;
  });
  if (vectors.empty()) {
    const bool is_one = found.size() == 1;
    throw UserError(fmt::format("{}: it holds the vector{} of {}, and --layer {} names {}",
                                file.string(), is_one ? "" : "s",
                                layers_text(SteeredLayers(std::move(found))),
                                fmt::join(chosen, ","), is_one ? "another" : "none of them"));
  }
}

void require_chosen_layers(const std::vector<std::int64_t>& chosen,
                           const std::vector<ExportedVector>& vectors) {
  for (const std::int64_t layer : chosen) {
    if (std::none_of(vectors.begin(), vectors.end(), [&](const ExportedVector& exported) {
          return exported.vector.layer == layer;
        })) {
      throw UserError(fmt::format(
          "--layer {}: none of the files has a vector of layer {}; `bipo-dist inspect` shows the "
          "layers of a file",
          fmt::join(chosen, ","), layer));
    }
  }
}

bool is_imported(const StoredVector& vector) {
  const auto config = nlohmann::json::parse(vector.config, nullptr, /*allow_exceptions=*/false);
  return config.is_object() && config.contains("imported_from");
}

// Returns what the vectors of one run are multiplied by, because other programs add to the outputs
// of blocks.
double factor_of_export(const VectorChoice& choice, const std::vector<StoredVector>& of_layers) {
  const StoredVector& stored = of_layers.front();
  if (stored.site == Site::kBlock) {
    return 1;
  }
  std::vector<std::int64_t> layers;
  for (const StoredVector& vector : of_layers) {
    layers.push_back(vector.layer);
  }
  const std::string where = layers_text(SteeredLayers(std::move(layers)).at(stored.site));
  const char* const verb = of_layers.size() == 1 ? "returns" : "return";
  const auto factor = block_output_factor(stored);
  if (!factor && is_imported(stored)) {
    throw UserError(fmt::format(
        "{}: its vector is added to what {} {}, and the programs that read such files add to the "
        "block's output; whether something added there does the same depends on the model, and the "
        "import found no model of this hidden size in which it does: import the vector again with "
        "--model, the model's directory; if that was given, the model has a norm or a scale behind "
        "its MLPs, and nothing added to the block's output does the same",
        choice.file.string(), where, verb));
  }
  if (!factor) {
    throw UserError(fmt::format(
        "{}: its vector is added to what {} {} (--site {}), before a norm or a scale of its own "
        "that this model's blocks have behind it, so that nothing added to the block's output does "
        "the same; the programs that read such files add there; use it in generate and evaluate, "
        "or in PyTorch by bipo_analysis.steer",
        choice.file.string(), where, verb, to_string(stored.site)));
  }
  std::cerr << fmt::format(
      "note: {}: its vector is added to what {} {}; in this model the same vector{} does the same "
      "where it is added to the block's output, as the programs do that read the file; null and "
      "clamp do not, because they change a component of what is there\n",
      choice.file.string(), where, verb, *factor == 1 ? "" : fmt::format(" times {}", *factor));
  return *factor;
}

std::vector<ExportedVector> vectors_of(const ExportOptions& options) {
  std::vector<ExportedVector> vectors;
  std::set<std::string> models;
  for (const VectorChoice& choice : options.vectors) {
    if (is_conceptor_file(choice.file)) {
      throw UserError(fmt::format(
          "{}: it holds a conceptor, which no format can carry: a file of the format {} has a "
          "vector for each layer, and the programs that read it add vectors, where a conceptor is "
          "a matrix that activations are multiplied by; use it in generate and evaluate, or in "
          "PyTorch by bipo_analysis.steer",
          choice.file.string(), options.format));
    }
    std::vector<StoredVector> of_layers =
        read_stored_vectors(choice.file, selection_of(choice, options));
    keep_chosen_layers(choice.file, options.layers, of_layers);
    if (const auto warning = unfinished_warning(choice.file, of_layers.front())) {
      std::cerr << "warning: " << *warning << '\n';
    }
    models.insert(of_layers.front().model);
    const std::string positions = limited_positions(trained_positions(of_layers.front()));
    if (!positions.empty() && !carries_positions(options.format)) {
      std::cerr << fmt::format(
          "warning: {}: its vector was trained at the positions {}; a file of the format {} has no "
          "place for that, and the programs that read it add the vector at every position\n",
          choice.file.string(), positions, options.format);
    }
    const double factor = factor_of_export(choice, of_layers);
    for (StoredVector& stored : of_layers) {
      vectors.push_back(
          {std::move(stored), options.multiplier * choice.weight * factor, positions});
    }
  }
  require_chosen_layers(options.layers, vectors);
  if (models.size() > 1) {
    std::cerr << fmt::format("warning: the vectors were made for several models: {}\n",
                             fmt::join(models, ", "));
  }
  return vectors;
}

// Returns what other programs compare with the model that they have loaded.
std::string model_hint(const StoredVector& vector) {
  if (auto type = model_type_of(vector.model)) {
    return *type;
  }
  const std::filesystem::path path = std::filesystem::path(vector.model).lexically_normal();
  std::string name = (path.has_filename() ? path : path.parent_path()).filename().string();
  if (name != vector.model) {
    std::cerr << fmt::format(
        "note: {}: the model is not there, so that its name takes the place of its type in "
        "controlvector.model_hint; llama.cpp ignores it, repeng warns where two vectors differ in "
        "it\n",
        vector.model);
  }
  return name;
}

// Returns what a person needs to know to use the file.
std::string usage_note(const ExportOptions& options, const ExportedVector& vector) {
  if (options.format == "lm-eval") {
    return "note: lm-evaluation-harness (0.4.13) rounds the vector to the model's data type, which "
           "is that of the weights unless --model_args has a dtype; dtype=float32 gives this "
           "program's numbers\n";
  }
  if (options.format == "vllm-hook") {
    nlohmann::ordered_json steering;
    steering["method"] = "add_vector";
    steering["coefficient"] = 1.0;
    steering["optimal_layer"] = vector.vector.layer;
    steering["vector_path"] = absolute_text(options.out);
    const nlohmann::ordered_json configuration = {{"steering", steering}};
    return fmt::format("note: the steering configuration of vLLM-Hook for this file: {}\n",
                       configuration.dump(-1, ' ', /*ensure_ascii=*/false,
                                          nlohmann::ordered_json::error_handler_t::replace));
  }
  return "";
}

std::string origin_text(const StoredVector& vector) {
  const std::string epoch = epoch_text(vector);
  return fmt::format("{}step {}", epoch.empty() ? "" : epoch + ", ", vector.step);
}

std::string export_summary(const ExportOptions& options,
                           const std::vector<ExportedVector>& vectors) {
  if (vectors.size() == 1) {
    const StoredVector& vector = vectors[0].vector;
    return fmt::format("{}: the vector of layer {}, {}, times {}, as {}\n", options.out.string(),
                       vector.layer, origin_text(vector), vectors[0].multiplier, options.format);
  }
  // Said once where it is the same for all, as for those of one run.
  std::vector<std::string> layers;
  std::set<std::string> origins;
  for (const ExportedVector& exported : vectors) {
    layers.push_back(fmt::format("{} times {}", exported.vector.layer, exported.multiplier));
    origins.insert(origin_text(exported.vector));
  }
  if (origins.size() > 1) {
    for (std::size_t i = 0; i < layers.size(); ++i) {
      layers[i] += fmt::format(" ({})", origin_text(vectors[i].vector));
    }
  }
  return fmt::format("{}: the vectors of the layers {}{}, as {}\n", options.out.string(),
                     fmt::join(layers, ", "), origins.size() > 1 ? "" : "; " + *origins.begin(),
                     options.format);
}

}  // namespace

int run_export_command(const ExportOptions& options) {
  check_name(options);
  std::vector<std::filesystem::path> inputs;
  for (const VectorChoice& choice : options.vectors) {
    inputs.push_back(choice.file);
  }
  check_new_file("--out", options.out, options.overwrite, inputs);
  const std::vector<ExportedVector> vectors = vectors_of(options);
  const std::string hint = options.format == "gguf" ? model_hint(vectors[0].vector) : "";
  replace_file(options.out, exported_vectors(vectors, options.format, hint));
  std::cerr << usage_note(options, vectors[0]);
  std::cout << export_summary(options, vectors);
  return 0;
}

}  // namespace bipo
