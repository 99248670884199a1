// The run file: log, checkpoint and result of one training run in one HDF5 file.
#include "experiments/runs/run_file.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <system_error>

#include "collectives/foundation/errors.hpp"
#include "experiments/files/atomic_file.hpp"
#include "experiments/files/hdf5.hpp"
#include "experiments/files/readable_file.hpp"

namespace bipo {
namespace {

using hdf5::Column;
using hdf5::Handle;
using hdf5::Scalar;

std::vector<Column> step_columns() {
  return {
      {"step", offsetof(StepRow, step), Scalar::kInt64, "1", "optimiser step, from 0"},
      {"epoch", offsetof(StepRow, epoch), Scalar::kInt32, "1",
       "pass over the training pairs, from 0"},
      {"lr", offsetof(StepRow, lr), Scalar::kFloat64, "absolute", "learning rate of this step"},
      {"loss", offsetof(StepRow, loss), Scalar::kFloat64, "nats",
       "mean over the batch, before the update"},
      {"margin", offsetof(StepRow, margin), Scalar::kFloat64, "nats", "mean of sign*beta*delta"},
      {"accuracy", offsetof(StepRow, accuracy), Scalar::kFloat64, "share",
       "pairs with sign*delta > 0"},
      {"sign", offsetof(StepRow, sign), Scalar::kInt8, "1",
       "+1 or -1; 0 where the step has no single sign"},
      {"grad_norm", offsetof(StepRow, grad_norm), Scalar::kFloat64, "nats per hidden unit",
       "Euclidean norm of the gradient, before clipping"},
      {"vector_norm", offsetof(StepRow, vector_norm), Scalar::kFloat64, "hidden units",
       "Euclidean norm of the vector, after the update"},
      {"tokens", offsetof(StepRow, tokens), Scalar::kFloat64, "tokens",
       "rows of the packed micro-batches through the suffix"},
      {"seconds", offsetof(StepRow, seconds), Scalar::kFloat64, "s", "wall time of the step"},
  };
}

std::vector<Column> eval_columns() {
  return {
      {"step", offsetof(EvalRow, step), Scalar::kInt64, "1", "optimiser steps done"},
      {"epoch", offsetof(EvalRow, epoch), Scalar::kInt32, "1",
       "pass over the training pairs, from 0"},
      {"multiplier", offsetof(EvalRow, multiplier), Scalar::kFloat64, "1", "factor on the vector"},
      {"pairs", offsetof(EvalRow, pairs), Scalar::kFloat64, "pairs", "held-out pairs evaluated"},
      {"loss", offsetof(EvalRow, loss), Scalar::kFloat64, "nats",
       "mean of -log sigmoid(beta*delta)"},
      {"margin", offsetof(EvalRow, margin), Scalar::kFloat64, "nats", "mean of beta*delta"},
      {"accuracy", offsetof(EvalRow, accuracy), Scalar::kFloat64, "share",
       "pairs whose chosen answer is likelier than the rejected one"},
      {"chosen_logp", offsetof(EvalRow, chosen_logp), Scalar::kFloat64, "nats",
       "mean log-probability of the chosen answer"},
      {"rejected_logp", offsetof(EvalRow, rejected_logp), Scalar::kFloat64, "nats",
       "mean log-probability of the rejected answer"},
  };
}

// JSON object: column -> unit and meaning.
std::string describe(const std::vector<Column>& columns) {
  nlohmann::ordered_json units;
  for (const Column& column : columns) {
    units[column.name] = {{"unit", column.unit}, {"meaning", column.meaning}};
  }
  return units.dump();
}

struct IntegerAttribute {
  const char* name;
  std::int64_t RunAttributes::*member;
  std::int64_t minimum;
};

constexpr IntegerAttribute kIntegerAttributes[] = {
    {"layer", &RunAttributes::layer, 0},
    {"hidden_size", &RunAttributes::hidden_size, 1},
    {"world_size", &RunAttributes::world_size, 1},
    {"dp", &RunAttributes::dp, 1},
    {"tp", &RunAttributes::tp, 1},
};

struct TextAttribute {
  const char* name;
  std::string RunAttributes::*member;
};

constexpr TextAttribute kTextAttributes[] = {
    {"config", &RunAttributes::config},
    {"program_version", &RunAttributes::program_version},
    {"git_commit", &RunAttributes::git_commit},
    {"created_utc", &RunAttributes::created_utc},
    {"model", &RunAttributes::model},
    {"backend", &RunAttributes::backend},
    {"dtype", &RunAttributes::dtype},
    {"hosts", &RunAttributes::hosts},
};

constexpr RunStatus kStatuses[] = {RunStatus::kRunning, RunStatus::kComplete,
                                   RunStatus::kInterrupted};

RunStatus status_of(const std::string& text) {
  for (const RunStatus status : kStatuses) {
    if (text == to_string(status)) {
      return status;
    }
  }
  throw UserError(
      fmt::format("attribute 'status' is '{}', not running, complete or interrupted", text));
}

using Defect = std::optional<std::string>;

Defect attribute_defect(const RunAttributes& attributes) {
  for (const IntegerAttribute& attribute : kIntegerAttributes) {
    const std::int64_t value = attributes.*attribute.member;
    if (value < attribute.minimum) {
      return fmt::format("{} is {}, must be at least {}", attribute.name, value, attribute.minimum);
    }
  }
  const auto config = nlohmann::json::parse(attributes.config, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) {
    return "config is not a JSON object";
  }
  return std::nullopt;
}

Defect step_defect(const std::vector<StepRow>& steps) {
  std::int64_t previous = -1;
  for (const StepRow& row : steps) {
    if (row.step <= previous) {
      return fmt::format("step {} follows step {} in /steps", row.step, previous);
    }
    if (row.epoch < 0 || row.sign < -1 || row.sign > 1) {
      return fmt::format("step {} has epoch {} and sign {}", row.step, row.epoch, row.sign);
    }
    previous = row.step;
  }
  return std::nullopt;
}

Defect eval_defect(const std::vector<EvalRow>& evals) {
  for (const EvalRow& row : evals) {
    if (row.step < 0 || row.epoch < 0) {
      return fmt::format("a row of /evals has step {} and epoch {}", row.step, row.epoch);
    }
  }
  return std::nullopt;
}

Defect size_defect(std::string_view what, std::size_t size, std::int64_t hidden_size) {
  if (size != static_cast<std::size_t>(hidden_size)) {
    return fmt::format("{} has {} elements, hidden_size is {}", what, size, hidden_size);
  }
  return std::nullopt;
}

Defect vector_defect(const RunRecord& record) {
  const std::int64_t hidden_size = record.attributes.hidden_size;
  for (const SavedVector& saved : record.vectors) {
    if (saved.step < 0 || saved.epoch < 0) {
      return fmt::format("a vector has step {} and epoch {}", saved.step, saved.epoch);
    }
    if (const Defect defect = size_defect("a vector", saved.value.size(), hidden_size)) {
      return defect;
    }
  }
  return std::nullopt;
}

Defect checkpoint_defect(const Checkpoint& checkpoint, std::int64_t hidden_size) {
  if (checkpoint.step < 0) {
    return fmt::format("the checkpoint's step is {}", checkpoint.step);
  }
  if (const Defect defect =
          size_defect("checkpoint vector", checkpoint.vector.size(), hidden_size)) {
    return defect;
  }
  if (const Defect defect =
          size_defect("checkpoint exp_avg", checkpoint.exp_avg.size(), hidden_size)) {
    return defect;
  }
  return size_defect("checkpoint exp_avg_sq", checkpoint.exp_avg_sq.size(), hidden_size);
}

// What a reader would stumble over; the same rules hold for what we write and for what we read.
Defect find_defect(const RunRecord& record) {
  if (const Defect defect = attribute_defect(record.attributes)) {
    return defect;
  }
  if (const Defect defect = step_defect(record.steps)) {
    return defect;
  }
  if (const Defect defect = eval_defect(record.evals)) {
    return defect;
  }
  if (const Defect defect = vector_defect(record)) {
    return defect;
  }
  return checkpoint_defect(record.checkpoint, record.attributes.hidden_size);
}

void write_attributes(const Handle& file, const RunAttributes& attributes) {
  hdf5::write_attribute(file, "schema_version", kRunFileSchema);
  hdf5::write_attribute(file, "status", to_string(attributes.status));
  for (const IntegerAttribute& attribute : kIntegerAttributes) {
    hdf5::write_attribute(file, attribute.name, attributes.*attribute.member);
  }
  for (const TextAttribute& attribute : kTextAttributes) {
    hdf5::write_attribute(file, attribute.name, attributes.*attribute.member);
  }
}

template <typename Row>
void write_table(const Handle& file, const std::string& name, const std::vector<Column>& columns,
                 const std::vector<Row>& rows) {
  const Handle table =
      hdf5::write_table(file, name, columns, sizeof(Row), rows.data(), rows.size());
  hdf5::write_attribute(table, "units", describe(columns));
}

void write_vectors(const Handle& file, const std::vector<SavedVector>& vectors,
                   std::int64_t hidden_size) {
  std::vector<float> values;
  std::vector<std::int64_t> steps;
  std::vector<std::int32_t> epochs;
  for (const SavedVector& saved : vectors) {
    values.insert(values.end(), saved.value.begin(), saved.value.end());
    steps.push_back(saved.step);
    epochs.push_back(saved.epoch);
  }
  const hsize_t count = vectors.size();
  const Handle group = hdf5::create_group(file, "vectors");
  const Handle value = hdf5::write_array(group, "value", Scalar::kFloat32,
                                         {count, static_cast<hsize_t>(hidden_size)}, values.data());
  hdf5::write_attribute(value, "units", "hidden units");
  hdf5::write_attribute(value, "dims", "saved vector, hidden dimension");
  const Handle step = hdf5::write_array(group, "step", Scalar::kInt64, {count}, steps.data());
  hdf5::write_attribute(step, "units", "optimiser steps done");
  hdf5::write_attribute(step, "dims", "saved vector");
  const Handle epoch = hdf5::write_array(group, "epoch", Scalar::kInt32, {count}, epochs.data());
  hdf5::write_attribute(epoch, "units", "passes over the training pairs, from 0");
  hdf5::write_attribute(epoch, "dims", "saved vector");
}

void write_hidden(const Handle& group, const char* name, const std::vector<float>& values,
                  const char* units) {
  const Handle dataset =
      hdf5::write_array(group, name, Scalar::kFloat32, {values.size()}, values.data());
  hdf5::write_attribute(dataset, "units", units);
  hdf5::write_attribute(dataset, "dims", "hidden dimension");
}

void write_checkpoint(const Handle& file, const Checkpoint& checkpoint) {
  const Handle group = hdf5::create_group(file, "checkpoint");
  write_hidden(group, "vector", checkpoint.vector, "hidden units");
  write_hidden(group, "exp_avg", checkpoint.exp_avg, "nats per hidden unit");
  write_hidden(group, "exp_avg_sq", checkpoint.exp_avg_sq, "nats^2 per hidden unit^2");
  const Handle step = hdf5::write_array(group, "step", Scalar::kInt64, {}, &checkpoint.step);
  hdf5::write_attribute(step, "units", "optimiser steps done");
  const Handle seed = hdf5::write_array(group, "seed", Scalar::kUint64, {}, &checkpoint.seed);
  hdf5::write_attribute(seed, "units", "1");
}

void require_readable_schema(const Handle& file) {
  const std::int64_t schema = hdf5::read_integer_attribute(file, "schema_version");
  if (schema > kRunFileSchema) {
    throw UserError(fmt::format(
        "its schema_version is {}, and this program reads up to {}; use a newer bipo-dist", schema,
        kRunFileSchema));
  }
  if (schema < 1) {
    throw UserError(fmt::format("its schema_version is {}, the first is 1", schema));
  }
}

RunAttributes read_attributes(const Handle& file) {
  RunAttributes attributes;
  attributes.status = status_of(hdf5::read_text_attribute(file, "status"));
  for (const IntegerAttribute& attribute : kIntegerAttributes) {
    attributes.*attribute.member = hdf5::read_integer_attribute(file, attribute.name);
  }
  for (const TextAttribute& attribute : kTextAttributes) {
    attributes.*attribute.member = hdf5::read_text_attribute(file, attribute.name);
  }
  return attributes;
}

std::vector<SavedVector> read_vectors(const Handle& file) {
  const Handle group = hdf5::open_group(file, "vectors");
  const auto value = hdf5::read_array<float>(group, "value", Scalar::kFloat32, 2);
  const auto step = hdf5::read_array<std::int64_t>(group, "step", Scalar::kInt64, 1);
  const auto epoch = hdf5::read_array<std::int32_t>(group, "epoch", Scalar::kInt32, 1);
  if (step.dims[0] != value.dims[0] || epoch.dims[0] != value.dims[0]) {
    throw UserError(fmt::format("/vectors holds {} values, {} steps and {} epochs", value.dims[0],
                                step.dims[0], epoch.dims[0]));
  }
  std::vector<SavedVector> vectors(value.dims[0]);
  for (std::size_t i = 0; i < vectors.size(); ++i) {
    const float* row = value.values.data() + i * value.dims[1];
    vectors[i] = {{row, row + value.dims[1]}, step.values[i], epoch.values[i]};
  }
  return vectors;
}

Checkpoint read_checkpoint(const Handle& file) {
  const Handle group = hdf5::open_group(file, "checkpoint");
  Checkpoint checkpoint;
  checkpoint.vector = hdf5::read_array<float>(group, "vector", Scalar::kFloat32, 1).values;
  checkpoint.exp_avg = hdf5::read_array<float>(group, "exp_avg", Scalar::kFloat32, 1).values;
  checkpoint.exp_avg_sq = hdf5::read_array<float>(group, "exp_avg_sq", Scalar::kFloat32, 1).values;
  checkpoint.step = hdf5::read_array<std::int64_t>(group, "step", Scalar::kInt64, 0).values[0];
  checkpoint.seed = hdf5::read_array<std::uint64_t>(group, "seed", Scalar::kUint64, 0).values[0];
  return checkpoint;
}

RunRecord read_record(const std::filesystem::path& path) {
  const Handle file = hdf5::open_file(path.string());
  require_readable_schema(file);
  RunRecord record;
  record.attributes = read_attributes(file);
  record.steps = hdf5::read_table<StepRow>(file, "steps", step_columns());
  record.evals = hdf5::read_table<EvalRow>(file, "evals", eval_columns());
  record.vectors = read_vectors(file);
  record.checkpoint = read_checkpoint(file);
  if (const Defect defect = find_defect(record)) {
    throw UserError(*defect);
  }
  return record;
}

RunStatus read_status(const std::filesystem::path& path) {
  const Handle file = hdf5::open_file(path.string());
  require_readable_schema(file);
  return status_of(hdf5::read_text_attribute(file, "status"));
}

}  // namespace

std::string to_string(RunStatus status) {
  switch (status) {
    case RunStatus::kRunning:
      return "running";
    case RunStatus::kComplete:
      return "complete";
    case RunStatus::kInterrupted:
      return "interrupted";
  }
  throw BugError(fmt::format("no run status has the number {}", static_cast<int>(status)));
}

bool write_run_file(const std::filesystem::path& path, const RunRecord& record,
                    const ReplaceGuard& may_replace) {
  if (const Defect defect = find_defect(record)) {
    throw BugError(fmt::format("refusing to write {}: {}", path.string(), *defect));
  }
  const hdf5::ErrorPrintingOff quiet;
  const Handle file = hdf5::create_memory_file();
  write_attributes(file, record.attributes);
  write_table(file, "steps", step_columns(), record.steps);
  write_table(file, "evals", eval_columns(), record.evals);
  write_vectors(file, record.vectors, record.attributes.hidden_size);
  write_checkpoint(file, record.checkpoint);
  return replace_file(path, hdf5::file_image(file), may_replace);
}

namespace {

// What `read` takes from the file.  Throws UserError, naming the file and what to do.
template <typename Read>
auto read_run(const std::filesystem::path& path, Read read) {
  require_readable_file(path, "a run file", "train");
  const hdf5::ErrorPrintingOff quiet;
  try {
    return read(path);
  } catch (const UserError& error) {
    throw UserError(
        fmt::format("{}: not a run file of bipo-dist, or not one this program can read: {}",
                    path.string(), error.what()));
  } catch (const EnvironmentError& error) {
    throw UserError(
        fmt::format("{}: damaged, or not an HDF5 file: {}; take an intact copy, or start anew "
                    "with another file",
                    path.string(), error.what()));
  }
}

}  // namespace

RunRecord read_run_file(const std::filesystem::path& path) {
  return read_run(path, read_record);
}

RunStatus read_run_status(const std::filesystem::path& path) {
  return read_run(path, read_status);
}

void check_writable(const std::filesystem::path& path) {
  check_replaceable(path);
}

void remove_stale_temp_files(const std::filesystem::path& path) {
  remove_stale_temps(path);
}

}  // namespace bipo
