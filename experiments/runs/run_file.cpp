// The run file: log, checkpoint and result of one training run in one HDF5 file.
#include "experiments/runs/run_file.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>
#include <variant>

#include "collectives/foundation/errors.hpp"
#include "experiments/files/hdf5.hpp"
#include "experiments/files/hdf5_additions.hpp"
#include "trainer/records/best_epoch.hpp"

namespace bipo {
namespace {

using hdf5::Handle;

constexpr hdf5::Attribute<RunAttributes> kRunAttributes[] = {{"layer", &RunAttributes::layer, 0}};

constexpr const char* kEpoch = "pass over the training pairs, from 0";

hdf5::Table<StepRow> step_table() {
  return hdf5::Table<StepRow>("steps")
      .column("step", "1", "optimiser step, from 0", &StepRow::step)
      .column("epoch", "1", kEpoch, &StepRow::epoch)
      .column("lr", "absolute", "learning rate of this step", &StepRow::lr)
      .column("loss", "nats", "mean over the batch, before the update", &StepRow::loss)
      .column("margin", "nats", "mean margin of the objective; of bipo sign*beta*delta",
              &StepRow::margin)
      .column("accuracy", "share", "pairs with sign*delta > 0", &StepRow::accuracy)
      .column("sign", "1", "+1 or -1; 0 where the step has no single sign", &StepRow::sign)
      .column("grad_norm", "nats per hidden unit",
              "Euclidean norm of the gradient, before clipping", &StepRow::grad_norm)
      .column("vector_norm", "hidden units", "Euclidean norm of the vector, after the update",
              &StepRow::vector_norm)
      .column("tokens", "tokens", "rows of the packed micro-batches through the suffix",
              &StepRow::tokens)
      .column("seconds", "s", "wall time of the step", &StepRow::seconds);
}

hdf5::Table<EvalRow> eval_table() {
  return hdf5::Table<EvalRow>("evals")
      .column("step", "1", "optimiser steps done", &EvalRow::step)
      .column("epoch", "1", kEpoch, &EvalRow::epoch)
      .column("multiplier", "1", "factor on the vector", &EvalRow::multiplier)
      .column("pairs", "pairs", "held-out pairs evaluated", &EvalRow::pairs)
      .column("loss", "nats", "mean loss of the objective; of bipo -log sigmoid(beta*delta)",
              &EvalRow::loss)
      .column("margin", "nats", "mean margin of the objective; of bipo beta*delta",
              &EvalRow::margin)
      .column("accuracy", "share", "pairs whose chosen answer is likelier than the rejected one",
              &EvalRow::accuracy)
      .column("chosen_logp", "nats", "mean log-probability of the chosen answer",
              &EvalRow::chosen_logp)
      .column("rejected_logp", "nats", "mean log-probability of the rejected answer",
              &EvalRow::rejected_logp);
}

// Files of earlier versions lack it.
hdf5::Table<EvalSampleRow> eval_sample_table() {
  using Row = EvalSampleRow;
  return hdf5::Table<Row>("eval_samples")
      .column("step", "1", "optimiser steps done", &Row::step)
      .column("epoch", "1", kEpoch, &Row::epoch)
      .column("multiplier", "1", "factor on the vector", &Row::multiplier)
      .column("pair", "1", "held-out pair, from 0", &Row::pair)
      .column("chosen_logp", "nats", "log-probability of the chosen answer", &Row::chosen_logp)
      .column("rejected_logp", "nats", "log-probability of the rejected answer",
              &Row::rejected_logp);
}

constexpr const char* kVerdict = "verdict";

// Runs that steer block outputs lack it.
constexpr const char* kSite = "site";

// Runs that learn no factor lack it.
constexpr const char* kFactor = "factor";

// Runs that steer one layer lack it, and have arrays without its dimension.
constexpr const char* kLayer = "layer";

// Returns the dimensions of `count` vectors of a run; empty: those of one vector.
std::vector<hsize_t> vector_dims(std::optional<std::size_t> count, const RunAttributes& run) {
  std::vector<hsize_t> dims;
  if (count) {
    dims.push_back(*count);
  }
  if (!run.higher_layers.empty()) {
    dims.push_back(run.higher_layers.size() + 1);
  }
  dims.push_back(static_cast<hsize_t>(run.hidden_size));
  return dims;
}

// Returns "" where there is none.
std::string read_optional_text(const Handle& file, const char* attribute) {
  const std::vector<std::string> names = hdf5::attribute_names(file);
  return std::find(names.begin(), names.end(), attribute) == names.end()
             ? ""
             : hdf5::read_text_attribute(file, attribute);
}

Site read_site(const Handle& file) {
  const std::string text = read_optional_text(file, kSite);
  try {
    return text.empty() ? Site::kBlock : parse_site(text);
  } catch (const UserError& rule) {
    throw UserError(fmt::format("attribute '{}' is '{}', which {}", kSite, text, rule.what()));
  }
}

RunStatus read_status(const Handle& file) {
  const std::string text = hdf5::read_text_attribute(file, "status");
  for (const auto status :
       {RunStatus::kRunning, RunStatus::kComplete, RunStatus::kInterrupted, RunStatus::kDiverged}) {
    if (text == to_string(status)) {
      return status;
    }
  }
  throw UserError(fmt::format(
      "attribute 'status' is '{}', not running, complete, interrupted or diverged", text));
}

template <typename T>
void check_minimums(std::span<const hdf5::Attribute<T>> attributes, const T& values) {
  for (const hdf5::Attribute<T>& attribute : attributes) {
    const auto* member = std::get_if<std::int64_t T::*>(&attribute.member);
    if (member != nullptr && values.*(*member) < attribute.minimum) {
      throw UserError(fmt::format("{} is {}, must be at least {}", attribute.name,
                                  values.*(*member), attribute.minimum));
    }
  }
}

void check_size(std::string_view what, std::size_t size, const RunAttributes& run) {
  const std::size_t layers = run.higher_layers.size() + 1;
  // Not by a product, which wraps for a damaged hidden_size.
  if (size % layers != 0 || size / layers != static_cast<std::size_t>(run.hidden_size)) {
    throw UserError(fmt::format("{} has {} elements, hidden_size is {}{}", what, size,
                                run.hidden_size,
                                layers == 1 ? "" : fmt::format(", for {} layers", layers)));
  }
}

void check_layers(const RunAttributes& run) {
  std::int64_t before = run.layer;
  for (const std::int64_t layer : run.higher_layers) {
    if (layer <= std::exchange(before, layer)) {
      throw UserError(fmt::format("its layers are {} and {}, which do not ascend", run.layer,
                                  fmt::join(run.higher_layers, ", ")));
    }
  }
}

void check_steps(const std::vector<StepRow>& steps) {
  std::int64_t previous = -1;
  for (const StepRow& row : steps) {
    if (row.step <= previous) {
      throw UserError(fmt::format("step {} follows step {} in /steps", row.step, previous));
    }
    if (row.epoch < 0 || row.sign < -1 || row.sign > 1) {
      throw UserError(
          fmt::format("step {} has epoch {} and sign {}", row.step, row.epoch, row.sign));
    }
    previous = row.step;
  }
}

// Throws UserError for a record that readers would reject.  The same rules apply to what is written
// and to what is read.
void check_record(const RunRecord& record) {
  const RunAttributes& attributes = record.attributes;
  check_minimums<RunAttributes>(kRunAttributes, attributes);
  check_minimums<JobAttributes>(kJobAttributes, attributes);
  check_layers(attributes);
  if (!nlohmann::json::parse(attributes.config, nullptr, /*allow_exceptions=*/false).is_object()) {
    throw UserError("config is not a JSON object");
  }
  check_steps(record.steps);
  for (const EvalRow& row : record.evals) {
    if (row.step < 0 || row.epoch < 0) {
      throw UserError(fmt::format("a row of /evals has step {} and epoch {}", row.step, row.epoch));
    }
  }
  for (const EvalSampleRow& row : record.eval_samples) {
    if (row.step < 0 || row.epoch < 0 || row.pair < 0) {
      throw UserError(fmt::format("a row of /eval_samples has step {}, epoch {} and pair {}",
                                  row.step, row.epoch, row.pair));
    }
  }
  for (const SavedVector& saved : record.vectors) {
    if (saved.step < 0 || saved.epoch < 0) {
      throw UserError(fmt::format("a vector has step {} and epoch {}", saved.step, saved.epoch));
    }
    check_size("a vector", saved.value.size(), attributes);
    if (!std::isfinite(saved.factor)) {
      throw UserError(fmt::format("a vector's factor is {}", saved.factor));
    }
  }
  if (record.checkpoint.step < 0) {
    throw UserError(fmt::format("the checkpoint's step is {}", record.checkpoint.step));
  }
  for (const CheckpointPart& part : kCheckpointParts) {
    check_size(fmt::format("checkpoint {}", part.name), (record.checkpoint.*part.member).size(),
               attributes);
  }
}

void write_vectors(const Handle& file, const std::vector<SavedVector>& vectors,
                   const RunAttributes& run, bool has_factors) {
  std::vector<float> values;
  std::vector<std::int64_t> steps;
  std::vector<std::int32_t> epochs;
  std::vector<double> factors;
  for (const SavedVector& saved : vectors) {
    values.insert(values.end(), saved.value.begin(), saved.value.end());
    steps.push_back(saved.step);
    epochs.push_back(saved.epoch);
    factors.push_back(saved.factor);
  }
  const hsize_t count = vectors.size();
  const Handle group = hdf5::create_group(file, "vectors");
  const bool is_joint = !run.higher_layers.empty();
  hdf5::write_array(group, "value", vector_dims(count, run), values.data(),
                    {"hidden units", is_joint ? "saved vector, layer, hidden dimension"
                                              : "saved vector, hidden dimension"});
  if (is_joint) {
    const std::vector<std::int64_t> layers = steered_layers(run).blocks();
    hdf5::write_array(group, kLayer, {layers.size()}, layers.data(),
                      {"block, from 0, that is steered", "layer"});
  }
  hdf5::write_array(group, "step", {count}, steps.data(), {"optimiser steps done", "saved vector"});
  hdf5::write_array(group, "epoch", {count}, epochs.data(),
                    {"passes over the training pairs, from 0", "saved vector"});
  if (has_factors) {
    hdf5::write_array(group, kFactor, {count}, factors.data(),
                      {"1, a part of the value", "saved vector"});
  }
}

// Reads the layers above the run's lowest; leaves `run` as it is where there are none.
void read_layers(const Handle& file, RunAttributes& run) {
  const Handle group = hdf5::open_group(file, "vectors");
  if (!hdf5::has_link(group, kLayer)) {
    return;
  }
  std::vector<std::int64_t> layers = hdf5::read_array<std::int64_t>(group, kLayer, 1).values;
  if (layers.size() < 2 || layers.front() != run.layer) {
    throw UserError(fmt::format("/vectors is of the layers {}, but the lowest is {}",
                                fmt::join(layers, ", "), run.layer));
  }
  layers.erase(layers.begin());
  run.higher_layers = std::move(layers);
}

// Reads the numbers of one vector, or where `is_table` of several, and returns them without the
// dimension of layers.
hdf5::Array<float> read_numbers(const Handle& group, const char* name, const RunAttributes& run,
                                bool is_table) {
  const std::size_t layers = run.higher_layers.size() + 1;
  const std::size_t rank = (is_table ? 2 : 1) + (layers > 1 ? 1 : 0);
  hdf5::Array<float> array = hdf5::read_array<float>(group, name, rank);
  if (layers == 1) {
    return array;
  }
  const hsize_t hidden = array.dims.back();
  array.dims.pop_back();
  if (array.dims.back() != layers) {
    throw UserError(fmt::format("'{}' has {} rows for {} layers", name, array.dims.back(), layers));
  }
  array.dims.back() *= hidden;
  return array;
}

std::vector<SavedVector> read_vectors(const Handle& file, const RunAttributes& run) {
  const Handle group = hdf5::open_group(file, "vectors");
  const hdf5::Array<float> value = read_numbers(group, "value", run, /*is_table=*/true);
  const auto step = hdf5::read_array<std::int64_t>(group, "step", 1);
  const auto epoch = hdf5::read_array<std::int32_t>(group, "epoch", 1);
  if (step.dims[0] != value.dims[0] || epoch.dims[0] != value.dims[0]) {
    throw UserError(fmt::format("/vectors holds {} values, {} steps and {} epochs", value.dims[0],
                                step.dims[0], epoch.dims[0]));
  }
  hdf5::Array<double> factor;
  if (hdf5::has_link(group, kFactor)) {
    factor = hdf5::read_array<double>(group, kFactor, 1);
    if (factor.dims[0] != value.dims[0]) {
      throw UserError(
          fmt::format("/vectors holds {} values and {} factors", value.dims[0], factor.dims[0]));
    }
  }
  std::vector<SavedVector> vectors(value.dims[0]);
  for (std::size_t i = 0; i < vectors.size(); ++i) {
    const float* row = value.values.data() + i * value.dims[1];
    vectors[i] = {{row, row + value.dims[1]},
                  step.values[i],
                  epoch.values[i],
                  factor.values.empty() ? 1 : factor.values[i]};
  }
  return vectors;
}

void write_checkpoint(const Handle& file, const Checkpoint& checkpoint, const RunAttributes& run) {
  const Handle group = hdf5::create_group(file, "checkpoint");
  for (const CheckpointPart& part : kCheckpointParts) {
    const std::vector<float>& values = checkpoint.*part.member;
    hdf5::write_array(
        group, part.name, vector_dims(std::nullopt, run), values.data(),
        {part.units, run.higher_layers.empty() ? "hidden dimension" : "layer, hidden dimension"});
  }
  hdf5::write_array(group, "step", {}, &checkpoint.step, {"optimiser steps done"});
  hdf5::write_array(group, "seed", {}, &checkpoint.seed, {"1"});
  if (checkpoint.factor) {
    const LearnedFactor& factor = *checkpoint.factor;
    const std::vector<float> values{factor.value, factor.exp_avg, factor.exp_avg_sq};
    hdf5::write_array(group, kFactor, {values.size()}, values.data(),
                      {"1, nats, nats^2", "factor, exp_avg, exp_avg_sq"});
  }
}

Checkpoint read_checkpoint(const Handle& file, const RunAttributes& run) {
  const Handle group = hdf5::open_group(file, "checkpoint");
  Checkpoint checkpoint;
  for (const CheckpointPart& part : kCheckpointParts) {
    checkpoint.*part.member = read_numbers(group, part.name, run, /*is_table=*/false).values;
  }
  checkpoint.step = hdf5::read_array<std::int64_t>(group, "step", 0).values[0];
  checkpoint.seed = hdf5::read_array<std::uint64_t>(group, "seed", 0).values[0];
  if (hdf5::has_link(group, kFactor)) {
    const std::vector<float> values = hdf5::read_array<float>(group, kFactor, 1).values;
    if (values.size() != 3) {
      throw UserError(fmt::format("checkpoint factor has {} elements, not 3", values.size()));
    }
    checkpoint.factor = LearnedFactor{values[0], values[1], values[2]};
  }
  return checkpoint;
}

Handle record_in_memory(const RunRecord& record) {
  Handle file = hdf5::create_memory_file();
  hdf5::FileKind kind = kRunFileKind;
  kind.schema = record.attributes.site == Site::kBlock ? 1 : 2;
  hdf5::write_identity(file, kind);
  hdf5::write_attribute(file, "status", to_string(record.attributes.status));
  hdf5::write_attributes<RunAttributes>(file, kRunAttributes, record.attributes);
  hdf5::write_attributes<JobAttributes>(file, kJobAttributes, record.attributes);
  if (!record.attributes.verdict.empty()) {
    hdf5::write_attribute(file, kVerdict, record.attributes.verdict);
  }
  if (record.attributes.site != Site::kBlock) {
    hdf5::write_attribute(file, kSite, to_string(record.attributes.site));
  }
  hdf5::write_attributes_checksum(file);
  step_table().write(file, record.steps);
  eval_table().write(file, record.evals);
  eval_sample_table().write(file, record.eval_samples);
  if (const auto best = best_epoch(record.evals)) {
    hdf5::write_attribute(hdf5::open_dataset(file, "evals"), "best_epoch",
                          std::int64_t{best->epoch});
  }
  write_vectors(file, record.vectors, record.attributes, record.checkpoint.factor.has_value());
  write_checkpoint(file, record.checkpoint, record.attributes);
  return file;
}

// Every save writes the additions again.
RunAdditions read_additions(const Handle& file, const RunRecord& record) {
  constexpr hsize_t kMostBytes = hsize_t{64} << 20;
  const Handle ours = record_in_memory(record);
  const std::size_t our_bytes = hdf5::file_image(ours).size();
  if (hdf5::file_size(file) > our_bytes + kMostBytes) {
    throw hdf5::CannotKeep(fmt::format(
        "other programs added {} MiB to it, which every save would write again (at most {} MiB); "
        "move them to a file of their own",
        (hdf5::file_size(file) - our_bytes) >> 20, kMostBytes >> 20));
  }
  const Handle additions = hdf5::create_memory_file();
  if (hdf5::copy_additions(file, ours, additions) == 0) {
    return nullptr;
  }
  return std::make_shared<const std::vector<std::byte>>(hdf5::file_image(additions));
}

RunRecord read_record_to_continue(const Handle& file) {
  RunRecord record = read_run(file);
  record.additions = read_additions(file, record);
  return record;
}

const hdf5::Reading<RunRecord> kRun("run", kRunFileKind, read_run);
const hdf5::Reading<RunRecord> kRunToContinue("run to continue", kRunFileKind,
                                              read_record_to_continue);
const hdf5::Reading<RunStatus> kStatus("run status", kRunFileKind, read_status);

// Counted from 1, as people do: "1 to 3".
std::string epochs_text(const std::vector<SavedVector>& saved) {
  const auto [first, last] = std::minmax_element(
      saved.begin(), saved.end(),
      [](const auto& one, const auto& other) { return one.epoch < other.epoch; });
  return first->epoch == last->epoch ? fmt::format("{}", first->epoch + 1)
                                     : fmt::format("{} to {}", first->epoch + 1, last->epoch + 1);
}

// Returns the last of those that `is_meant` holds for: a run that was stopped within an epoch saved
// a vector there too, and the later one counts.
template <typename IsMeant>
const SavedVector* last_of(const std::vector<SavedVector>& saved, const IsMeant& is_meant) {
  const auto found = std::find_if(saved.rbegin(), saved.rend(), is_meant);
  return found == saved.rend() ? nullptr : &*found;
}

const SavedVector& best_of(const RunRecord& run, const std::string& file) {
  const auto best = best_epoch(run.evals);
  if (!best) {
    throw UserError(fmt::format(
        "{}: no epoch is the best, because held-out pairs were not evaluated with -1 and 1 times "
        "the vector; name an epoch instead ({}:epoch=N, N from {}), or train with --test and with "
        "-1 and 1 among the --multipliers",
        file, file, epochs_text(run.vectors)));
  }
  const SavedVector* found =
      last_of(run.vectors, [&](const SavedVector& vector) { return vector.step == best->step; });
  if (found == nullptr) {
    throw UserError(
        fmt::format("{}: holds no vector of its best epoch, {}; its vectors are of the epochs {}",
                    file, best->epoch + 1, epochs_text(run.vectors)));
  }
  return *found;
}

const SavedVector& choose(const RunRecord& run, const VectorSelection& selection,
                          const std::string& file) {
  const std::vector<SavedVector>& saved = run.vectors;
  if (saved.empty()) {
    throw UserError(fmt::format(
        "{}: holds no vector yet: one is saved at the end of each epoch; wait for it", file));
  }
  const SavedVector* found = nullptr;
  switch (selection.kind) {
    case VectorSelection::Kind::kResult:
      return saved.back();
    case VectorSelection::Kind::kLast:
      return *std::max_element(
          saved.begin(), saved.end(),
          [](const SavedVector& a, const SavedVector& b) { return a.step < b.step; });
    case VectorSelection::Kind::kBest:
      return best_of(run, file);
    case VectorSelection::Kind::kEpoch:
      found = last_of(
          saved, [&](const SavedVector& vector) { return vector.epoch + 1 == selection.epoch; });
      break;
  }
  if (found == nullptr) {
    throw UserError(fmt::format("{}: holds no vector of epoch {}; its epochs are {}", file,
                                selection.epoch, epochs_text(saved)));
  }
  return *found;
}

std::int32_t number_of_epochs(const std::vector<SavedVector>& saved) {
  std::int32_t last = -1;
  for (const SavedVector& vector : saved) {
    last = std::max(last, vector.epoch);
  }
  return last + 1;
}

// Naming the vector file of another program is a likely mistake.
bool is_other_format(const std::filesystem::path& path) {
  constexpr std::string_view kOtherFormats[] = {".pt", ".pth", ".safetensors", ".gguf"};
  std::error_code ignored;
  return std::find(std::begin(kOtherFormats), std::end(kOtherFormats), path.extension().string()) !=
             std::end(kOtherFormats) &&
         std::filesystem::is_regular_file(path, ignored);
}

}  // namespace

constexpr hdf5::FileKind kRunFileKind = {
    "a run file",   "train", nullptr,
    kRunFileSchema, "",      "; take an intact copy, or start anew with another file"};

std::string to_string(RunStatus status) {
  switch (status) {
    case RunStatus::kRunning:
      return "running";
    case RunStatus::kComplete:
      return "complete";
    case RunStatus::kInterrupted:
      return "interrupted";
    case RunStatus::kDiverged:
      return "diverged";
  }
  throw BugError(fmt::format("no run status has the number {}", static_cast<int>(status)));
}

std::string to_string(const VectorSelection& selection) {
  switch (selection.kind) {
    case VectorSelection::Kind::kResult:
      return "";
    case VectorSelection::Kind::kLast:
      return "last";
    case VectorSelection::Kind::kBest:
      return "best";
    case VectorSelection::Kind::kEpoch:
      return fmt::format("epoch={}", selection.epoch);
  }
  throw BugError(fmt::format("no selection has the number {}", static_cast<int>(selection.kind)));
}

RunRecord read_run(const Handle& file) {
  RunRecord record;
  record.attributes.status = read_status(file);
  record.attributes.verdict = read_optional_text(file, kVerdict);  // newer than the first version
  record.attributes.site = read_site(file);
  hdf5::read_attributes<RunAttributes>(file, kRunAttributes, record.attributes);
  hdf5::read_attributes<JobAttributes>(file, kJobAttributes, record.attributes);
  record.steps = step_table().read(file);
  record.evals = eval_table().read(file);
  if (hdf5::has_link(file, "eval_samples")) {
    record.eval_samples = eval_sample_table().read(file);
  }
  read_layers(file, record.attributes);
  record.vectors = read_vectors(file, record.attributes);
  record.checkpoint = read_checkpoint(file, record.attributes);
  check_record(record);
  return record;
}

bool write_run_file(const std::filesystem::path& path, const RunRecord& record,
                    const ReplaceGuard& may_replace, FileVersion* written) {
  try {
    check_record(record);
  } catch (const UserError& error) {
    throw BugError(fmt::format("refusing to write {}: {}", path.string(), error.what()));
  }
  const hdf5::ErrorPrintingOff quiet;
  const Handle file = record_in_memory(record);
  if (record.additions) {
    hdf5::copy_additions(hdf5::open_image(*record.additions), file, file);
  }
  return replace_file(path, hdf5::sealed_image(file), may_replace, written);
}

RunRecord read_run_file(const std::filesystem::path& path) {
  return kRun.from(path);
}

RunRecord read_run_to_continue(const std::filesystem::path& path) {
  return kRunToContinue.from(path);
}

RunStatus read_run_status(const std::filesystem::path& path) {
  return kStatus.from(path);
}

SteeredLayers steered_layers(const RunAttributes& run) {
  std::vector<std::int64_t> layers = {run.layer};
  layers.insert(layers.end(), run.higher_layers.begin(), run.higher_layers.end());
  return SteeredLayers(std::move(layers)).at(run.site);
}

std::vector<StoredVector> read_stored_vectors(const std::filesystem::path& run_file,
                                              const VectorSelection& selection) {
  RunRecord run;
  try {
    run = read_run_file(run_file);
  } catch (const UserError&) {
    if (!is_other_format(run_file)) {
      throw;
    }
    throw UserError(
        fmt::format("{}: is not a run file, and vectors are read from run files only; `bipo-dist "
                    "import {} --layer L --out run.h5` makes one of a vector in another format",
                    run_file.string(), run_file.string()));
  }
  const SavedVector& chosen = choose(run, selection, run_file.string());
  if (!std::all_of(chosen.value.begin(), chosen.value.end(),
                   [](float value) { return std::isfinite(value); })) {
    throw UserError(fmt::format("{}: its vector holds NaN or infinity", run_file.string()));
  }
  std::vector<StoredVector> vectors;
  auto part = chosen.value.begin();
  for (const std::int64_t layer : steered_layers(run.attributes).blocks()) {
    const auto end = part + run.attributes.hidden_size;
    vectors.push_back({std::vector<float>(part, end), layer, chosen.step, chosen.epoch,
                       run.attributes.model, run.attributes.config, run.attributes.status,
                       selection, number_of_epochs(run.vectors), run.attributes.site});
    part = end;
  }
  return vectors;
}

StoredVector read_stored_vector(const std::filesystem::path& run_file,
                                const VectorSelection& selection) {
  std::vector<StoredVector> vectors = read_stored_vectors(run_file, selection);
  if (vectors.size() > 1) {
    // What is imported is added to the output of a block.
    const std::string made_by =
        vectors.front().site == Site::kBlock
            ? fmt::format(
                  ", which `bipo-dist export --layer {} --format safetensors` and `bipo-dist "
                  "import` make of it",
                  vectors.back().layer)
            : "";
    throw UserError(fmt::format(
        "{}: holds a vector for each of {} layers, from {} to {}, that were trained jointly; here "
        "one layer's is needed: name a run of one layer{}",
        run_file.string(), vectors.size(), vectors.front().layer, vectors.back().layer, made_by));
  }
  return std::move(vectors.front());
}

std::string epoch_text(const StoredVector& vector) {
  if (vector.step == 0) {
    return "";
  }
  return fmt::format("epoch {} of {}{}", vector.epoch + 1, vector.epochs,
                     vector.selection.kind == VectorSelection::Kind::kBest ? ", the best" : "");
}

std::optional<std::string> unfinished_warning(const std::filesystem::path& run_file,
                                              const StoredVector& vector) {
  if (vector.status == RunStatus::kComplete) {
    return std::nullopt;
  }
  return fmt::format("{}: its run is not complete (status {}); its vector is that of step {}",
                     run_file.string(), to_string(vector.status), vector.step);
}

}  // namespace bipo
