#include "experiments/job/vectors_in_use.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "experiments/runs/conceptor_file.hpp"
#include "experiments/settings/field.hpp"
#include "experiments/settings/stored_settings.hpp"
#include "trainer/records/records.hpp"

namespace bipo {
namespace {

// The settings in a vector's run file; after an import they say nothing of a training.
class StoredTraining {
 public:
  explicit StoredTraining(const StoredVector& vector)
      : config_(nlohmann::json::parse(vector.config, nullptr, /*allow_exceptions=*/false)) {}

  // "" if there is no such text.
  std::string text(const char* key) const {
    const bool is_there = config_.is_object() && config_.contains(key) && config_[key].is_string();
    return is_there ? config_[key].get<std::string>() : "";
  }
  bool is_off(const char* key) const {
    return config_.is_object() && config_.value(key, nlohmann::json()) == nlohmann::json(false);
  }
  std::optional<double> number(const char* key) const {
    const bool is_there = config_.is_object() && config_.contains(key) && config_[key].is_number();
    return is_there ? std::optional(config_[key].get<double>()) : std::nullopt;
  }
  std::string model_fingerprint() const { return text("model_fingerprint"); }

 private:
  nlohmann::json config_;
};

std::string with_adapter(const std::string& model, const std::string& adapter) {
  return adapter.empty() ? model : fmt::format("{} with the adapter {}", model, adapter);
}

void require_fit(const VectorChoice& choice, const StoredVector& stored, const char* option,
                 const char* what, std::int64_t size, const char* parts,
                 const ModelConfig& config) {
  if (size != config.hidden) {
    throw UserError(fmt::format(
        "{} {}: the {} has {} {}, but the model's hidden size is {}; a {} fits models of its own "
        "hidden size only",
        option, choice.file.string(), what, size, parts, config.hidden, what));
  }
  if (stored.layer < 0 || stored.layer >= config.blocks) {
    throw UserError(fmt::format("{} {}: it belongs to layer {}, but the model's are 0 to {}",
                                option, choice.file.string(), stored.layer, config.blocks - 1));
  }
}

void check_fits(const VectorChoice& choice, const StoredVector& stored, const ModelConfig& config,
                const char* option) {
  require_fit(choice, stored, option, "vector", static_cast<std::int64_t>(stored.value.size()),
              "numbers", config);
}

VectorInUse read_conceptor(const VectorChoice& choice, const ModelConfig& config) {
  if (choice.selection.kind != VectorSelection::Kind::kResult) {
    throw UserError(fmt::format(
        "--vector {}:{}: the file holds a conceptor, which has no epochs; leave ':{}' "
        "out",
        choice.file.string(), to_string(choice.selection), to_string(choice.selection)));
  }
  const ConceptorRecord record = read_conceptor_file(choice.file);
  VectorInUse conceptor;
  conceptor.choice = choice;
  conceptor.quota = quota_of(record);
  conceptor.stored.layer = record.attributes.layer;
  conceptor.stored.model = record.attributes.model;
  conceptor.stored.config = record.attributes.config;
  require_fit(choice, conceptor.stored, "--vector", "conceptor", record.attributes.hidden_size,
              "rows and columns", config);
  conceptor.matrix.assign(record.matrix.begin(), record.matrix.end());
  return conceptor;
}

// Adds a warning that is not there yet: the vectors of a run's layers share what is said of it.
void add_once(std::string warning, std::vector<std::string>& warnings) {
  if (std::find(warnings.begin(), warnings.end(), warning) == warnings.end()) {
    warnings.push_back(std::move(warning));
  }
}

// Whether a vector says that it was trained on something else than `here`.
bool differs(const std::string& trained, std::uint64_t here) {
  return !trained.empty() && trained != fmt::format("{:016x}", here);
}

bool is_transfer(const StoredTraining& trained, std::uint64_t model_fingerprint,
                 std::uint64_t weights_hash) {
  return differs(trained.model_fingerprint(), model_fingerprint) ||
         differs(trained.text(kWeightsHashKey), weights_hash);
}

// For a person: "prompt without the begin-of-sequence token".
std::string positions_text(const SteeredPositions& positions, bool steers_bos) {
  return to_string(positions) + (steers_bos ? "" : " without the begin-of-sequence token");
}

}  // namespace

StoredVector read_vector(const VectorChoice& choice, const ModelConfig& config,
                         const char* option) {
  StoredVector stored = read_stored_vector(choice.file, choice.selection);
  check_fits(choice, stored, config, option);
  return stored;
}

std::vector<StoredVector> read_layer_vectors(const VectorChoice& choice, const ModelConfig& config,
                                             const char* option) {
  std::vector<StoredVector> vectors = read_stored_vectors(choice.file, choice.selection);
  for (const StoredVector& stored : vectors) {
    check_fits(choice, stored, config, option);
  }
  return vectors;
}

std::vector<VectorInUse> read_vectors(const std::vector<VectorChoice>& choices,
                                      const ModelConfig& config) {
  std::vector<VectorInUse> vectors;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    if (is_conceptor_file(choices[i].file)) {
      vectors.push_back(read_conceptor(choices[i], config));
      vectors.back().choice_index = i;
      continue;
    }
    for (StoredVector& stored : read_layer_vectors(choices[i], config, "--vector")) {
      vectors.push_back({choices[i], std::move(stored), i});
    }
  }
  return vectors;
}

bool is_transfer(const StoredVector& vector, std::uint64_t model_fingerprint,
                 std::uint64_t weights_hash) {
  return is_transfer(StoredTraining(vector), model_fingerprint, weights_hash);
}

TrainedPositions trained_positions(const StoredVector& vector) {
  const StoredTraining trained(vector);
  const std::string text = trained.text(kStoredPositionsKey);
  try {
    return {text.empty() ? SteeredPositions::kAll : parse_positions(text),
            !trained.is_off(kStoredSteerBosKey)};
  } catch (const UserError& rule) {
    throw UserError(fmt::format("a run file's config has {} \"{}\", which {}", kStoredPositionsKey,
                                text, rule.what()));
  }
}

std::string limited_positions(const TrainedPositions& trained) {
  return trained == TrainedPositions() ? "" : positions_text(trained.positions, trained.steers_bos);
}

const VectorInUse* first_trained_elsewhere(const std::vector<VectorInUse>& vectors) {
  const auto found = std::find_if(vectors.begin(), vectors.end(), [&](const VectorInUse& vector) {
    return trained_positions(vector.stored) != trained_positions(vectors.front().stored);
  });
  return found == vectors.end() ? nullptr : &*found;
}

void leave_out_bos(bool steer_bos, std::optional<TokenId> bos, SteeredPositions& positions,
                   std::vector<std::string>& warnings) {
  positions.left_out_bos = steer_bos ? -1 : bos.value_or(-1);
  if (!steer_bos && !bos) {
    warnings.emplace_back(
        "--steer-bos off: the model has no begin-of-sequence token, so that nothing is left out");
  }
}

std::vector<std::string> resolve_positions(const std::vector<VectorInUse>& vectors,
                                           std::optional<TokenId> bos, SteeringOptions& options) {
  std::vector<std::string> warnings;
  const auto resolve_one = [&](const char* option, auto& choice, auto trained, const auto& shown) {
    if (!choice) {
      choice = vectors.empty() ? trained(StoredVector()) : trained(vectors.front().stored);
      for (const VectorInUse& vector : vectors) {
        if (trained(vector.stored) != *choice) {
          throw UserError(fmt::format(
              "the vectors were trained at different positions ({} has --{} {}, {} has {}); give "
              "--{} to choose for all of them",
              vectors.front().choice.file.string(), option, shown(*choice),
              vector.choice.file.string(), shown(trained(vector.stored)), option));
        }
      }
      return;
    }
    for (const VectorInUse& vector : vectors) {
      if (trained(vector.stored) != *choice) {
        add_once(fmt::format("{}: trained with --{} {}, used with {} as given",
                             vector.choice.file.string(), option, shown(trained(vector.stored)),
                             shown(*choice)),
                 warnings);
      }
    }
  };
  resolve_one(
      "positions", options.positions,
      [](const StoredVector& vector) { return trained_positions(vector).positions; },
      [](const SteeredPositions& positions) { return to_string(positions); });
  resolve_one(
      "steer-bos", options.steer_bos,
      [](const StoredVector& vector) { return trained_positions(vector).steers_bos; },
      [](bool steers) { return steers ? "on" : "off"; });
  leave_out_bos(*options.steer_bos, bos, *options.positions, warnings);
  return warnings;
}

void check_intervention(const std::vector<VectorInUse>& vectors, const Intervention& intervention) {
  for (const VectorInUse& vector : vectors) {
    if (intervention.kind != Intervention::Kind::kAdd && vector.is_conceptor()) {
      throw UserError(fmt::format(
          "--vector {}: it holds a conceptor, which multiplies activations by its matrix; "
          "--intervention {} is about a vector's direction; leave one of the two out",
          vector.choice.file.string(), to_string(intervention)));
    }
    if (intervention.kind != Intervention::Kind::kAdd && vector.choice.weight != 1) {
      throw UserError(fmt::format(
          "--vector {}: a weight ({}) belongs to vectors that are added; --intervention {} knows "
          "their directions only, and --multipliers say how much of it is done",
          vector.choice.file.string(), vector.choice.weight, to_string(intervention)));
    }
    const bool is_zero = std::all_of(vectors.begin(), vectors.end(), [&](const VectorInUse& other) {
      return other.choice_index != vector.choice_index || vector_norm(other.stored.value) == 0;
    });
    if (intervention.kind != Intervention::Kind::kAdd && is_zero) {
      throw UserError(fmt::format(
          "--vector {}: its vector is zero and has no direction, which --intervention {} needs; "
          "name a run that has moved",
          vector.choice.file.string(), to_string(intervention)));
    }
  }
}

std::vector<PlacedVector> placed(const std::vector<VectorInUse>& vectors,
                                 const Intervention& intervention) {
  std::vector<PlacedVector> result;
  for (const VectorInUse& vector : vectors) {
    if (vector.is_conceptor()) {
      result.push_back({vector.stored.layer,
                        vector.matrix,
                        {Intervention::Kind::kConceptor, vector.choice.weight}});
    } else {
      result.push_back(
          {vector.stored.layer, vector.stored.value, intervention, vector.stored.site});
    }
  }
  return result;
}

std::uint64_t conceptor_device_bytes(const std::vector<VectorInUse>& vectors, std::int64_t controls,
                                     c10::Device device) {
  constexpr std::uint64_t kMost = std::uint64_t{1} << 62;
  std::uint64_t numbers = 0;
  for (const VectorInUse& vector : vectors) {
    numbers += vector.matrix.size();
  }
  const std::uint64_t copies = device.is_cpu() ? 2 : 1;
  const std::uint64_t bytes = numbers * sizeof(float) * copies;
  const std::uint64_t times = 1 + static_cast<std::uint64_t>(controls);
  return bytes > kMost / times ? kMost : bytes * times;
}

std::optional<Gate> read_gate(const GateChoice& choice, const ModelConfig& config) {
  if (choice.vector.empty()) {
    return std::nullopt;
  }
  StoredVector stored = read_vector(choice.vector, config, "--gate");
  if (stored.site != Site::kBlock) {
    throw UserError(fmt::format(
        "--gate {}: its vector was made with --site {}, and a gate projects the outputs of blocks; "
        "name a vector of a block's output, as extract makes it",
        choice.vector.file.string(), to_string(stored.site)));
  }
  if (vector_norm(stored.value) == 0) {
    throw UserError(fmt::format("--gate {}: its vector is zero and has no direction",
                                choice.vector.file.string()));
  }
  return Gate{{stored.layer, std::move(stored.value)}, choice.threshold};
}

std::vector<VectorInUse> with_gate(std::vector<VectorInUse> vectors, const GateChoice& gate) {
  const VectorChoice& choice = gate.vector;
  const bool is_known = std::any_of(vectors.begin(), vectors.end(), [&](const VectorInUse& vector) {
    return vector.choice.file == choice.file;
  });
  if (!choice.empty() && !is_known) {
    vectors.push_back({choice, read_stored_vector(choice.file, choice.selection)});
  }
  return vectors;
}

void add_steering_notes(const SteeringOptions& options, const std::optional<Gate>& gate,
                        std::vector<std::string>& notes) {
  if (options.positions != SteeredPositions::kAll) {
    notes.push_back("steered positions: " + positions_text(*options.positions, *options.steer_bos));
  }
  if (options.intervention != Intervention()) {
    notes.push_back(fmt::format("intervention: {}", to_string(options.intervention)));
  }
  if (gate) {
    notes.push_back(fmt::format(
        "gate {}: only prompts are steered whose last token's component along its vector, after "
        "layer {} of the model without steering, is above {}",
        options.gate.vector.file.string(), gate->vector.layer, gate->threshold));
  }
}

std::vector<std::string> transfer_warnings(const std::vector<VectorInUse>& vectors,
                                           const ModelFiles& model, std::uint64_t weights_hash) {
  std::vector<std::string> warnings;
  for (const VectorInUse& vector : vectors) {
    const StoredTraining trained(vector.stored);
    if (is_transfer(trained, model.fingerprint, weights_hash)) {
      const std::string origin = with_adapter(vector.stored.model, trained.text("adapter"));
      add_once(
          fmt::format("{}: trained on other weights or another configuration ({}) than those here "
                      "({}); this is a transfer",
                      vector.choice.file.string(), origin,
                      with_adapter(absolute_text(model.path), absolute_text(model.adapter))),
          warnings);
    }
  }
  return warnings;
}

std::vector<std::string> vector_warnings(const std::vector<VectorInUse>& vectors,
                                         const ModelFiles& model, std::uint64_t weights_hash) {
  std::vector<std::string> warnings;
  for (const VectorInUse& vector : vectors) {
    if (auto warning = unfinished_warning(vector.choice.file, vector.stored)) {
      add_once(std::move(*warning), warnings);
    }
  }
  for (std::string& warning : transfer_warnings(vectors, model, weights_hash)) {
    warnings.push_back(std::move(warning));
  }
  return warnings;
}

std::string vector_note(const VectorChoice& choice, const StoredVector& vector) {
  const std::string epoch = epoch_text(vector);
  return fmt::format("{}: vector of {}{}{}, norm {:.4g}{}", choice.file.string(),
                     place_text(vector.place()), epoch.empty() ? "" : ", ", epoch,
                     vector_norm(vector.value),
                     choice.weight == 1 ? "" : fmt::format(", times {}", choice.weight));
}

std::vector<std::string> vector_notes(const std::vector<VectorInUse>& vectors) {
  std::vector<std::string> notes;
  for (const VectorInUse& vector : vectors) {
    notes.push_back(vector.is_conceptor()
                        ? fmt::format("{}: conceptor of layer {}, quota {:.4g}, beta {}",
                                      vector.choice.file.string(), vector.stored.layer,
                                      vector.quota, vector.choice.weight)
                        : vector_note(vector.choice, vector.stored));
  }
  return notes;
}

nlohmann::ordered_json vector_json(const VectorChoice& choice, const StoredVector& vector) {
  nlohmann::ordered_json json = {{"file", absolute_text(choice.file)},
                                 {"selected", to_string(choice.selection)},
                                 {"weight", choice.weight},
                                 {"layer", vector.layer},
                                 {"epoch", vector.epoch},
                                 {"step", vector.step},
                                 {"norm", vector_norm(vector.value)},
                                 {"model", vector.model},
                                 {"model_fingerprint", StoredTraining(vector).model_fingerprint()}};
  if (vector.site != Site::kBlock) {
    json["site"] = to_string(vector.site);
  }
  return json;
}

std::optional<double> block_output_factor(const StoredVector& vector) {
  if (vector.site == Site::kBlock) {
    return 1;
  }
  return StoredTraining(vector).number(kBlockOutputFactorKey);
}

nlohmann::ordered_json vectors_json(const std::vector<VectorInUse>& vectors) {
  auto list = nlohmann::ordered_json::array();
  for (const VectorInUse& vector : vectors) {
    list.push_back(vector_json(vector.choice, vector.stored));
    if (vector.is_conceptor()) {
      list.back().erase("norm");
      list.back()["kind"] = "conceptor";
      list.back()["quota"] = vector.quota;
    }
  }
  return list;
}

}  // namespace bipo
