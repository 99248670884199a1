// The command `import`: makes run files of vectors in another format.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <system_error>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "experiments/formats/vector_file.hpp"
#include "experiments/job/new_file.hpp"
#include "experiments/runs/run_file.hpp"
#include "experiments/settings/field.hpp"
#include "experiments/settings/stored_settings.hpp"
#include "launcher/commands/commands.hpp"
#include "launcher/commands/lone_process.hpp"
#include "trainer/intervention/layers.hpp"
#include "trainer/intervention/site.hpp"
#include "trainer/model/architecture/config.hpp"
#include "trainer/model/model_files.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;

nlohmann::json parsed(const std::string& text) {
  return nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
}

// Returns the settings of the training that the vector's metadata has, as `export` writes them for
// one vector or by layer; anything but an object where there are none.
nlohmann::json training_settings(const VectorFile& file, const LayerVector& vector) {
  constexpr const char* kSettings = "training_settings";
  const auto found = file.metadata.find(kSettings);
  if (found != file.metadata.end()) {
    return parsed(found->second);
  }
  const auto own = file.metadata.find(vector.tensor);
  const nlohmann::json of_layer =
      own == file.metadata.end() ? nlohmann::json() : parsed(own->second);
  return of_layer.is_object() && of_layer.contains(kSettings) && of_layer[kSettings].is_string()
             ? parsed(of_layer[kSettings].get<std::string>())
             : nlohmann::json();
}

// Returns at which tokens a training with these settings steered, which a vector's use goes by.
nlohmann::ordered_json stored_positions(const nlohmann::json& settings) {
  auto positions = nlohmann::ordered_json::object();
  if (!settings.is_object()) {
    return positions;
  }
  if (settings.contains(kStoredPositionsKey) && settings[kStoredPositionsKey].is_string()) {
    positions[kStoredPositionsKey] = settings[kStoredPositionsKey];
  }
  if (settings.contains(kStoredSteerBosKey) && settings[kStoredSteerBosKey].is_boolean()) {
    positions[kStoredSteerBosKey] = settings[kStoredSteerBosKey];
  }
  return positions;
}

// Returns those of all vectors, which one run file has for all of its layers.
nlohmann::ordered_json shared_positions(const VectorFile& file,
                                        std::span<const LayerVector> vectors,
                                        const ImportOptions& options) {
  const nlohmann::ordered_json first = stored_positions(training_settings(file, vectors.front()));
  for (const LayerVector& vector : vectors) {
    const nlohmann::ordered_json own = stored_positions(training_settings(file, vector));
    const auto shown = [](const nlohmann::ordered_json& positions) {
      return positions.empty() ? "all" : positions.dump();
    };
    if (own != first) {
      throw UserError(fmt::format(
          "{}: the vectors of layers {} and {} were trained at different positions ({} and {}), "
          "and one run has the same for all layers; let --out name a directory for a run file of "
          "each, or choose one by --layer",
          options.file.string(), vectors.front().layer, vector.layer, shown(first), shown(own)));
    }
  }
  return first;
}

// Returns what `part_of` gives of a lone vector, or the list of what it gives of several.
template <typename PartOf>
nlohmann::ordered_json of_each(std::span<const LayerVector> vectors, const PartOf& part_of) {
  if (vectors.size() == 1) {
    return part_of(vectors.front());
  }
  auto parts = nlohmann::ordered_json::array();
  for (const LayerVector& vector : vectors) {
    parts.push_back(part_of(vector));
  }
  return parts;
}

// Returns mlp_output_factor() of the model that --model names, where that is here and of this
// hidden size.
std::optional<double> output_factor(const ImportOptions& options, std::int64_t hidden) {
  if (options.model.empty()) {
    return std::nullopt;
  }
  try {
    const ModelConfig config = read_config(options.model);
    return config.hidden == hidden ? mlp_output_factor(config) : std::nullopt;
  } catch (const UserError&) {
    return std::nullopt;  // a name alone, as it may be
  }
}

// One run file has one site for all of its layers.
void require_one_site(const VectorFile& file, const ImportOptions& options) {
  const LayerVector& first = file.vectors.front();
  for (const LayerVector& vector : file.vectors) {
    if (vector.site != first.site) {
      throw UserError(fmt::format(
          "{}: its vectors are for {} and for {}, and one run adds all at the same outputs; let "
          "--out name a directory for a run file of each, or choose one by --layer",
          options.file.string(), place_text({first.layer, first.site}),
          place_text({vector.layer, vector.site})));
    }
  }
}

// Returns the origin of the vectors, stored in place of the settings of a training.
std::string origin(const VectorFile& file, std::span<const LayerVector> vectors,
                   const ImportOptions& options) {
  nlohmann::ordered_json json;
  json["imported_from"] = absolute_text(options.file);
  json["imported_format"] = file.format;
  if (!vectors.front().tensor.empty()) {
    json["imported_tensor"] = of_each(vectors, [](const LayerVector& v) { return v.tensor; });
  }
  if (std::any_of(vectors.begin(), vectors.end(),
                  [](const LayerVector& vector) { return vector.coefficient != 1; })) {
    json["imported_multiplier"] =
        of_each(vectors, [](const LayerVector& v) { return v.coefficient; });
  }
  if (options.shift != 0) {
    json["imported_shift"] = options.shift;
  }
  if (!file.metadata.empty()) {
    json["imported_metadata"] = file.metadata;
  }
  json.update(shared_positions(file, vectors, options));
  const LayerVector& first = vectors.front();
  if (first.site == Site::kMlp) {
    if (const auto factor = output_factor(options, std::ssize(first.value))) {
      json[kBlockOutputFactorKey] = *factor;
    }
  }
  return settings_text(json);
}

std::string model_of(const VectorFile& file, const ImportOptions& options) {
  if (!options.model.empty()) {
    return options.model;
  }
  return file.model.empty() ? "unknown" : file.model;
}

// Returns the run of `vectors`, one for each of its layers, which ascend.
RunRecord run_of(const VectorFile& file, std::span<const LayerVector> vectors,
                 const ImportOptions& options) {
  RunRecord run;
  RunAttributes& attributes = run.attributes;
  attributes.layer = vectors.front().layer;
  attributes.site = vectors.front().site;
  std::vector<float> value;
  for (const LayerVector& vector : vectors) {
    value.insert(value.end(), vector.value.begin(), vector.value.end());
    if (vector.layer != attributes.layer) {
      attributes.higher_layers.push_back(vector.layer);
    }
  }
  static_cast<TrainingRecord&>(run) = starting_record(std::ssize(value), /*seed=*/0);
  run.vectors.push_back({value, /*step=*/0, /*epoch=*/0});
  run.checkpoint.vector = std::move(value);
  attributes.status = RunStatus::kComplete;
  attributes.config = origin(file, vectors, options);
  attributes.model = model_of(file, options);
  attributes.hidden_size = std::ssize(vectors.front().value);
  attributes.dtype = "fp32";
  describe_lone_process(attributes);
  return run;
}

void write_one(const VectorFile& file, const ImportOptions& options) {
  check_new_file("--out", options.out, options.overwrite, {options.file});
  const LayerVector& vector = file.vectors.front();
  write_run_file(options.out, run_of(file, file.vectors, options));
  std::cout << fmt::format(
      "{}: a vector of {} numbers for {}, from {} ({}); use it by --vector {}\n",
      options.out.string(), vector.value.size(), place_text({vector.layer, vector.site}),
      options.file.string(), file.format, options.out.string());
}

// Returns "layers 1,4", "the MLPs of layers 1,4", or, where some are of MLPs, each place.
std::string places_of(const VectorFile& file) {
  const Site site = file.vectors.front().site;
  std::vector<std::int64_t> layers;
  std::vector<std::string> places;
  bool has_one_site = true;
  for (const LayerVector& vector : file.vectors) {
    layers.push_back(vector.layer);
    places.push_back(place_text({vector.layer, vector.site}));
    has_one_site = has_one_site && vector.site == site;
  }
  return has_one_site ? layers_text(SteeredLayers(std::move(layers)).at(site))
                      : fmt::format("{}", fmt::join(places, ", "));
}

void require_one_size(const VectorFile& file, const ImportOptions& options) {
  const auto other =
      std::find_if(file.vectors.begin(), file.vectors.end(), [&](const LayerVector& vector) {
        return vector.value.size() != file.vectors.front().value.size();
      });
  if (other != file.vectors.end()) {
    throw UserError(fmt::format(
        "{}: its vectors have {} numbers for layer {} and {} for layer {}, which no model has; "
        "choose one by --layer",
        options.file.string(), file.vectors.front().value.size(), file.vectors.front().layer,
        other->value.size(), other->layer));
  }
}

void check_directory(const VectorFile& file, const ImportOptions& options) {
  if (!fs::is_directory(options.out) && fs::exists(options.out)) {
    throw UserError(fmt::format(
        "{}: holds the vectors of {}; choose one by --layer, or let --out name a directory "
        "for a run file of each, or an .h5 file for one run of all, not {}",
        options.file.string(), places_of(file), options.out.string()));
  }
  require_one_size(file, options);
}

// Writes the vectors as a run that steers all of their layers together.
void write_together(const VectorFile& file, const ImportOptions& options) {
  require_one_size(file, options);
  require_one_site(file, options);
  check_new_file("--out", options.out, options.overwrite, {options.file});
  write_run_file(options.out, run_of(file, file.vectors, options));
  std::cout << fmt::format(
      "{}: a run of {} vectors of {} numbers for {}, from {} ({}); --vector {} steers all of these "
      "together\n",
      options.out.string(), file.vectors.size(), file.vectors.front().value.size(), places_of(file),
      options.file.string(), file.format, options.out.string());
}

// Removes the files and the directory that an import which fails has made.
class MadeFiles {
 public:
  explicit MadeFiles(const fs::path& directory) : directory_(directory) {
    std::error_code error;
    is_new_ = fs::create_directory(directory, error);
    if (!fs::is_directory(directory)) {
      throw UserError(fmt::format("--out {}: not a directory, and cannot be made: {}",
                                  directory.string(), error.message()));
    }
  }
  MadeFiles(const MadeFiles&) = delete;
  MadeFiles& operator=(const MadeFiles&) = delete;
  ~MadeFiles() {
    std::error_code ignored;
    for (const fs::path& file : files_) {
      fs::remove(file, ignored);
    }
    if (is_new_) {
      fs::remove(directory_, ignored);
    }
  }

  // Call it before the file is written.
  void add(const fs::path& file) {
    if (!fs::exists(file)) {
      files_.push_back(file);
    }
  }
  void keep() {
    files_.clear();
    is_new_ = false;
  }

 private:
  fs::path directory_;
  std::vector<fs::path> files_;
  bool is_new_ = false;
};

void write_several(const VectorFile& file, const ImportOptions& options) {
  check_directory(file, options);
  MadeFiles made(options.out);
  const auto path_of = [&](const LayerVector& vector) {
    return options.out / fmt::format("layer{}.h5", vector.layer);
  };
  for (const LayerVector& vector : file.vectors) {
    check_new_file("--out", path_of(vector), options.overwrite, {options.file});
  }
  for (const LayerVector& vector : file.vectors) {
    made.add(path_of(vector));
    write_run_file(path_of(vector), run_of(file, {&vector, 1}, options));
  }
  made.keep();
  std::cout << fmt::format(
      "{}: {} vectors of {} numbers for {}, from {} ({}); use one by --vector {}\n",
      options.out.string(), file.vectors.size(), file.vectors.front().value.size(), places_of(file),
      options.file.string(), file.format, path_of(file.vectors.front()).string());
}

WantedVectors choice_of(const ImportOptions& options) {
  WantedVectors choice;
  choice.layer = options.layer;
  choice.shift = options.shift;
  if (!options.layer_of_row.empty()) {
    choice.rows = options.layer_of_row == "r" ? RowRule::kSame : RowRule::kPrevious;
  }
  return choice;
}

}  // namespace

int run_import_command(const ImportOptions& options) {
  const VectorFile file = read_vector_file(options.file, options.format, choice_of(options));
  for (const std::string& note : file.notes) {
    std::cerr << "note: " << note << '\n';
  }
  if (file.vectors.size() == 1 && !fs::is_directory(options.out)) {
    write_one(file, options);
  } else if (options.out.extension() == ".h5" && !fs::is_directory(options.out)) {
    write_together(file, options);
  } else {
    write_several(file, options);
  }
  return 0;
}

}  // namespace bipo
