// The one step from which all members of a pack continue, in a file of its own.
#include "experiments/sweeps/pack_checkpoint.hpp"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "collectives/foundation/errors.hpp"
#include "experiments/files/hdf5.hpp"
#include "experiments/runs/run_file.hpp"

namespace bipo {
namespace {

using hdf5::Handle;

constexpr const char* kFactors = "factor";  // of packs that learn some; others lack it
constexpr const char* kRemedy = "; remove it, and the pack's cells start again";
constexpr hdf5::FileKind kFile = {"a pack's checkpoint", nullptr, nullptr,
                                  kPackCheckpointSchema, kRemedy, kRemedy};

void require_one_shape(const PackCheckpoint& checkpoint) {
  if (checkpoint.members.empty() || checkpoint.names.size() != checkpoint.members.size()) {
    throw BugError(fmt::format("a pack's checkpoint with {} names and {} states",
                               checkpoint.names.size(), checkpoint.members.size()));
  }
  const Checkpoint& first = checkpoint.members.front();
  for (const Checkpoint& member : checkpoint.members) {
    if (member.step != first.step) {
      throw BugError(
          fmt::format("a pack's checkpoint of the steps {} and {}", first.step, member.step));
    }
    for (const CheckpointPart& part : kCheckpointParts) {
      if ((member.*part.member).size() != first.vector.size()) {
        throw BugError(fmt::format("a pack's checkpoint with {} of {} elements beside {}",
                                   part.name, (member.*part.member).size(), first.vector.size()));
      }
    }
  }
}

void write_part(const Handle& file, const CheckpointPart& part,
                const std::vector<Checkpoint>& members) {
  std::vector<float> values;
  for (const Checkpoint& member : members) {
    const std::vector<float>& row = member.*part.member;
    values.insert(values.end(), row.begin(), row.end());
  }
  const hsize_t count = members.size();
  hdf5::write_array(file, part.name, {count, values.size() / count}, values.data(),
                    {part.units, "member, hidden dimension"});
}

// Members without a learned factor have NaN.
void write_factors(const Handle& file, const std::vector<Checkpoint>& members) {
  std::vector<float> values;
  bool is_any_learned = false;
  for (const Checkpoint& member : members) {
    constexpr float kNone = std::numeric_limits<float>::quiet_NaN();
    const LearnedFactor factor = member.factor.value_or(LearnedFactor{kNone, kNone, kNone});
    values.insert(values.end(), {factor.value, factor.exp_avg, factor.exp_avg_sq});
    is_any_learned = is_any_learned || member.factor;
  }
  if (is_any_learned) {
    hdf5::write_array(file, kFactors, {members.size(), 3}, values.data(),
                      {"1, nats, nats^2", "member, factor and its moments"});
  }
}

void read_factors(const Handle& file, std::vector<Checkpoint>& members) {
  if (!hdf5::has_link(file, kFactors)) {
    return;
  }
  const auto array = hdf5::read_array<float>(file, kFactors, 2);
  if (array.dims[0] != members.size() || array.dims[1] != 3) {
    throw UserError(fmt::format("'{}' has {} x {} elements for {} members", kFactors, array.dims[0],
                                array.dims[1], members.size()));
  }
  for (std::size_t i = 0; i < members.size(); ++i) {
    const float* row = array.values.data() + 3 * i;
    if (!std::isnan(row[0])) {
      members[i].factor = LearnedFactor{row[0], row[1], row[2]};
    }
  }
}

std::vector<std::string> read_names(const Handle& file) {
  const auto names = nlohmann::json::parse(hdf5::read_text_attribute(file, "members"), nullptr,
                                           /*allow_exceptions=*/false);
  std::vector<std::string> result;
  for (const auto& name : names) {
    if (!name.is_string()) {
      throw UserError("its members are not names");
    }
    result.push_back(name.get<std::string>());
  }
  return result;
}

void read_part(const Handle& file, const CheckpointPart& part, std::vector<Checkpoint>& members) {
  const auto array = hdf5::read_array<float>(file, part.name, 2);
  if (array.dims[0] != members.size()) {
    throw UserError(
        fmt::format("'{}' has {} rows for {} members", part.name, array.dims[0], members.size()));
  }
  const auto hidden = static_cast<std::ptrdiff_t>(array.dims[1]);
  auto row = array.values.begin();
  for (Checkpoint& member : members) {
    (member.*part.member).assign(row, row + hidden);
    row += hidden;
  }
}

PackCheckpoint read_checkpoint(const Handle& file) {
  PackCheckpoint checkpoint;
  checkpoint.names = read_names(file);
  const auto step = hdf5::read_array<std::int64_t>(file, "step", 0).values[0];
  const auto seeds = hdf5::read_array<std::uint64_t>(file, "seed", 1).values;
  if (step < 0 || seeds.empty() || seeds.size() != checkpoint.names.size()) {
    throw UserError(fmt::format("it holds step {}, {} names and {} seeds", step,
                                checkpoint.names.size(), seeds.size()));
  }
  for (const std::uint64_t seed : seeds) {
    Checkpoint member;
    member.step = step;
    member.seed = seed;
    checkpoint.members.push_back(member);
  }
  for (const CheckpointPart& part : kCheckpointParts) {
    read_part(file, part, checkpoint.members);
  }
  read_factors(file, checkpoint.members);
  const Checkpoint& first = checkpoint.members.front();
  if (first.exp_avg.size() != first.vector.size() ||
      first.exp_avg_sq.size() != first.vector.size()) {
    throw UserError(fmt::format("its vectors have {} elements, their moments {} and {}",
                                first.vector.size(), first.exp_avg.size(),
                                first.exp_avg_sq.size()));
  }
  return checkpoint;
}

const hdf5::Reading<PackCheckpoint> kReading("pack checkpoint", kFile, read_checkpoint);

}  // namespace

bool write_pack_checkpoint(const std::filesystem::path& path, const PackCheckpoint& checkpoint,
                           const ReplaceGuard& may_replace) {
  require_one_shape(checkpoint);
  const hdf5::ErrorPrintingOff quiet;
  const Handle file = hdf5::create_memory_file();
  hdf5::write_identity(file, kFile);
  hdf5::write_attribute(file, "members", nlohmann::json(checkpoint.names).dump());
  hdf5::write_attributes_checksum(file);
  hdf5::write_array(file, "step", {}, &checkpoint.members.front().step, {"optimiser steps done"});
  std::vector<std::uint64_t> seeds;
  for (const Checkpoint& member : checkpoint.members) {
    seeds.push_back(member.seed);
  }
  hdf5::write_array(file, "seed", {seeds.size()}, seeds.data(), {"1"});
  for (const CheckpointPart& part : kCheckpointParts) {
    write_part(file, part, checkpoint.members);
  }
  write_factors(file, checkpoint.members);
  return replace_file(path, hdf5::sealed_image(file), may_replace);
}

PackCheckpoint read_pack_checkpoint(const std::filesystem::path& path) {
  return kReading.from(path);
}

void rewind_to(const Checkpoint& checkpoint, TrainingRecord& record) {
  if (record.checkpoint.step < checkpoint.step) {
    throw BugError(fmt::format("rewinding a record of {} steps to step {}", record.checkpoint.step,
                               checkpoint.step));
  }
  std::erase_if(record.steps, [&](const StepRow& row) { return row.step >= checkpoint.step; });
  std::erase_if(record.evals, [&](const EvalRow& row) { return row.step > checkpoint.step; });
  std::erase_if(record.eval_samples,
                [&](const EvalSampleRow& row) { return row.step > checkpoint.step; });
  std::erase_if(record.vectors,
                [&](const SavedVector& saved) { return saved.step > checkpoint.step; });
  record.checkpoint = checkpoint;
}

}  // namespace bipo
